package site

import (
	"time"

	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
)

// noToxic lets everything pass.
var noToxic = always(new(toxics.NoopToxic))

// always wraps a toxic for every connection; toxiproxy's may be drawn by lot.
func always(t toxics.Toxic) *toxics.ToxicWrapper { return &toxics.ToxicWrapper{Toxic: t, Toxicity: 1} }

// swallow is a hole: nothing comes out of it, not even an end.
type swallow struct{}

// Pipe takes everything until it is replaced.
func (swallow) Pipe(stub *toxics.ToxicStub) {
	for {
		select {
		case <-stub.Interrupt:
			return
		case c := <-stub.Input:
			if c == nil {
				<-stub.Interrupt
				return
			}
		}
	}
}

// throttle lets so many bytes per second pass. Toxiproxy's own drops bytes when
// it ends while its receiver is blocked, which no network does to TCP.
type throttle struct{ rate int }

// Pipe passes on in steps of 50 ms.
func (t throttle) Pipe(stub *toxics.ToxicStub) {
	step := max(t.rate/20, 1)
	for {
		var c *stream.StreamChunk
		select {
		case <-stub.Interrupt:
			return
		case c = <-stub.Input:
		}
		if c == nil {
			stub.Close()
			return
		}
		for len(c.Data) > 0 {
			n := min(step, len(c.Data))
			timer := time.NewTimer(time.Duration(n) * time.Second / time.Duration(t.rate))
			select {
			case <-timer.C:
				stub.Output <- &stream.StreamChunk{Data: c.Data[:n], Timestamp: c.Timestamp}
				c.Data = c.Data[n:]
			case <-stub.Interrupt:
				timer.Stop()
				stub.Output <- c
				return
			}
		}
	}
}
