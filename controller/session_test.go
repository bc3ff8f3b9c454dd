package controller

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

func TestMessagesBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.follow()
		c := r.start(r.config())
		p := r.peer(c).open(r.gateway("gw", 1), nil)
		p.data("early") // data may follow OPEN without waiting
		s := r.accept(c)
		p.want(envelope.Accept, time.Second)
		r.wantMessage(s, "early")
		for _, m := range []string{"one", "two", "three"} {
			if err := s.Send(t.Context(), []byte(m)); err != nil {
				t.Fatal(err)
			}
		}
		p.wantData("one")
		p.wantData("two")
		p.wantData("three")
		p.data("answer")
		r.wantMessage(s, "answer")
		s.Close()
		p.wantEnd(envelope.Close, linkv1.Reason_REASON_OK, time.Second)
	})
}
