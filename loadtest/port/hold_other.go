//go:build !linux

package port

import (
	"net"
	"net/netip"
)

// hold looks whether the address is free. It holds nothing: what a bound socket
// keeps others from differs between systems.
func hold(a netip.AddrPort) (release func(), err error) {
	l, err := net.Listen("tcp", a.String())
	if err != nil {
		return nil, err
	}
	return func() {}, l.Close()
}
