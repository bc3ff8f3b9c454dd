package door

import (
	"io"
	"sync/atomic"

	"github.com/moorage-dev/moorage/tunnel"
)

// An entered session is one that counts, until it is closed.
type entered struct {
	Session
	leave func()
	gone  atomic.Bool
	m     *metrics
}

// A session that has its bytes in memory writes them from there.
type inMemory interface {
	io.WriterTo
	tunnel.Patient
}

// enter counts a session that the controller side has accepted.
func (d *Door) enter(s Session, leave func()) Session {
	d.m.opened.Inc()
	d.m.sessions.Inc()
	one := &entered{Session: s, leave: leave, m: d.m}
	if from, ok := s.(inMemory); ok {
		return struct {
			*entered
			inMemory
		}{one, from}
	}
	return one
}

func (s *entered) Close() error {
	defer s.over()
	return s.Session.Close()
}

func (s *entered) Abort(why error) {
	defer s.over()
	s.Session.Abort(why)
}

func (s *entered) over() {
	if !s.gone.Swap(true) {
		s.m.sessions.Dec()
		s.leave()
	}
}
