//go:build unix

package gateway

import (
	"io"
	"net"
	"testing"

	"google.golang.org/grpc/mem"
)

// countingPool knows how many of its buffers are out.
type countingPool struct{ out int }

func (p *countingPool) Get(size int) *[]byte { p.out++; b := make([]byte, size); return &b }
func (p *countingPool) Put(*[]byte)          { p.out-- }

func TestReadOnReadyKeepsNoBuffer(t *testing.T) {
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	lis := new(conns).bound(raw, 1, newMetrics(new(Gateway)))
	far, err := net.Dial("tcp", raw.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	reader, ok := near.(interface {
		ReadOnReady(size int, pool mem.BufferPool) (*[]byte, int, error)
	})
	if !ok {
		t.Fatalf("%T is not asked by gRPC for ReadOnReady", near)
	}
	pool := new(countingPool)
	if _, err := far.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf, n, err := reader.ReadOnReady(64, pool)
	if err != nil || string((*buf)[:n]) != "hello" || pool.out != 1 {
		t.Fatalf("read %d bytes, %v, %d buffers out; want hello in one", n, err, pool.out)
	}
	pool.Put(buf)
	far.Close()
	if _, _, err := reader.ReadOnReady(64, pool); err != io.EOF || pool.out != 0 {
		t.Errorf("at the end: %v, %d buffers out; want EOF and none", err, pool.out)
	}
}
