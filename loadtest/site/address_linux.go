package site

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports are chosen below those of outgoing connections (32768 and up), so that
// none of these can sit on a process's port while it is down, and below those
// that package broker chooses from.
const (
	lowPort  = 10000
	highPort = 18000
)

// freeAddress returns an address of a host on which nobody listens. Somebody
// may before it is used: the start then says so.
func freeAddress(ip string) (string, error) {
	for range 200 {
		address := net.JoinHostPort(ip, strconv.Itoa(lowPort+rand.IntN(highPort-lowPort)))
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue // taken; that is what the look was for
		}
		if err := l.Close(); err != nil {
			return "", err
		}
		return address, nil
	}
	return "", errors.New("site: no free port between 10000 and 18000 on " + ip + ": end what listens there")
}
