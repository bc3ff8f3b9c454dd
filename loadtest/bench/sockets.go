package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"
)

// tunnelController is the controller whose place a connector takes.
const tunnelController = "bench-tunnel"

// sockets measures moorage as its users have it: bytes from socket to socket,
// through shim, gateway, Kafka and connector. Relay has no such thing; rows
// tunnel1 and tunnel16 compare the two.
func sockets(n int) func(context.Context, *running) (figures, error) {
	return func(ctx context.Context, r *running) (figures, error) {
		if r.system != &moorage {
			return nil, nil
		}
		b := r.bench
		out, err := exec.CommandContext(ctx, b.moorage, "topics", "create", "--kafka", b.kafka,
			"--controller", tunnelController, "--single-broker").CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("topics create: %w: %s", err, out)
		}
		up, err := newService(func(c net.Conn, count *atomic.Uint64) { drain(c, count) })
		if err != nil {
			return nil, err
		}
		defer up.close()
		down, err := newService(func(c net.Conn, _ *atomic.Uint64) { fill(c) })
		if err != nil {
			return nil, err
		}
		defer down.close()
		connector, err := start(ctx, b.moorage, "connector", "--kafka", b.kafka, "--controller", tunnelController,
			"--single-broker", "--service", "up="+up.addr(), "--service", "down="+down.addr(), "--log-level", "error")
		if err != nil {
			return nil, err
		}
		defer connector.stop()
		upPort, downPort, err := twoAddrs()
		if err != nil {
			return nil, err
		}
		shim, err := start(ctx, b.moorage, "shim", "--gateway", r.addr, "--controller", tunnelController, "--agent", "bench",
			"--insecure", "--forward", upPort+"=up", "--forward", downPort+"=down", "--log-level", "error")
		if err != nil {
			return nil, err
		}
		defer shim.stop()
		if err := up.reachable(ctx, upPort); err != nil {
			return nil, err
		}
		f := figures{}
		err = dialAll(upPort, n, func(c net.Conn) { fill(c) }, func() {
			f["up MB/s"] = b.rate(ctx, up.bytes.Load) / 1e6
		})
		if err != nil {
			return nil, err
		}
		var taken atomic.Uint64
		err = dialAll(downPort, n, func(c net.Conn) { drain(c, &taken) }, func() {
			f["down MB/s"] = b.rate(ctx, taken.Load) / 1e6
		})
		if err != nil {
			return nil, err
		}
		tcp, err := direct(ctx, b, n)
		f["direct TCP MB/s"] = tcp / 1e6
		if f["up MB/s"] == 0 || f["down MB/s"] == 0 {
			return nil, errors.Join(err, errors.New("no bytes came through the tunnel"))
		}
		return f, err
	}
}

// fill writes until the connection ends.
func fill(c net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

// drain reads and counts until the connection ends.
func drain(c net.Conn, count *atomic.Uint64) {
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		count.Add(uint64(n))
		if err != nil {
			return
		}
	}
}

// dialAll opens n connections, gives each to use, and closes all when measure is done.
func dialAll(addr string, n int, use func(net.Conn), measure func()) error {
	var (
		wg    sync.WaitGroup
		conns []net.Conn
		fault error
	)
	for range n {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			fault = err
			break
		}
		conns = append(conns, c)
		wg.Go(func() { use(c) })
	}
	if fault == nil {
		measure()
	}
	for _, c := range conns {
		c.Close()
	}
	wg.Wait()
	return fault
}

// A service is a TCP server beside the connector.
type service struct {
	lis   net.Listener
	bytes atomic.Uint64
	wg    sync.WaitGroup

	mu    sync.Mutex // guards conns
	conns []net.Conn
}

func newService(serve func(net.Conn, *atomic.Uint64)) (*service, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &service{lis: lis}
	s.wg.Go(func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			s.wg.Go(func() {
				defer c.Close()
				serve(c, &s.bytes)
			})
		}
	})
	return s, nil
}

// reachable waits until a byte arrives that was written to the near end of the
// tunnel. Until the connector is there, connections belong to its predecessor
// and end with it.
func (s *service) reachable(ctx context.Context, near string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := waitListening(ctx, near); err != nil {
		return err
	}
	for s.bytes.Load() == 0 {
		if ctx.Err() != nil {
			return errors.New("nothing comes through the tunnel")
		}
		c, err := net.Dial("tcp", near)
		if err != nil {
			return err
		}
		c.Write([]byte{0}) // a failure shows as silence
		rest(ctx, 200*time.Millisecond)
		c.Close()
	}
	return nil
}

func (s *service) addr() string { return s.lis.Addr().String() }

func (s *service) close() {
	s.lis.Close()
	s.mu.Lock()
	for _, c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func twoAddrs() (a, b string, err error) {
	if a, err = freeAddr(); err != nil {
		return
	}
	b, err = freeAddr()
	return
}
