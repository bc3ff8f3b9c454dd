// Package controller is the controller side of sessions: the public SDK for
// whoever serves agents. It talks to Kafka only.
//
// A [Controller] is one process under one controller name. [Start] begins a
// new incarnation of that name; [Controller.Accept] hands out the sessions
// that agents open, and a [Session] is a [net.Conn], or ordered messages, over
// Kafka. The application accepts or rejects each:
//
//	c, err := controller.Start(ctx, controller.Config{Name: "builds", Bridge: bridge.Config{Brokers: brokers}})
//	...
//	for {
//		s, err := c.Accept(ctx)
//		if err != nil {
//			return err
//		}
//		s.Accept()
//		go serve(s)
//	}
//
// # One process at a time
//
// Of two processes with one name the newer wins: the older one sees its
// heartbeat in the meta topic and stops with [ErrSuperseded]. Whatever it may
// still write carries its old incarnation, and nobody listens to that. Sessions
// end with the process that held them, CONTROLLER_GONE.
//
// # Time
//
// Leases and grace are measured by the log's clock: it runs while heartbeats
// that this process writes into the gateways topic come back, and stands still
// while they don't. So no session is given up because Kafka was away, however
// long. One partition that is away alone, while the gateways topic is not, is
// not told apart from silence.
//
// # When topics change
//
// Records of an up partition that are gone before they were read end that
// partition's sessions with DATA_LOSS; the controller goes on with what is
// left. When a topic is removed or created again, every session ends with
// DATA_LOSS and the controller stops with [ErrTopicChanged]: offsets and
// incarnation mean nothing any more, and a new process binds to the new topics.
//
// # Lock order
//
// A session's lock, then its partition's, then those of wakes, presence, clock
// and gateways, which are leaves. The bridge's locks come after all of them.
package controller
