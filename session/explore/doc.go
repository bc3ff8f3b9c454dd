// Package explore tries every order of events.
//
// It drives the real roles of package session over a fake log and, breadth
// first, visits every state that a small session can get into: a few frames
// each way, two gateways, a controller side that may be killed and come again,
// and a budget of faults of chosen kinds. In each state it checks the
// invariants of docs/design.md, and at the end that from every state an end
// can be reached without further faults. Breadth first means that the trace
// of a violation is the shortest there is.
//
// What a gateway and a controller side do around their roles (fix a start
// position, persist ATTACHED before Welcome, end a stream whose produce
// failed, compare incarnations) is modelled in glue.go, as thinly as it can
// be. A [Variant] bends one of these rules; the tests named after the rows of
// docs/replay.md show that each bend is found out.
//
// How time is treated: a running timer may fire at any moment at which
// nothing else but late records can happen. How much of it has run is no part
// of a state. Two assumptions stand in guards: grace does not fire while the
// agent side is attached (leases are far shorter than grace), and retention
// outlasts the interval of heartbeats.
package explore
