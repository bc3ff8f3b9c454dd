package demo

import (
	"fmt"
	"strings"
	"time"

	"github.com/moorage-dev/moorage/demo/legacy"
	"github.com/moorage-dev/moorage/seeded"
)

// A provocation is what brings a seeded bug to light in a demonstration: the
// faults that go where it lives, in a world where they meet it.
type provocation struct {
	faults []FaultKind
	world  func(*WorldConfig) // nil: as always
	legacy story              // played with a Jenkins instead of a world; nil: none is
}

// provocations has each seeded bug. What finds it in tests stands in e2e/mutants.
var provocations = map[seeded.Bug]provocation{
	seeded.AckBeforeKafka:    {faults: []FaultKind{GatewayKilled}, world: busy},
	seeded.AckPastFailure:    {faults: []FaultKind{ProduceLost}, world: busy},
	seeded.StartAfterOpen:    {faults: []FaultKind{AgentRestarted}, world: brief},
	seeded.ReplayLiveGap:     {faults: []FaultKind{GatewayKilled, LinkCut}, world: busy},
	seeded.ReplayOffByOne:    {faults: []FaultKind{LinkCut}, world: busy},
	seeded.ForeignPosition:   {faults: []FaultKind{PositionForeign}},
	seeded.OldStreamServed:   {faults: []FaultKind{StreamTwice}},
	seeded.HigherAccepted:    {faults: []FaultKind{ProduceLost}, world: busy},
	seeded.DedupForgets:      {faults: []FaultKind{LinkCut}, world: busy},
	seeded.DrainDropsTail:    {faults: []FaultKind{GatewayDrained, GatewayKilled, LinkCut}, world: busy},
	seeded.WindowCountsItems: {faults: []FaultKind{AgentSlow}, world: narrow},
	seeded.FinOvertakes:      {faults: []FaultKind{LinkCut}, world: bytewise},
	seeded.DeliveredOnce:     {faults: []FaultKind{NewsRefused}},
	seeded.HalfOpenLoses:     {faults: []FaultKind{KafkaStalled}, world: impatient},
	seeded.EvictedNotReread:  {faults: []FaultKind{AgentFrozen}, world: cramped},
	seeded.EndedRevived:      {faults: []FaultKind{RecordLate}, world: brief},
	seeded.TicketUnchecked:   {faults: []FaultKind{TicketForged}},
	seeded.OldIncarnation:    {faults: []FaultKind{ControllerDied, RecordLate}, world: mortal},
	seeded.CloseOnce:         {faults: []FaultKind{CloseRefused}, world: brief},
	seeded.RecutOnResume:     {faults: []FaultKind{LinkCut, GatewayKilled}, world: busy},
	seeded.ReplyOvertakes:    {faults: []FaultKind{LinkCut}, world: bytewise},
	seeded.HalfCommand:       {faults: []FaultKind{LinkCut}, world: busy},

	// These live where legacy agents pass.
	seeded.StaleIdentity:     {faults: []FaultKind{JenkinsReplaced}, legacy: (*legacy.Site).Restart},
	seeded.JarCacheStale:     {faults: []FaultKind{JenkinsReplaced}, legacy: (*legacy.Site).Restart},
	seeded.CloseNotify:       {faults: []FaultKind{AgentServed}, legacy: (*legacy.Site).Serve},
	seeded.EmptyFinalChunk:   {faults: []FaultKind{AgentServed}, legacy: (*legacy.Site).Serve},
	seeded.AckPassedOn:       {faults: []FaultKind{AgentServed}, legacy: (*legacy.Site).Serve},
	seeded.PingCrosses:       {faults: []FaultKind{AgentPinged}, legacy: (*legacy.Site).Ping},
	seeded.ProbeOpensSession: {faults: []FaultKind{PortProbed}, legacy: (*legacy.Site).Probe},
	seeded.EndNotCarried:     {faults: []FaultKind{JenkinsKilled}, legacy: (*legacy.Site).Die},
	seeded.ChildOrphaned:     {faults: []FaultKind{ShimKilled}, legacy: (*legacy.Site).KillShim},
}

// busy always has something under way.
func busy(cfg *WorldConfig) { cfg.Every = 20 * time.Millisecond }

// brief has sessions that open and end all the time.
func brief(cfg *WorldConfig) { cfg.Every, cfg.Messages = 20*time.Millisecond, 10 }

// narrow has windows that a slow reader fills.
func narrow(cfg *WorldConfig) {
	cfg.Every, cfg.MaxSize, cfg.Window = 20*time.Millisecond, 4<<10, 16<<10
}

// cramped has gateways whose cache keeps little of each session.
func cramped(cfg *WorldConfig) {
	cfg.Every, cfg.MaxSize, cfg.CacheBytes = 20*time.Millisecond, 16<<10, 512<<10
}

// bytewise has applications that write bytes and leave after a few.
func bytewise(cfg *WorldConfig) { brief(cfg); cfg.Bytes = true }

// impatient has breakers that open soon.
func impatient(cfg *WorldConfig) { cfg.Every, cfg.StallAfter = 20*time.Millisecond, time.Second }

// mortal has controllers that die.
func mortal(cfg *WorldConfig) { cfg.Reasons = []string{"CONTROLLER_GONE"} }

// Bugs lists the seeded bugs, a line each, and what a demonstration strikes
// with to show them.
func Bugs() string {
	var b strings.Builder
	for _, bug := range seeded.All {
		fmt.Fprintf(&b, "%-20s shown by %s\n", bug, words(provocations[bug].faults))
	}
	return b.String()
}

func words(kinds []FaultKind) string {
	var out []string
	for _, k := range kinds {
		out = append(out, string(k))
	}
	return strings.Join(out, ", ")
}
