package explore

// every is every kind of fault.
const every = ^uint32(0) >> (32 - (lastFault - firstFault))

// Families are the explorations of every test run: each family of faults by
// itself with two of them, then all together with one. With its control
// frames a session of one data frame has three frames each way.
var Families = []Config{
	{Name: "calm", Up: 3, Down: 3, Lag: true, Fine: true},
	{Name: "calm, slow links", Up: 2, Down: 2, Fine: true, Queue: true},
	{Name: "calm, small window", Up: 3, Down: 3, Window: 1, Lag: true, Fine: true, Queue: true},
	{Name: "produces", Up: 2, Down: 1, Faults: 2, Kinds: Faults(FailProduce, Unanswered)},
	{Name: "produces, answers late", Up: 1, Down: 0, Faults: 2, Fine: true, Kinds: Faults(FailProduce, Unanswered)},
	{Name: "late produces", Up: 1, Down: 1, Faults: 2, Kinds: Faults(LateProduce, FailProduce)},
	{Name: "swapped produces", Up: 1, Down: 1, Faults: 2, Fine: true, Kinds: Faults(Swap)},
	{Name: "links", Up: 1, Down: 1, Faults: 2, Kinds: Faults(Cut, HalfOpen)},
	{Name: "links, slow", Up: 1, Down: 0, Faults: 1, Queue: true, Fine: true, Kinds: Faults(Cut, HalfOpen)},
	{Name: "links, late records", Up: 1, Down: 0, Faults: 2, Late: true, Kinds: Faults(Cut, HalfOpen)},
	{Name: "links and produces", Up: 1, Down: 0, Faults: 2, Late: true, Kinds: Faults(Cut, FailProduce)},
	{Name: "links and produces, small window", Up: 2, Down: 2, Window: 1, Faults: 2, Kinds: Faults(Cut, FailProduce)},
	{Name: "gateways", Up: 1, Down: 1, Faults: 2, Kinds: Faults(KillGateway, FreezeGateway)},
	{Name: "gateways, late records", Up: 2, Down: 1, Faults: 1, Late: true, AnyGateway: true, Kinds: Faults(KillGateway, FreezeGateway)},
	{Name: "controller", Up: 1, Down: 1, Faults: 2, Late: true, Lag: true, Kinds: Faults(KillController, StaleController)},
	{Name: "controller and links", Up: 0, Down: 0, Faults: 2, Late: true, Kinds: Faults(KillController, StaleController, Cut)},
	{Name: "controller and frozen gateways", Up: 0, Down: 0, Faults: 2, Late: true, Kinds: Faults(KillController, StaleController, FreezeGateway)},
	{Name: "agent side gone", Up: 1, Down: 1, Faults: 2, Kinds: Faults(AgentGone, HalfOpen, Unanswered)},
	{Name: "agent side away", Up: 1, Down: 1, Faults: 2, Kinds: Faults(Away, Cut, FreezeGateway)},
	{Name: "up log stands", Up: 1, Down: 0, Faults: 2, Kinds: Faults(Stall, Cut, FreezeGateway, KillGateway)},
	{Name: "up log stands, answers late", Up: 0, Down: 0, Faults: 2, Once: true, Late: true, Fine: true, Kinds: Faults(Stall, Cut)},
	{Name: "records lost", Up: 2, Down: 2, Faults: 2, Lag: true, Kinds: Faults(LoseRecord)},
	{Name: "records lost, small window", Up: 1, Down: 2, Window: 1, Faults: 1, Lag: true, Kinds: Faults(LoseRecord)},
	{Name: "records lost and links", Up: 2, Down: 1, Faults: 2, Kinds: Faults(LoseRecord, Cut)},
	{Name: "retention", Up: 1, Down: 0, Faults: 2, Lag: true, Kinds: Faults(Retention, Cut)},
	{Name: "retention, late records", Up: 0, Down: 0, Faults: 2, Late: true, Kinds: Faults(Retention, Recreate, Cut)},
	{Name: "retention, tombstone forgotten", Up: 0, Down: 0, Faults: 3, Once: true, Late: true, Kinds: Faults(Retention, Cut, ForgetTombstone)},
	{Name: "records lost, late records", Up: 0, Down: 0, Faults: 2, Once: true, Late: true, Lag: true, Kinds: Faults(LoseRecord, Cut)},
	{Name: "idle retention", Up: 1, Down: 2, Faults: 2, Kinds: Faults(RetentionIdle, Cut)},
	{Name: "topic created again", Up: 1, Down: 1, Faults: 2, Kinds: Faults(Recreate, Cut)},
	{Name: "log truncated", Up: 1, Down: 1, Faults: 2, Kinds: Faults(Truncate, Cut)},
	{Name: "partitions added", Up: 1, Down: 1, Faults: 2, Kinds: Faults(Grow, Cut)},
	{Name: "tombstone forgotten", Up: 0, Down: 0, Faults: 2, Late: true, Kinds: Faults(ForgetTombstone, Cut, Unanswered)},
	{Name: "rejected", Up: 1, Down: 0, Faults: 2, Reject: true, Kinds: Faults(Cut, FailProduce, Unanswered)},
	{Name: "agent side closes", Up: 1, Down: 1, Faults: 2, AgentCloses: true, Kinds: Faults(Cut, FailProduce, Unanswered)},
	{Name: "all", Up: 1, Down: 0, Faults: 1, Lag: true, Late: true, Kinds: every},
	{Name: "all, answers late", Up: 1, Down: 0, Faults: 1, Fine: true, Late: true, Kinds: every},
}

