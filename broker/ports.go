//go:build unix

package broker

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports are chosen below the range from which Linux takes the ports of
// outgoing connections (32768 and up), so that none of those can sit on a
// node's port while the node is down.
const (
	lowPort  = 18000
	highPort = 32000
)

// freePorts chooses n distinct ports of a host on which nobody listens. Somebody may
// before they are used: then the start is tried again with others.
func freePorts(host string, n int) ([]int, error) {
	ports := make([]int, 0, n)
	held := make([]net.Listener, 0, n)
	defer func() {
		for _, l := range held {
			l.Close()
		}
	}()
	for range 100 * n {
		if len(ports) == n {
			return ports, nil
		}
		port := lowPort + rand.IntN(highPort-lowPort)
		l, err := net.Listen("tcp", address(host, port))
		if err != nil {
			continue // taken; that is what the look was for
		}
		held = append(held, l)
		ports = append(ports, port)
	}
	return nil, fmt.Errorf("broker: no free port on %s", host)
}

func address(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
