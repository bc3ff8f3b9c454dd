// Package session is the session protocol as three pure roles.
//
// An [Agent] is the agent side of one session, a [Relay] is one stream's
// worth of it at a gateway, and a [Controller] is the controller side; a
// [Registry] is what a controller side remembers of sessions that are over.
// Agent and Controller share [End], the half that faces an application.
//
// The roles start no goroutine, read no clock and do no I/O. Everything that
// happens (a message, a record, the outcome of a produce, the passing of
// time) is a method call; everything they want done is pulled from them with
// Pending. So the same code runs over gRPC and Kafka, and over a fake log
// under an explorer that tries every order of events (package
// session/explore). None is safe for concurrent use: a session has one owner.
//
// The rules are those of docs/protocol.md; "row n" in a comment is a row of
// the table in docs/replay.md that shows what goes wrong without it.
package session
