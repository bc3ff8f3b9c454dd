package conn_test

import (
	"io"
	"testing"

	"github.com/moorage-dev/moorage/session"
)

// Bytes over directly coupled roles: what Conn and roles cost without a network.
func BenchmarkBytes(b *testing.B) {
	for _, bb := range []struct {
		name  string
		write int
	}{{"64KiB", 64 << 10}, {"4KiB", 4 << 10}, {"64B", 64}} {
		b.Run(bb.name, func(b *testing.B) {
			p := newPath(session.DefaultWindow).accept()
			defer p.close()
			go func() {
				buf := make([]byte, 64<<10)
				for {
					if _, err := p.far.Read(buf); err != nil {
						return
					}
				}
			}()
			buf := make([]byte, bb.write)
			b.SetBytes(int64(bb.write))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.near.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			_ = p.near.Close()
			_ = p.far.Close()
		})
	}
}

// A message there and back: every hop wakes the next.
func BenchmarkRoundTrip(b *testing.B) {
	p := newPath(session.DefaultWindow).accept()
	defer p.close()
	go func() { _, _ = io.Copy(p.far, p.far) }()
	buf := make([]byte, 256)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.near.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(p.near, buf); err != nil {
			b.Fatal(err)
		}
	}
	_ = p.near.Close()
	_ = p.far.Close()
}
