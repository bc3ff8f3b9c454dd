// Package gateway ends the streams of agent sides and stands between them and
// Kafka. It holds nothing that is needed after its death.
//
// A [Gateway] serves streams. Each stream has one goroutine, gRPC's own, which
// receives; what is to be sent is sent by a worker that lives only while there
// is something to send. What a stream means is decided by a session.Relay.
//
// The down log of a session is read by a feed, which outlives its stream for
// half a minute, so that an agent that comes straight back costs no Kafka
// read. Records wait in one buffer.Recent shared by all; what falls out of it
// before the agent has taken it is read again from Kafka.
//
// A [LocalSession] is a session whose agent side is the gateway itself, for a
// legacy agent at its door (tier 0). It is a stream like any other, but for the
// wire, which ends in the same process, and it has no goroutine. It ends with
// its stream, and nothing of it is kept.
//
// A controller is known by its heartbeat in its meta topic. All sessions of
// one partition share a partition: its queue, its breaker, its leases, and
// what was last known of its end.
//
// # Locks
//
// Gateway.mu guards the maps of feeds and controllers; feed.turn serialises
// the changing of a subscription; feed.mu is the session's lock: it guards the
// feed, its stream and the stream's Relay. controller.mu, partition.mu and the
// wheel's locks are leaves. A local session's Conn has a lock of its own, which
// guards its role. Order: Gateway.mu, feed.turn, the Conn's, feed.mu, leaves.
// Nobody sends on a stream or waits for Kafka while holding any but feed.turn;
// what a local session writes is queued, which never waits, under its Conn's.
package gateway
