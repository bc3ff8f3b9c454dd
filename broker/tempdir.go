//go:build unix

package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const tempPrefix = "moorage-kafka-"

// A tempDir is a folder that goes with its owner. A lock tells that the owner
// lives; one that was killed leaves the folder to the next who makes one.
type tempDir struct {
	path string
	lock *os.File
}

func newTempDir() (*tempDir, error) {
	sweepTempDirs()
	path, err := os.MkdirTemp("", tempPrefix)
	if err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	lock, err := os.Open(path)
	if err == nil {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		return nil, fmt.Errorf("broker: lock %s: %w", path, err)
	}
	return &tempDir{path, lock}, nil
}

// remove frees the folder. What can't be removed is a temporary file, the
// system's to clean.
func (d *tempDir) remove() {
	if d == nil {
		return
	}
	_ = os.RemoveAll(d.path)
	_ = d.lock.Close()
}

// sweepTempDirs removes what dead owners left. Fresh folders may be between
// their making and their locking.
func sweepTempDirs() {
	found, _ := filepath.Glob(filepath.Join(os.TempDir(), tempPrefix+"*")) // fails only on a bad pattern
	for _, path := range found {
		info, err := os.Stat(path)
		if err != nil || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		lock, err := os.Open(path)
		if err != nil {
			continue // somebody else's
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			_ = os.RemoveAll(path)
		}
		_ = lock.Close()
	}
}
