package demo

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/moorage-dev/moorage/check"
)

// A Result is what a demonstration showed.
type Result struct {
	check.Report
	Seed     uint64            `json:"seed"`
	Agents   int               `json:"agents"`
	Gateways int               `json:"gateways"`
	Duration time.Duration     `json:"duration"` // of the traffic; the schedule is stretched over it
	Break    string            `json:"break,omitempty"`
	Faults   map[FaultKind]int `json:"faults"` // met, by kind
	Schedule []Fault           `json:"schedule"`
	Settled  bool              `json:"settled"`         // everything came to rest in time
	Wrong    []string          `json:"wrong,omitempty"` // beside the sessions

	Interrupted bool `json:"interrupted,omitempty"` // before its time was over
}

// Clean reports whether every promise was kept.
func (r Result) Clean() bool { return r.Settled && len(r.Wrong) == 0 && r.Report.Clean() }

// String is the report for a human; its first line is the verdict.
func (r Result) String() string {
	var b strings.Builder
	b.WriteString(r.Report.String())
	for _, k := range slices.Concat(All, Strange) {
		if n, ok := r.Faults[k]; ok {
			fmt.Fprintf(&b, "met %-20s %d\n", k, n)
		}
	}
	for _, w := range r.Wrong {
		fmt.Fprintln(&b, "wrong:", w)
	}
	if r.Interrupted {
		fmt.Fprintln(&b, "interrupted before its time was over")
	}
	if !r.Settled && r.Break != "" && !(r.Report.Clean() && len(r.Wrong) == 0) {
		fmt.Fprintln(&b, "not waited until everything came to rest: the verdict stands")
	} else if !r.Settled {
		fmt.Fprintf(&b, "not everything came to rest within %v\n", settle)
	}
	fmt.Fprintf(&b, "the same schedule again: moorage demo --agents %d --gateways %d --faults %d --duration %v --seed %d",
		r.Agents, r.Gateways, len(r.Schedule), r.Duration, r.Seed)
	if r.Break != "" {
		fmt.Fprintf(&b, " --break=%s", r.Break)
	}
	fmt.Fprintln(&b)
	return b.String()
}
