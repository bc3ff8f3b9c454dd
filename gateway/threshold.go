package gateway

import (
	"net"
	"sync"

	"google.golang.org/grpc/peer"
)

// A threshold counts, per address, the streams that have not yet proved who
// they are. So nobody can take all places from one address without a
// credential, for longer than it takes to say Hello.
type threshold struct {
	mu      sync.Mutex
	waiting map[string]int
}

// enter takes a place for a stream from p, which leave gives back.
func (t *threshold) enter(p *peer.Peer, most int) (leave func(), err error) {
	if p == nil || p.Addr == nil {
		return func() {}, nil
	}
	addr, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil {
		return func() {}, nil // not a network of hosts
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting == nil {
		t.waiting = make(map[string]int)
	}
	if t.waiting[addr] >= most {
		return nil, errCrowd
	}
	t.waiting[addr]++
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.waiting[addr]--; t.waiting[addr] == 0 {
			delete(t.waiting, addr)
		}
	}), nil
}
