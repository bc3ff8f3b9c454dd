// Package link is the agent side of sessions: gRPC to whichever gateway can
// be reached, and a [Session] that survives all of them.
//
// A [Client] stands for one agent and one controller. [Client.Open] opens a
// session and returns when a gateway has welcomed it; from then on the
// session looks for gateways by itself, until both ends are done or one of
// them gives up. An application sees none of it: what it writes waits in the
// window while there is no stream, and what it reads continues where it
// stopped.
//
// # Which gateway, and when
//
// A session starts at a random gateway of its list, or at the one that the
// client found some seconds ago: what an agent opens together goes one way,
// and agents spread. After a broken stream it comes back to the same one
// first, which still has the latest frames in memory; one that refused, fell
// silent or is draining goes to the end of the list. Between attempts it waits a random time up to 50 ms, doubling to 5 s,
// and longer at a gateway that named a time to come back. A gateway that
// drains is left without waiting, for one that it names if it names any.
//
// # What ends a session
//
// The controller side's word, in sequence or through a gateway; a gateway's
// refusal before the first Welcome; [Config.GiveUp]. Nothing else: a refusal
// of a session that was welcomed before may be one gateway's mistake.
//
// A session has one goroutine, and a second one while it is attached.
package link
