package main

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// direct is what loopback TCP carries from one socket to another without
// anything between, in bytes per second: what a tunnel can at best approach.
func direct(ctx context.Context, b *bench, connections int) (float64, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	ctx, stop := context.WithCancel(ctx)
	var (
		wg    sync.WaitGroup
		taken atomic.Uint64
		errs  []error
	)
	closeAll := func(c io.Closer) { context.AfterFunc(ctx, func() { c.Close() }) }
	closeAll(lis)
	for range connections {
		conn, err := net.Dial("tcp", lis.Addr().String())
		if err != nil {
			errs = append(errs, err)
			break
		}
		far, err := lis.Accept()
		if err != nil {
			errs = append(errs, err, conn.Close())
			break
		}
		closeAll(conn)
		closeAll(far)
		wg.Go(func() { fill(conn) })
		wg.Go(func() { drain(far, &taken) })
	}
	rate := b.rate(ctx, taken.Load)
	stop()
	wg.Wait()
	return rate, errors.Join(errs...)
}
