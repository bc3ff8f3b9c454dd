// Package spool keeps long lists on disk.
//
// A load test notes something of every process in every second. In memory that
// would make the coordinator grow as long as it runs, and it is one of the
// processes that a soak says must not.
package spool

import (
	"bufio"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
)

// A List is values in the order in which they were added. In memory it takes
// one buffer, however long it becomes; on disk it is bounded by the disk alone,
// and Add fails when that is full. It is not safe for concurrent use.
//
// Values travel by package gob: what is empty comes back as nil.
type List[T any] struct {
	file  *os.File
	out   *bufio.Writer
	words *gob.Encoder
	n     int
}

// New returns an empty list. Its file is in dir; "": where temporary files are.
// Where a file may be removed while it is open, as on Unix, it has no name from
// the start, and is gone with the process, however that ends.
func New[T any](dir string) (*List[T], error) {
	file, err := os.CreateTemp(dir, "spool-*")
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	_ = os.Remove(file.Name()) // else Close does
	out := bufio.NewWriter(file)
	return &List[T]{file: file, out: out, words: gob.NewEncoder(out)}, nil
}

// Add appends a value.
func (l *List[T]) Add(v T) error {
	if err := l.words.Encode(v); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	l.n++
	return nil
}

// All reads the whole list back.
func (l *List[T]) All() ([]T, error) {
	if err := l.out.Flush(); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	info, err := l.file.Stat()
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	words := gob.NewDecoder(bufio.NewReader(io.NewSectionReader(l.file, 0, info.Size())))
	all := make([]T, l.n)
	for i := range all {
		if err := words.Decode(&all[i]); err != nil {
			return all[:i], fmt.Errorf("spool: value %d of %d: %w", i+1, l.n, err)
		}
	}
	return all, nil
}

// Close forgets the list.
func (l *List[T]) Close() error {
	err := l.file.Close()
	if gone := os.Remove(l.file.Name()); gone != nil && !errors.Is(gone, os.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return err
}
