// Package bridge stands between Moorage and Kafka. It is the only package
// that knows sarama and gobreaker.
//
// A [Client] looks topics up. A [Producer] writes: its [Queue] of a partition
// is fair between flows, bounded in what it has under way, and never tried
// out of order. A [Reader] reads: a [Follower] passes every record of a
// partition on, a [Tail] shares one follower, and one scan for those who must
// catch up, among any number of subscriptions.
//
// # Connections
//
// A broker answers the requests of one connection in order, so whatever may
// wait long has a connection of its own: producing, following, scanning and
// administration never share one. Every connection is used by one goroutine,
// and there is one of each kind per broker, so a frozen broker stops only the
// partitions it leads. From sarama the package takes the protocol: connections
// with TLS and SASL, requests, record batches. Batching, retries and routing
// are its own, because sarama's producer blocks all partitions behind one
// that hangs, and its consumer takes up to a long poll to notice a new one.
//
// The lowest supported broker is Kafka 3.0.
//
// # Known limitations
//
// Legacy message sets (Kafka before 0.11) are not read. All partitions of one
// leader share a connection per kind, so at acks=all a partition waits for the
// slowest in-sync replica among the partitions of its leader. A topic that is
// removed, created again and filled beyond the offset being read, all within
// one long poll, is noticed up to 5 s late: sarama cannot fetch by topic id.
package bridge
