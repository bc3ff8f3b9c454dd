// Package port finds addresses for processes that are yet to be started, and
// to be started again there after a kill.
package port

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
)

// Ports are chosen below those of outgoing connections (32768 and up), so that
// none of these can sit on a process's port while it is down, and below those
// that package broker chooses from.
const (
	low  = 10000
	high = 18000
)

// Reserve returns an address of a host, given by its IP address, on which
// nobody listens, and keeps it from all other callers on this machine, those
// of other processes included, until it is released: by release, or by the end
// of this process. Whoever is told the address may listen there meanwhile, as
// often as it likes, if it sets SO_REUSEADDR, as Go and Java do.
func Reserve(ip string) (address string, release func(), err error) {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return "", nil, fmt.Errorf("port: %w", err)
	}
	for range 1000 {
		a := netip.AddrPortFrom(addr, uint16(low+rand.IntN(high-low)))
		if release, err = hold(a); err == nil {
			return a.String(), release, nil
		}
	}
	return "", nil, fmt.Errorf("port: none of %s between %d and %d is free: end what listens there (%w)", ip, low, high, err)
}
