package gateway

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/moorage-dev/moorage/proto/envelope"
)

// A gateway that is short of processor time lets those in that it has taken in
// before, and asks the others to come later. After that it takes no connection
// any more, until it keeps up again.
func TestBusyGatewayTurnsNewcomersAway(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		b := r.agent("b1").open(g)
		b.drop()
		b.want("hint", envelope.Detached)

		late := func(by time.Duration) { g.wheel.punctual.Store(int64(g.now() - by - g.wheel.turn - inTime)) }
		late(openLag + time.Millisecond)
		newcomer := r.agent("c1")
		newcomer.dial(g)
		if st := newcomer.wantEnd(codes.ResourceExhausted); len(st.Details()) != 1 {
			t.Errorf("the details are %v, want when to come again", st.Details())
		}
		if n := counted(g.metrics.refused, "busy"); n != 1 {
			t.Errorf("%v counted, want 1", n)
		}
		late(openLag + time.Millisecond)
		b.attach(g)
		a.say(envelope.Accept, 1, "")
		a.wantFrame("untouched", envelope.Accept, "")

		late(connLag + time.Millisecond)
		conn, err := r.net.DialContext(context.Background(), "tcp", g.lis.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes from a gateway that has no time", n)
		}
		conn.Close()
		time.Sleep(time.Second) // the wheel turned in time
		r.agent("c2").open(g)
	})
}
