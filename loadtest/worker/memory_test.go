package worker

import (
	"cmp"
	"context"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// A memory is a transport within a process, for both sides, with as many
// faults as a test wants. Its zero value is a good one.
type memory struct {
	// window is how many messages may be sent and not received, each way; 0: 64.
	window int
	// spoil turns each message that a side sends into what arrives; nil: itself.
	// It may keep what it is given.
	spoil func(key string, up bool, payload []byte) [][]byte
	// deaf is the key of a session of which the application receives nothing.
	deaf string
	// slow is how long a Send takes.
	slow time.Duration
	// notice is when the application learns of an agent's death; 0: after a
	// second, less: never.
	notice time.Duration
	// refuse makes an Open fail; nil: none does.
	refuse func(key string) error

	mu       sync.Mutex // guards the following
	changed  chan struct{}
	arrivals []arrival
	pairs    map[string]*pair
	stalled  bool // nothing arrives
	cuts     [][]string
	closed   bool
}

type arrival struct {
	key string
	s   Session
}

// A pair is a session. Its memory's lock guards it.
type pair struct {
	m      *memory
	key    string
	queues [2][][]byte // by who receives: agent, application
	fin    [2]bool     // by who sent it
	closed [2]bool
	dead   [2]bool
	reason string // why it ended otherwise than in order; "": it did not
}

// wait waits for a change. m.mu is held.
func (m *memory) wait(ctx context.Context) error {
	if m.changed == nil {
		m.changed = make(chan struct{})
	}
	changed := m.changed
	m.mu.Unlock()
	defer m.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (m *memory) change() {
	if m.changed != nil {
		close(m.changed)
		m.changed = nil
	}
}

func (m *memory) stall(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stalled = on
	m.change()
}

// underWay is how many messages to the application have not been received.
func (m *memory) underWay(key string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.pairs[key].queues[1])
}

// end ends every session with a reason.
func (m *memory) end(reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.pairs {
		p.reason = reason
	}
	m.change()
}

func (m *memory) Agents(context.Context, *Plan) (Agents, error)           { return memoryAgents{m}, nil }
func (m *memory) Application(context.Context, *Plan) (Application, error) { return memoryApp{m}, nil }

type memoryAgents struct{ m *memory }

func (a memoryAgents) Open(_ context.Context, key, _ string) (Session, error) {
	if a.m.refuse != nil {
		if err := a.m.refuse(key); err != nil {
			return nil, err
		}
	}
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	p := &pair{m: a.m, key: key}
	if a.m.pairs == nil {
		a.m.pairs = map[string]*pair{}
	}
	a.m.pairs[key] = p
	a.m.arrivals = append(a.m.arrivals, arrival{key, memoryEnd{p, 1}})
	a.m.change()
	return memoryEnd{p, 0}, nil
}

func (a memoryAgents) Cut(which func(string) bool) {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	var keys []string
	for key := range a.m.pairs {
		if which == nil || which(key) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	a.m.cuts = append(a.m.cuts, keys)
}

func (a memoryAgents) Close() error { return nil }

type memoryApp struct{ m *memory }

func (a memoryApp) Accept(ctx context.Context) (string, Session, error) {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	for len(a.m.arrivals) == 0 {
		if a.m.closed {
			return "", nil, net.ErrClosed
		}
		if err := a.m.wait(ctx); err != nil {
			return "", nil, err
		}
	}
	next := a.m.arrivals[0]
	a.m.arrivals = a.m.arrivals[1:]
	return next.key, next.s, nil
}

func (a memoryApp) Close() error {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	a.m.closed = true
	a.m.change()
	return nil
}

// A memoryEnd is one end: 0 is the agent's.
type memoryEnd struct {
	p    *pair
	side int
}

func (e memoryEnd) Send(ctx context.Context, payload []byte) error {
	p, m := e.p, e.p.m
	time.Sleep(m.slow)
	m.mu.Lock()
	defer m.mu.Unlock()
	window := m.window
	if window == 0 {
		window = 64
	}
	for {
		if err := e.err(); err != nil {
			return err
		}
		if len(p.queues[1-e.side]) < window {
			break
		}
		if err := m.wait(ctx); err != nil {
			return err
		}
	}
	arrive := [][]byte{slices.Clone(payload)}
	if m.spoil != nil {
		arrive = m.spoil(p.key, e.side == 0, arrive[0])
	}
	p.queues[1-e.side] = append(p.queues[1-e.side], arrive...)
	m.change()
	return nil
}

func (e memoryEnd) Receive(ctx context.Context) ([]byte, error) {
	p, m := e.p, e.p.m
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		if err := e.err(); err != nil {
			return nil, err
		}
		if q := p.queues[e.side]; e.side == 1 && p.key == m.deaf {
			// It waits.
		} else if len(q) > 0 && !m.stalled {
			p.queues[e.side] = q[1:]
			m.change()
			return q[0], nil
		} else if len(q) == 0 && (p.fin[1-e.side] || p.closed[1-e.side]) && !m.stalled {
			return nil, io.EOF
		}
		if err := m.wait(ctx); err != nil {
			return nil, err
		}
	}
}

// err says why the end is of no use any more. The memory's lock is held.
func (e memoryEnd) err() error {
	switch {
	case e.p.dead[e.side] || e.p.closed[e.side]:
		return net.ErrClosed
	case e.p.reason != "":
		return &EndedError{e.p.reason}
	}
	return nil
}

func (e memoryEnd) CloseSend() error {
	e.p.m.mu.Lock()
	defer e.p.m.mu.Unlock()
	e.p.fin[e.side] = true
	e.p.m.change()
	return nil
}

func (e memoryEnd) Close() error {
	e.p.m.mu.Lock()
	defer e.p.m.mu.Unlock()
	e.p.closed[e.side] = true
	e.p.m.change()
	if e.p.reason != "" {
		return &EndedError{e.p.reason}
	}
	return nil
}

// Kill is noticed by the other end later, if at all.
func (e memoryEnd) Kill() {
	m := e.p.m
	m.mu.Lock()
	defer m.mu.Unlock()
	e.p.dead[e.side] = true
	m.change()
	if e.side == 0 && m.notice >= 0 {
		time.AfterFunc(cmp.Or(m.notice, time.Second), func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			e.p.reason = "GRACE"
			m.change()
		})
	}
}
