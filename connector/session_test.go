package connector

import (
	"io"
	"net"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/controller"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
	"github.com/moorage-dev/moorage/tunnel"
)

// A testSession is the agent side of a session as a connector sees it. Its
// bytes are those of a TCP connection: OK is a FIN there, any other ending a
// reset. Without one it ends by Reject or end alone.
type testSession struct {
	tunnel.Conn
	accepted chan struct{} // closed by AcceptWith
	done     chan struct{}
	waited   chan struct{} // holds one token when Waits has said something

	mu     sync.Mutex // guards what follows
	info   controller.Info
	answer *linkv1.Accept // what AcceptWith was given; nil: not accepted
	why    session.Ending // the first ending
	ended  bool
	waits  []string           // all that Waits said
	probed func(*testSession) // is told of Probe; nil: nobody answers
}

func newSession(i controller.Info, c *net.TCPConn) *testSession {
	i.Attached = true
	s := &testSession{info: i, accepted: make(chan struct{}), done: make(chan struct{}), waited: make(chan struct{}, 1), Conn: silent{}}
	if c != nil {
		s.Conn = tunnel.TCP{TCPConn: c}
	}
	return s
}

func (s *testSession) Info() controller.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.info
}

// changes gives the session another Info.
func (s *testSession) changes(how func(*controller.Info)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	how(&s.info)
}

func (s *testSession) AcceptWith(answer *linkv1.Accept) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if answer == nil {
		answer = new(linkv1.Accept)
	}
	s.answer = answer
	s.info.State = session.Accepted
	close(s.accepted)
}

func (s *testSession) wasAccepted() *linkv1.Accept {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answer
}

func (s *testSession) Reject(why session.Ending) { s.end(why) }

func (s *testSession) CloseWithReason(why session.Ending) {
	if s.end(why) {
		s.Conn.Abort(nil)
	}
}

func (s *testSession) Close() error {
	s.end(session.Ending{Reason: linkv1.Reason_REASON_OK})
	return s.Conn.Close()
}

func (s *testSession) Abort(err error) {
	s.end(session.Ending{Reason: linkv1.Reason_REASON_PEER_RESET})
	s.Conn.Abort(err)
}

// end ends the session, if it has not.
func (s *testSession) end(why session.Ending) (first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.ended, s.why, s.info.State = true, why, session.Over
	close(s.done)
	return true
}

// ending is the reason of record; zero: none yet.
func (s *testSession) ending() session.Ending {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}

func (s *testSession) Done() <-chan struct{} { return s.done }

func (s *testSession) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		return nil
	}
	return &session.EndedError{Ending: s.why}
}

func (s *testSession) Waits(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waits = append(s.waits, text)
	select {
	case s.waited <- struct{}{}:
	default:
	}
}

// waiting is what the session waits for.
func (s *testSession) waiting() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waits) == 0 {
		return ""
	}
	return s.waits[len(s.waits)-1]
}

func (s *testSession) Probe() {
	if s.probed != nil {
		s.probed(s)
	}
}

func (s *testSession) LimitGrace(time.Duration) {}

func (s *testSession) leave() { s.end(endedOK) }

// heard notes a sign of life.
func (s *testSession) heard() { s.changes(func(i *controller.Info) { i.Heard = time.Now() }) }

var endedOK = session.Ending{Reason: linkv1.Reason_REASON_OK}

// silent is a connection that nothing comes from.
type silent struct{}

func (silent) Read([]byte) (int, error)    { return 0, io.EOF }
func (silent) Write(p []byte) (int, error) { return len(p), nil }
func (silent) CloseWrite() error           { return nil }
func (silent) Close() error                { return nil }
func (silent) Abort(error)                 {}
