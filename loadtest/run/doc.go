// Package run is the coordinator of a load test. It starts a site, which is
// what is measured, and workers, which make the load, each in a process of its
// own; breaks things as planned; and puts together what the workers counted.
//
// # Order of a pass
//
// A pass is one scenario on one system: the site starts, then the
// application's worker, then the legacy controller's and the connector beside
// it, then the agents' workers. When all are ready they are told one instant
// from which every schedule counts. At the scenario's end all faults are
// undone and the workers told to stop; each drains and gives its account.
//
// # What is judged
//
// The accounts of both sides are settled by package check. An application that
// was killed takes its account with it: sessions that only agents know are then
// held to what their agents saw, and must have been told CONTROLLER_GONE or have ended in
// order. That is less than for other sessions: what was lost on its way to
// the dead application cannot be told from what died with it. The same goes for
// a killed process of agents: of its sessions, which their numbers tell, the
// application's side alone is judged, and must be told GRACE in time. A process
// that is stopped leaves its account. Anomalies that a process had told of
// with its ticks are judged whatever became of it.
//
// # When the generator was the limit
//
// A worker counts the messages that it held up itself for more than 10 ms
// after their time, before it tried to send them. When these are more than
// [OverdueShare] of what it sent after warm-up, the 99th percentile says more of
// the generator than of the system. So it does when the worker used more than
// [BusyLimit] of its share of the processors (all, divided by the number of
// workers) in more than [BusyShare] of the seconds, and in [BusyFloor] at least. In
// both cases the pass is invalid. Seconds in which a fault froze the worker, and
// [CatchUp] after it, are left out, and so are those in which it starts in
// another's place. Where a loop is closed, being busy is no reason: such a load
// takes all there is, and most of what its processes use is the system's own
// library.
//
// # Bounds
//
// A worker's line is bounded by [maxLine]; a longer one ends the pass. A worker
// that says nothing for [SilentLimit] while it is not frozen by a fault is
// taken for dead. Of a worker that a fault ended some kilobytes are kept:
// its histograms, its first anomalies, and sessions that did not end in order;
// faults bound how many there are. Anomalies are kept up to [maxAnomalies], the rest counted.
package run

import "time"

// The limits that the package comment explains.
const (
	OverdueShare = 0.01
	BusyLimit    = 0.9
	BusyShare    = 0.05
	BusyFloor    = 3 // seconds
	SilentLimit  = 30 * time.Second
	CatchUp      = 2 * time.Second

	maxLine      = 512 << 20 // an account of 100,000 sessions is some 20 MB
	maxAnomalies = 100
)
