package explore

// Families are the explorations of every test run: each family of faults by
// itself, two at a time, then all together, one at a time.
var Families = []Config{
	{Name: "calm", Up: 3, Down: 3, Fine: true, Queue: true},
	{Name: "calm, small window", Up: 3, Down: 3, Window: 1},
	{Name: "produces", Up: 2, Down: 1, Faults: 2, Fine: true, Kinds: Faults(FailProduce, Unanswered)},
	{Name: "late produces", Up: 2, Down: 1, Faults: 2, Kinds: Faults(LateProduce, FailProduce)},
	{Name: "swapped produces", Up: 2, Down: 2, Faults: 2, Fine: true, Kinds: Faults(Swap)},
	{Name: "links", Up: 2, Down: 1, Faults: 2, Queue: true, Kinds: Faults(Cut, HalfOpen)},
	{Name: "links, late records", Up: 2, Down: 1, Faults: 2, Late: true, Kinds: Faults(Cut, HalfOpen)},
	{Name: "links and produces", Up: 2, Down: 1, Faults: 2, Late: true, Kinds: Faults(Cut, FailProduce, Unanswered)},
	{Name: "links and produces, small window", Up: 2, Down: 2, Window: 1, Faults: 2, Kinds: Faults(Cut, FailProduce, LateProduce)},
	{Name: "gateways", Up: 2, Down: 1, Faults: 2, Late: true, AnyGateway: true, Kinds: Faults(KillGateway, FreezeGateway)},
	{Name: "controller", Up: 1, Down: 1, Faults: 2, Late: true, Kinds: Faults(KillController, StaleController)},
	{Name: "controller and links", Up: 1, Down: 1, Faults: 2, Late: true, Kinds: Faults(KillController, StaleController, Cut)},
	{Name: "controller and frozen gateways", Up: 1, Down: 1, Faults: 2, Late: true, Kinds: Faults(KillController, StaleController, FreezeGateway)},
	{Name: "agent side gone", Up: 1, Down: 1, Faults: 2, Late: true, Kinds: Faults(AgentGone, Cut, HalfOpen, KillGateway, Unanswered)},
	{Name: "agent side away", Up: 1, Down: 1, Faults: 2, Late: true, Kinds: Faults(Away, Cut, HalfOpen, FreezeGateway)},
	{Name: "records lost", Up: 2, Down: 2, Faults: 2, Kinds: Faults(LoseRecord)},
	{Name: "records lost and links", Up: 2, Down: 1, Faults: 2, Kinds: Faults(LoseRecord, Cut)},
	{Name: "retention", Up: 2, Down: 2, Faults: 2, Kinds: Faults(Retention, Cut, FreezeGateway)},
	{Name: "idle retention", Up: 1, Down: 2, Faults: 2, Kinds: Faults(RetentionIdle, Cut, KillGateway)},
	{Name: "topic created again", Up: 2, Down: 2, Faults: 2, Kinds: Faults(Recreate, Cut)},
	{Name: "log truncated", Up: 2, Down: 2, Faults: 2, Kinds: Faults(Truncate, Cut)},
	{Name: "partitions added", Up: 2, Down: 1, Faults: 2, Kinds: Faults(Grow, Cut, KillController)},
	{Name: "tombstone forgotten", Up: 1, Down: 1, Faults: 2, Late: true, Kinds: Faults(ForgetTombstone, Cut, Unanswered, Away)},
	{Name: "rejected", Up: 1, Down: 0, Faults: 2, Late: true, Reject: true, Kinds: Faults(Cut, FailProduce, Unanswered, KillGateway)},
	{Name: "agent side closes", Up: 1, Down: 1, Faults: 2, Late: true, AgentCloses: true, Kinds: Faults(Cut, FailProduce, Unanswered, KillGateway)},
	{Name: "all", Up: 2, Down: 2, Faults: 1, Fine: true, Queue: true, Late: true, Kinds: ^uint32(0) >> (32 - (lastFault - firstFault))},
}
