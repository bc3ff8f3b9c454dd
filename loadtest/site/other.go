//go:build !linux

package site

import (
	"context"
	"errors"
)

var errNotLinux = errors.New("site: load tests need Linux: processes are started, measured and broken through its /proc, signals and namespaces")

// Start needs Linux.
func Start(context.Context, Config) (Site, error) { return nil, errNotLinux }

// Isolate needs Linux.
func Isolate(Config) error { return errNotLinux }
