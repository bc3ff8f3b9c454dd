//go:build !unix

package tunnel

// A readiness is for systems where one can wait without a buffer.
type readiness struct{}

// await leaves waiting to the read.
func await(TCP) {}

func newReadiness(TCP) *readiness { return nil }

func (*readiness) read() (buf *[chunk]byte, n int, err error) { panic("tunnel: no readiness here") }
