// Package buffer keeps what a peer has not yet taken.
//
// A [Window] belongs to one direction of one session and outlives every
// stream that session attaches: it keeps the frames that are not yet
// persisted, and the sizes of those not yet delivered. A [Recent] belongs to
// a gateway: it keeps the tails of many sessions' down logs within a bound of
// bytes, so that a short absence costs no Kafka read.
//
// The package does no I/O, starts no goroutine and reads no clock.
package buffer