// Larger are the explorations of make explore: minutes each.
var Larger = []Config{
	{Name: "larger: produces, answers late", Up: 1, Down: 1, Faults: 2, Fine: true, Kinds: Faults(FailProduce, Unanswered)},
	{Name: "larger: swapped produces", Up: 2, Down: 2, Faults: 2, Fine: true, Kinds: Faults(Swap)},
	{Name: "larger: links, slow", Up: 1, Down: 1, Faults: 1, Queue: true, Fine: true, Kinds: Faults(Cut, HalfOpen)},
	{Name: "larger: links, late records", Up: 1, Down: 1, Faults: 2, Late: true, Kinds: Faults(Cut, HalfOpen)},
	{Name: "larger: links and produces", Up: 1, Down: 1, Faults: 2, Late: true, Kinds: Faults(Cut, FailProduce, Unanswered)},
	{Name: "larger: links and produces, small window", Up: 2, Down: 2, Window: 1, Faults: 2, Kinds: Faults(Cut, FailProduce, LateProduce)},
	{Name: "larger: gateways", Up: 2, Down: 2, Faults: 2, Kinds: Faults(KillGateway, FreezeGateway)},
	{Name: "larger: controller and links", Up: 1, Down: 1, Faults: 2, Late: true, Kinds: Faults(KillController, StaleController, Cut)},
	{Name: "larger: agent side away", Up: 1, Down: 1, Faults: 2, Kinds: Faults(Away, Cut, HalfOpen, FreezeGateway)},
	{Name: "larger: retention", Up: 1, Down: 1, Faults: 2, Lag: true, Kinds: Faults(Retention, Cut)},
	{Name: "larger: tombstone forgotten", Up: 1, Down: 0, Faults: 2, Late: true, Kinds: Faults(ForgetTombstone, Cut, Unanswered)},
	{Name: "larger: all", Up: 1, Down: 1, Faults: 1, Lag: true, Late: true, Kinds: every},
	{Name: "larger: all, answers late", Up: 1, Down: 1, Faults: 1, Fine: true, Late: true, Kinds: every},
	{Name: "larger: all, twice", Up: 0, Down: 0, Faults: 2, Kinds: every},
}
