package door

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"net"

	"github.com/pires/go-proxyproto"

	"github.com/moorage-dev/moorage/remoting"
)

// mostProxyV1 is the longest PROXY v1 header there may be, its end included.
const mostProxyV1 = 107

// unknownFarEnd is who comes through a balancer that does not say for whom it
// speaks. It is no address of this host.
var unknownFarEnd = &net.TCPAddr{IP: net.IPv6unspecified}

// takeProxyHeader reads the PROXY header in front of a connection, and nothing
// behind it. A header that names no addresses, as a balancer's own check sends,
// makes the far end unknown: the connection's address is the balancer's, and one
// on this host would pass for an agent of this host.
func (l *line) takeProxyHeader() error {
	var (
		header *proxyproto.Header
		size   int
	)
	err := l.look(mostProxyHeader, func(p []byte) error {
		n, err := proxyHeaderSize(p)
		if err != nil {
			return err
		}
		header, err = proxyproto.Read(bufio.NewReader(bytes.NewReader(p[:n])))
		size = n
		return err
	})
	if err != nil {
		return fmt.Errorf("door: PROXY header: %w", err)
	}
	if err := l.skip(size); err != nil {
		return fmt.Errorf("door: PROXY header: %w", err)
	}
	l.remote = unknownFarEnd
	if from, to, ok := header.TCPAddrs(); ok && !header.Command.IsLocal() {
		l.remote, l.local = from, to
	}
	return nil
}

// proxyHeaderSize returns how long the header is that p begins with.
// remoting.ErrShort: that cannot be told yet, or it is not all there.
func proxyHeaderSize(p []byte) (int, error) {
	const frontV1, frontV2, fixedV2 = "PROXY ", "\r\n\r\n\x00\r\nQUIT\n", 16
	size := 0
	switch {
	case startsLike(p, frontV1):
		if len(p) < len(frontV1) {
			return 0, remoting.ErrShort
		}
		end := bytes.Index(p[:min(len(p), mostProxyV1)], []byte("\r\n"))
		if end < 0 && len(p) < mostProxyV1 {
			return 0, remoting.ErrShort
		}
		if end < 0 {
			return 0, errTooLong
		}
		return end + 2, nil
	case startsLike(p, frontV2):
		if len(p) < fixedV2 {
			return 0, remoting.ErrShort
		}
		size = fixedV2 + int(binary.BigEndian.Uint16(p[14:]))
	default:
		return 0, errNoHeader
	}
	switch {
	case size > mostProxyHeader:
		return 0, errTooLong
	case size > len(p):
		return 0, remoting.ErrShort
	}
	return size, nil
}

// startsLike reports whether p can become something that starts with front.
func startsLike(p []byte, front string) bool {
	n := min(len(p), len(front))
	return string(p[:n]) == front[:n]
}
