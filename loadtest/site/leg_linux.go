package site

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
)

const (
	// depth is how many chunks (of up to 32 KiB, of small messages as large as
	// these) a direction of a connection holds, such as while latency lasts.
	// When it is full, the sender's side is not read.
	depth = 128
	// dialWithin bounds the connection to the real address.
	dialWithin = 5 * time.Second
	// strikeWithin bounds how long a fault waits for connections that are
	// blocked by their receivers. It strikes these when they move again.
	strikeWithin = 2 * time.Second
)

// An origin says where a connection through a proxy comes from and leads to.
type origin struct {
	leg     string // agent-gateway, gateway-kafka or app-kafka
	gateway int    // from 1; 0: none
	broker  int    // from 1; 0: none
}

// legs are proxies in the ways between processes. The toxics are toxiproxy's.
// The proxy around them is not: its one cannot reset a connection, dials
// without limit, and leaks what was on its way when a connection is cut.
//
// Of several faults on a connection the newest counts; when it ends, the one
// before it does. But what is in a hole stays there until the hole ends: bytes
// are missing already, and no network goes on behind a gap.
type legs struct {
	log *slog.Logger

	mu        sync.Mutex // guards the following
	listeners []net.Listener
	pairs     map[*pair]struct{}
	faults    []*legFault // in the order in which they came
	closed    bool

	wg sync.WaitGroup
}

// A legFault is a fault while it lasts.
type legFault struct {
	match  func(origin) bool
	toxic  *toxics.ToxicWrapper // nil: new connections are closed at once
	holes  bool                 // bytes were swallowed: what it struck ends with it
	struck map[*pair]struct{}   // of holes
}

func newLegs(log *slog.Logger) *legs {
	return &legs{log: log, pairs: map[*pair]struct{}{}}
}

// open puts a proxy on a listener before upstream, until close. from tells
// who has come.
func (l *legs) open(listener net.Listener, upstream string, from func(net.Conn) origin) {
	l.mu.Lock()
	l.listeners = append(l.listeners, listener)
	l.mu.Unlock()
	l.wg.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				if errors.Is(err, net.ErrClosed) {
					return
				}
				// Files have run out, say: what comes then is tried again by its sender.
				l.log.Warn("site: a proxy cannot accept", "address", listener.Addr().String(), "err", err)
				time.Sleep(acceptPause)
				continue
			}
			l.wg.Go(func() { l.carry(client.(*net.TCPConn), upstream, from) })
		}
	})
}

// acceptPause keeps a proxy without files from taking a processor.
const acceptPause = 50 * time.Millisecond

// carry is one connection's life.
func (l *legs) carry(client *net.TCPConn, upstream string, from func(net.Conn) origin) {
	defer client.Close()
	o := from(client)
	raw, err := net.DialTimeout("tcp", upstream, dialWithin)
	if err != nil {
		_ = client.SetLinger(0) // like the refusal that it would have met
		return
	}
	server := raw.(*net.TCPConn)
	defer server.Close()
	p := &pair{origin: o, client: client, server: server}
	if !l.join(p) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { p.pump(&p.up, client, server) })
	both.Go(func() { p.pump(&p.down, server, client) })
	both.Wait()
	l.mu.Lock()
	delete(l.pairs, p)
	l.mu.Unlock()
}

// join lets a pair begin under the faults of now; false: it may not.
func (l *legs) join(p *pair) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	w, refused := l.toxicOf(p)
	if l.closed || refused {
		return false
	}
	l.pairs[p] = struct{}{}
	p.up.begin(w)
	p.down.begin(w)
	return true
}

// toxicOf returns what a pair must suffer now. Called with the lock held.
func (l *legs) toxicOf(p *pair) (w *toxics.ToxicWrapper, refused bool) {
	var newest, hole *legFault
	for _, f := range l.faults {
		if f.match(p.origin) {
			newest = f
			if f.holes {
				hole = f
			}
		}
	}
	switch {
	case newest == nil:
		return noToxic, false
	case newest.toxic == nil:
		return noToxic, true
	case hole != nil:
		hole.struck[p] = struct{}{}
		return hole.toxic, false
	}
	return newest.toxic, false
}

