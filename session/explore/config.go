package explore

// A Config is one exploration: a session, what may go wrong, and how often.
type Config struct {
	Name   string
	Up     int    // data frames from the agent side; a half-close follows
	Down   int    // data frames from the controller side; it closes when both are done
	Window int    // bytes both ways, a data frame has one; 0: never in the way
	Faults int    // how many
	Kinds  uint32 // which

	Once        bool // no kind twice
	Fine        bool // written and answered are separate events
	Lag         bool // written and read are separate events
	Queue       bool // what a gateway sends takes time to arrive
	Late        bool // what a dead producer had under way may still be written
	AnyGateway  bool // the agent side comes to either gateway; false: to one after the other
	NoDetached  bool // streams end without DETACHED
	AgentCloses bool // with CLOSE in place of a half-close
	Linger      bool // the agent's application half-closes only when nothing else happens
	Reject      bool // the controller's application rejects the session

	Variant Variant
	Limit   int // states; 0: half a million
}

// Faults returns the set of the given kinds.
func Faults(kinds ...kind) (set uint32) {
	for _, k := range kinds {
		set |= 1 << (k - firstFault)
	}
	return set
}

// A Variant bends one rule, to show what it is for. The rows are those of docs/replay.md.
type Variant uint8

const (
	Sound           Variant = iota
	FramesFirst             // row 1: frames flow before Welcome
	AnyOrder                // row 2: offsets are not compared
	AckPastFailure          // row 3: a failed produce counts as done
	FenceData               // row 4: data of older attempts is dropped
	NoStable                // row 5: readers don't look at stable, nobody probes
	ResetOldest             // row 6: out of range goes on from the oldest
	DropRepeatsOnly         // row 7: the agent side takes the frame behind a hole
	NoPosition              // row 8: heartbeats carry no position
	AnyTopic                // row 9: a position's topic id is not looked at
	Rehash                  // row 10: the partition is computed at every attach
	ReadOldest              // row 11: a new process reads from the oldest, whatever the incarnation
	NeverCompare            // row 12: gateways don't compare incarnations
	PublishFirst            // row 13: a new process publishes before it takes offsets
	NoHorizon               // row 14: forgotten sessions leave nothing behind
	CloseUnknown            // row 15: any frame of an unknown session is answered
	LoneOnce                // rows 16 and 17: a lost Delivered is not repeated
	Events                  // row 18: ATTACHED and DETACHED decide, not leases
	NeverLapse              // row 19: leases don't run out
	CloseOnce               // row 20: CLOSE is produced once
	LostUnheeded            // row 21: LOST of a session that is not open is dropped
	StallUntold             // row 22: gateways don't tell that they can't write
)
