package shim

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
)

// Rotated is a log file of bounded size: when it is full it becomes FILE.1,
// what was that FILE.2, and so on. It is safe for concurrent use.
//
// Write never fails: an agent must not stand still for its log. What cannot be
// written is lost, and Failed says so.
type Rotated struct {
	file  string
	bytes int64
	keep  int

	mu     sync.Mutex // guards the following
	f      *os.File   // nil: it could not be opened; the next write tries again
	size   int64
	failed error
}

// OpenRotated opens a log that grows up to so many bytes and is kept with up
// to keep older ones beside it.
func OpenRotated(file string, bytes int64, keep int) (*Rotated, error) {
	r := &Rotated{file: file, bytes: bytes, keep: keep}
	return r, r.open()
}

func (r *Rotated) open() error {
	f, err := os.OpenFile(r.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close() // nothing was written
		return err
	}
	r.f, r.size = f, info.Size()
	return nil
}

// Write implements io.Writer. A piece larger than the bound is cut, at the end of
// a line where one ends in time.
func (r *Rotated) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for rest := p; len(rest) > 0; {
		piece := rest
		if most := max(r.bytes, 1); int64(len(piece)) > most {
			piece = piece[:most]
			if end := bytes.LastIndexByte(piece, '\n'); end >= 0 {
				piece = piece[:end+1]
			}
		}
		r.writeLocked(piece)
		rest = rest[len(piece):]
	}
	return len(p), nil
}

func (r *Rotated) writeLocked(p []byte) {
	if r.f != nil && r.size > 0 && r.size+int64(len(p)) > r.bytes {
		r.note(r.rotate())
	}
	if r.f == nil {
		r.note(r.open())
	}
	if r.f != nil {
		n, err := r.f.Write(p)
		r.size += int64(n)
		r.note(err)
	}
}

func (r *Rotated) rotate() error {
	err := r.f.Close()
	r.f = nil
	if r.keep == 0 {
		return errors.Join(err, os.Remove(r.file))
	}
	for n := r.keep - 1; n >= 0; n-- {
		from := r.name(n)
		if e := os.Rename(from, r.name(n+1)); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

func (r *Rotated) name(n int) string {
	if n == 0 {
		return r.file
	}
	return fmt.Sprintf("%s.%d", r.file, n)
}

func (r *Rotated) note(err error) {
	if r.failed == nil {
		r.failed = err
	}
}

// Failed returns the first error, if there was one.
func (r *Rotated) Failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// Close closes the file.
func (r *Rotated) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.f == nil {
		return nil
	}
	f := r.f
	r.f = nil
	return f.Close()
}