// strike begins a fault; a nil toxic closes all connections and lets none in.
// It returns how many it met.
func (l *legs) strike(f *legFault, reset bool) (met int, undo func()) {
	f.struck = map[*pair]struct{}{}
	l.mu.Lock()
	l.faults = append(l.faults, f)
	l.mu.Unlock()
	met = l.apply(f.match, func(p *pair) bool {
		if f.toxic == nil {
			p.cut(reset)
		}
		return f.toxic == nil
	})
	return met, sync.OnceFunc(func() {
		l.mu.Lock()
		l.faults = slices.DeleteFunc(l.faults, func(g *legFault) bool { return g == f })
		l.mu.Unlock()
		l.apply(f.match, func(p *pair) bool {
			_, hit := f.struck[p]
			if hit {
				p.cut(false) // bytes are missing in it
			}
			return false // the hole must let go of it
		})
	})
}

// apply gives all matching pairs the toxic that now is theirs, but those for
// which instead does something else.
func (l *legs) apply(match func(origin) bool, instead func(*pair) bool) (met int) {
	var changed sync.WaitGroup
	l.mu.Lock()
	for p := range l.pairs {
		if !match(p.origin) {
			continue
		}
		met++
		if instead(p) {
			continue
		}
		w, _ := l.toxicOf(p)
		for _, d := range []*direction{&p.up, &p.down} {
			d.want(w)
			changed.Add(1)
			l.wg.Go(func() {
				defer changed.Done()
				d.settle()
			})
		}
	}
	l.mu.Unlock()
	all := make(chan struct{})
	l.wg.Go(func() {
		changed.Wait()
		close(all)
	})
	late := time.NewTimer(strikeWithin)
	defer late.Stop()
	select {
	case <-all:
	case <-late.C:
		l.log.Info("site: some connections are blocked by their receivers; a fault strikes them when they move again")
	}
	return met
}

// cutNow closes all matching connections, by RST if reset.
func (l *legs) cutNow(match func(origin) bool, reset bool) (met int) {
	return l.apply(match, func(p *pair) bool {
		p.cut(reset)
		return true
	})
}

// close ends all proxies and connections, and waits for them.
func (l *legs) close() {
	l.mu.Lock()
	l.closed = true
	l.faults = nil
	for _, listener := range l.listeners {
		listener.Close()
	}
	l.mu.Unlock()
	l.apply(func(origin) bool { return true }, func(p *pair) bool {
		p.cut(false)
		return false // a toxic may hold what is left
	})
	l.wg.Wait()
}

// A pair is a connection and its continuation.
type pair struct {
	origin
	client, server *net.TCPConn
	up, down       direction
}

// cut closes both ends, by RST if reset: what is under way is lost then.
func (p *pair) cut(reset bool) {
	for _, c := range []*net.TCPConn{p.client, p.server} {
		if reset {
			_ = c.SetLinger(0) // it fails only for one that is closed
		}
		c.Close()
	}
}

// pump carries one direction to its end. An end in order is passed on alone;
// any other ends both directions.
func (p *pair) pump(d *direction, from, to *net.TCPConn) {
	var read sync.WaitGroup
	read.Go(func() {
		in := stream.NewChanWriter(d.in)
		if _, err := io.Copy(struct{ io.Writer }{in}, struct{ io.Reader }{from}); err != nil {
			p.cut(false)
		}
		in.Close()
	})
	for chunk := range d.out {
		if _, err := to.Write(chunk.Data); err != nil {
			p.cut(false)
			for range d.out {
				// What is left must go somewhere, or the toxic would never end.
			}
			break
		}
	}
	read.Wait()
	_ = to.CloseWrite() // it fails only for one that is closed
}

// A direction is a toxic between two channels.
type direction struct {
	in, out chan *stream.StreamChunk
	stub    *toxics.ToxicStub

	turn sync.Mutex // held by who changes the toxic

	mu   sync.Mutex           // guards the following
	next *toxics.ToxicWrapper // what is wanted
	now  *toxics.ToxicWrapper // what runs
}

func (d *direction) begin(w *toxics.ToxicWrapper) {
	d.in, d.out = make(chan *stream.StreamChunk, depth), make(chan *stream.StreamChunk)
	d.stub = toxics.NewToxicStub(d.in, d.out)
	d.now, d.next = w, w
	go d.stub.Run(w) // ends with the direction, of which out's end tells
}

func (d *direction) want(w *toxics.ToxicWrapper) {
	d.mu.Lock()
	d.next = w
	d.mu.Unlock()
}

// settle has what is wanted run. It waits for as long as the receiver blocks.
func (d *direction) settle() {
	d.turn.Lock()
	defer d.turn.Unlock()
	for {
		d.mu.Lock()
		w, same := d.next, d.next == d.now
		d.now = w
		d.mu.Unlock()
		if same || !d.stub.InterruptToxic() {
			return
		}
		go d.stub.Run(w)
	}
}
