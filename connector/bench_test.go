package connector

import (
	"context"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/moorage-dev/moorage/controller"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
)

// A crowd is many sessions through one connector, all attached and idle.
type crowd struct {
	agents  []*net.TCPConn
	jenkins []*agentConn
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

// newCrowd opens n sessions and waits until all stand.
func newCrowd(t testing.TB, c *connector, j *fakeJenkins, n int, i controller.Info) *crowd {
	t.Helper()
	cr := new(crowd)
	ctx, cancel := context.WithCancel(context.Background())
	cr.cancel = cancel
	for range n {
		near, far := tcpPair(t)
		s := newSession(i, near)
		cr.wg.Go(func() { c.handle(ctx, s) })
		select {
		case <-s.accepted:
		case <-s.done:
			t.Fatalf("not accepted: %v", s.ending())
		}
		if i.Kind == linkv1.ServiceKind_SERVICE_KIND_REMOTING {
			cr.jenkins = append(cr.jenkins, j.dialled())
		}
		cr.agents = append(cr.agents, far)
	}
	return cr
}

// end stops them all.
func (cr *crowd) end() {
	cr.cancel()
	cr.wg.Wait()
}

// A thousand agents cost the connector three goroutines each at most, and all
// of them carry bytes.
func TestThousandAgents(t *testing.T) {
	j := startJenkins(t, false)
	c, b := j.beside(Config{})
	b.until("a reachable Jenkins", reachable)
	before := runtime.NumGoroutine()
	const n = 1000
	cr := newCrowd(t, c, j, n, remotingSession(remoting.JNLP4, ""))
	defer cr.end()
	for i, agent := range cr.agents {
		wantBytes(t, agent, cr.jenkins[i], "down")
		wantBytes(t, cr.jenkins[i], agent, "up")
	}
	if got := runtime.NumGoroutine() - before; got > 3*n+50 {
		t.Errorf("%d goroutines for %d sessions", got, n)
	}
	cr.end()
	for range 1000 { // those of fakeJenkins and the runtime end by themselves
		runtime.Gosched()
	}
	if got := runtime.NumGoroutine() - before; got > 50 {
		t.Errorf("%d goroutines are left", got)
	}
}

// BenchmarkIdle tells what one idle session holds of the connector, its kernel
// sockets and the session itself left out.
func BenchmarkIdle(b *testing.B) {
	for name, info := range map[string]controller.Info{
		"Remoting":  remotingSession(remoting.JNLP4, ""),
		"WebSocket": {Kind: linkv1.ServiceKind_SERVICE_KIND_WEBSOCKET, Remoting: &linkv1.Remoting{}},
	} {
		b.Run(name, func(b *testing.B) {
			j := startJenkins(b, false)
			j.set(func() {
				j.socket = func(w http.ResponseWriter, r *http.Request) {
					if ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil); err == nil {
						b.Cleanup(func() { _ = ws.Close() })
					}
				}
			})
			c, board := j.beside(Config{})
			board.until("a reachable Jenkins", reachable)
			for b.Loop() {
				const n = 500
				before, goroutines := inUse(), runtime.NumGoroutine()
				cr := newCrowd(b, c, j, n, info)
				b.ReportMetric(float64(inUse()-before)/n, "B/session")
				b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/n, "goroutines/session")
				cr.end()
			}
		})
	}
}

// inUse is the memory that is held now, in bytes.
func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
