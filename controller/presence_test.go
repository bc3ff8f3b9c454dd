package controller

import (
	"testing"
	"time"

	"github.com/moorage-dev/moorage/proto/envelope"
)

// The sessions topic takes nothing, while sessions come and go: those that
// have gone are not kept for ever to be shown.
func TestPresenceThatCannotBeShownIsBounded(t *testing.T) {
	p := &presence{stir: func() {}, put: func(envelope.SessionID, []byte, func(error)) { t.Error("more than may be under way") }}
	p.showing = maxShowing
	alive := new(Session)
	now := time.Now()
	for i := range 3 * maxMarked {
		s := new(Session)
		p.mark(s) // it opens
		s.buried = true
		p.mark(s) // and ends
		if i == 2*maxMarked {
			p.mark(alive)
		}
		if i%100 == 0 {
			p.flush(now, true)
		}
	}
	p.flush(now, true)
	if n := len(p.fresh) + len(p.waiting); n > maxMarked+1 {
		t.Errorf("%d sessions wait to be shown, at most %d should", n, maxMarked+1)
	}
	if p.fresh[len(p.fresh)-1] != alive {
		t.Error("the one that lives is forgotten")
	}
}
