package shim

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// knowledge is what was last known of a controller.
type knowledge struct {
	jenkins *linkv1.Jenkins // never nil, never changed
	at      time.Time
}

func (k *knowledge) same(j *linkv1.Jenkins) bool {
	return k != nil && proto.Equal(k.jenkins, j)
}

// A store keeps it in a file, so that an agent's look-up is answered by a shim
// that was started while no gateway can be reached.
type store struct {
	file       string
	controller string
}

// stored is the file's content.
type stored struct {
	Controller string          `json:"controller"`
	At         time.Time       `json:"at"` // of the last change, not of the last look
	Jenkins    json.RawMessage `json:"jenkins"`
}

// mostStored bounds the file; an identity and a few names take one KiB.
const mostStored = 64 << 10

// read returns nil when there is no file yet.
func (s *store) read() (*knowledge, error) {
	f, err := os.Open(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, mostStored))
	if err != nil {
		return nil, err
	}
	var content stored
	if err := json.Unmarshal(data, &content); err != nil {
		return nil, fmt.Errorf("%s: %w", s.file, err)
	}
	if content.Controller != s.controller {
		return nil, fmt.Errorf("%s speaks of controller %q", s.file, content.Controller)
	}
	jenkins := new(linkv1.Jenkins)
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(content.Jenkins, jenkins); err != nil {
		return nil, fmt.Errorf("%s: %w", s.file, err)
	}
	return &knowledge{jenkins, content.At}, nil
}

// write replaces the file as a whole: whoever reads sees the old one or the new one.
func (s *store) write(k *knowledge) error {
	jenkins, err := protojson.Marshal(k.jenkins)
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(stored{s.controller, k.at.UTC(), jenkins}, "", "  ")
	if err != nil {
		return err
	}
	dir := filepath.Dir(s.file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, filepath.Base(s.file)+".*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), s.file)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // what is left would never be read
	}
	return err
}

// StateFile returns the file within dir that belongs to a controller and an
// agent, whose name may be anything.
func StateFile(dir, controller, agent string) string {
	name := url.PathEscape(agent)
	if len(name) > 100 {
		sum := sha256.Sum256([]byte(agent))
		name = hex.EncodeToString(sum[:16])
	}
	return filepath.Join(dir, "shim-"+controller+"-"+name+".json")
}
