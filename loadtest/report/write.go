package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"

	"github.com/moorage-dev/moorage/loadtest/results"
)

// Names of the files in a run's directory.
const (
	ResultsFile = "results.json"
	PageFile    = "report.html"
	EventsFile  = "events.ndjson"
)

// Write leaves results.json and report.html in dir, which it makes if need be.
// Each is there in full or not at all. The results come first: the page can be
// made from them again.
func Write(dir string, r *results.Results) error {
	if r.Version == 0 {
		r.Version = results.Version
	}
	finite(r)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return cannotWrite(dir, err)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", " ")
	if err := e.Encode(r); err != nil {
		return cannotWrite(filepath.Join(dir, ResultsFile), err)
	}
	if err := replace(filepath.Join(dir, ResultsFile), b.Bytes()); err != nil {
		return err
	}
	b.Reset()
	if err := HTML(&b, r); err != nil {
		return cannotWrite(filepath.Join(dir, PageFile), err)
	}
	return replace(filepath.Join(dir, PageFile), b.Bytes())
}

// Open reads the results of a run's directory.
func Open(dir string) (*results.Results, error) {
	path := filepath.Join(dir, ResultsFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("report: %s has no %s: give the --out directory of a finished `moorage loadtest run`", dir, ResultsFile)
	}
	if err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	r := new(results.Results)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("report: %s is damaged: %w", path, err)
	}
	if r.Version != results.Version {
		return nil, fmt.Errorf("report: %s has version %d of the format, this moorage reads %d: use the moorage that made it", path, r.Version, results.Version)
	}
	return r, nil
}

// replace writes a file beside the old one and then takes its place, so that no
// reader sees half of it, and a full disk leaves the old one.
func replace(path string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return cannotWrite(path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(content); err != nil {
		return cannotWrite(path, err)
	}
	if err := f.Chmod(0o644); err != nil {
		return cannotWrite(path, err)
	}
	if err := f.Sync(); err != nil {
		return cannotWrite(path, err)
	}
	if err := f.Close(); err != nil {
		return cannotWrite(path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return cannotWrite(path, err)
	}
	return nil
}

func cannotWrite(path string, err error) error {
	// The path that a *fs.PathError has may be that of the temporary file.
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	return fmt.Errorf("report: cannot write %s: %w: make room, or choose another directory with --out", path, err)
}

// finite drops what JSON has no word for. A quotient of nothing by nothing must
// not cost the results of an hour.
func finite(r *results.Results) {
	strange := func(_ string, v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) }
	for i := range r.Runs {
		run := &r.Runs[i]
		maps.DeleteFunc(run.Figures, strange)
		for j := range run.Ticks {
			maps.DeleteFunc(run.Ticks[j].Extra, strange)
		}
	}
}
