package site

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// diskSize is what a broker's small disk holds, in bytes.
const diskSize = 512 << 20

// A disk is a small tmpfs that can be filled.
type disk struct{ dir string }

// mountDisk makes one, in mounts of this process's own: they go with it,
// however it ends.
func mountDisk(dir string) (*disk, error) {
	if os.Getenv(isolatedVar) == "" {
		return nil, errors.New("site: a small disk needs mounts of the harness's own: Isolate comes first")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("site: small disk: %w", err)
	}
	if err := unix.Mount("moorage-loadtest", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", diskSize)); err != nil {
		return nil, fmt.Errorf("site: fault disk-full needs a small tmpfs for a broker's data, which cannot be mounted at %s (%w): run as root, or leave the fault out", dir, err)
	}
	return &disk{dir}, nil
}

func (d *disk) unmount() error {
	// A broker that died hard may hold it for a moment more.
	if err := unix.Unmount(d.dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("site: small disk at %s is left behind, umount it: %w", d.dir, err)
	}
	return nil
}

// fill leaves no byte free; free gives them back.
func (d *disk) fill() (free func() error, err error) {
	name := filepath.Join(d.dir, "filler")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("site: fill disk: %w", err)
	}
	free = func() error { return os.Remove(name) }
	block := make([]byte, 1<<20)
	for len(block) > 0 && err == nil {
		if _, err = f.Write(block); errors.Is(err, syscall.ENOSPC) {
			block, err = block[:len(block)/2], nil
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("site: fill disk: %w", err), free())
	}
	return free, nil
}
