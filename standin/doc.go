// Package standin plays a Jenkins controller and its inbound agents, as strictly
// as the real ones where strictness matters to whoever stands between them: for
// tests, benchmarks and load tests.
//
// A [Controller] has an HTTP port and an agent port; an [Agent] finds it in
// each of the ways that a stock agent.jar knows. Once connected they exchange
// commands that look like Remoting's from outside, chunks, class names and
// sizes, with contents that the receiver can check to the last byte and in
// order. What they keep of the real ones' habits is said at each; what stands
// inside the commands is their own.
//
// Both have the handicaps of the originals: a missed ACK ends a handshake after
// ten seconds, a command whose last chunk is empty is not delivered, a TLS
// close_notify leaves a channel that is connected and deaf until a ping fails.
package standin
