package explore

import "testing"

// A row bends one rule and expects to be found out; with the rule in force the
// same exploration finds nothing.
type row struct {
	cfg     Config
	variant Variant
}

func (r row) run(t *testing.T) {
	t.Run("naive", func(t *testing.T) {
		cfg := r.cfg
		cfg.Variant = r.variant
		res := Explore(cfg)
		if res.Bad == "" {
			t.Fatalf("nothing found: %v", res)
		}
		t.Log(res)
	})
	t.Run("rule", func(t *testing.T) {
		if res := Explore(r.cfg); res.Bad != "" || !res.Complete {
			t.Fatal(res)
		}
	})
}

func TestRow01FramesBeforeWelcome(t *testing.T) {
	row{Config{Up: 0, Down: 0, Faults: 1, Fine: true, Kinds: Faults(Cut)}, FramesFirst}.run(t)
}

func TestRow02SwappedFramesAcknowledged(t *testing.T) {
	row{Config{Up: 1, Down: 0, Faults: 1, Kinds: Faults(Swap)}, AnyOrder}.run(t)
}

func TestRow03AcknowledgedPastAFailure(t *testing.T) {
	row{Config{Up: 1, Down: 0, Faults: 1, Kinds: Faults(FailProduce)}, AckPastFailure}.run(t)
}

func TestRow04DataFencedByAttempt(t *testing.T) {
	row{Config{Up: 1, Down: 0, Faults: 2, Kinds: Faults(HalfOpen, FailProduce)}, FenceData}.run(t)
}

func TestRow05LossUnnoticed(t *testing.T) {
	row{Config{Up: 1, Down: 1, Faults: 1, Lag: true, Kinds: Faults(LoseRecord)}, NoStable}.run(t)
}

func TestRow06ResetToOldest(t *testing.T) {
	row{Config{Up: 0, Down: 1, Faults: 1, Lag: true, Kinds: Faults(Retention)}, ResetOldest}.run(t)
}

func TestRow07OnlyRepeatsDropped(t *testing.T) {
	row{Config{Up: 1, Down: 2, Faults: 1, Kinds: Faults(FailProduce)}, DropRepeatsOnly}.run(t)
}

func TestRow08IdleSessionLosesItsPlace(t *testing.T) {
	row{Config{Up: 1, Down: 1, Faults: 2, Kinds: Faults(RetentionIdle, Cut)}, NoPosition}.run(t)
}

func TestRow09TopicCreatedAgain(t *testing.T) {
	row{Config{Up: 1, Down: 1, Faults: 2, Kinds: Faults(Recreate, Cut)}, AnyTopic}.run(t)
}

func TestRow10PartitionsAdded(t *testing.T) {
	row{Config{Up: 1, Down: 1, Faults: 2, Kinds: Faults(Grow, Cut)}, Rehash}.run(t)
}

func TestRow11RestartReadsOldest(t *testing.T) {
	row{Config{Up: 0, Down: 0, Faults: 1, Kinds: Faults(KillController)}, ReadOldest}.run(t)
}

func TestRow12RestartReadsNewest(t *testing.T) {
	row{Config{Up: 0, Down: 0, Faults: 1, Lag: true, Kinds: Faults(KillController)}, NeverCompare}.run(t)
}

func TestRow13PublishedBeforeOffsetsWereTaken(t *testing.T) {
	row{Config{Up: 0, Down: 0, Faults: 2, Kinds: Faults(KillController, Cut)}, PublishFirst}.run(t)
}

func TestRow14EndedSessionRevived(t *testing.T) {
	row{Config{Up: 0, Down: 0, Faults: 2, Late: true, Reject: true, Kinds: Faults(ForgetTombstone, Cut, LateProduce)}, NoHorizon}.run(t)
}

func TestRow15UnknownAnsweredTooSoon(t *testing.T) {
	row{Config{Up: 1, Down: 0, Faults: 1, Late: true, Kinds: Faults(FailProduce)}, CloseUnknown}.run(t)
}

func TestRow16LostDeliveredUpClosesTheWindow(t *testing.T) {
	row{Config{Up: 0, Down: 2, Window: 1, Faults: 1, Kinds: Faults(FailProduce)}, LoneOnce}.run(t)
}

func TestRow17LostDeliveredDownClosesTheWindow(t *testing.T) {
	row{Config{Up: 2, Down: 0, Window: 1, Faults: 1, Kinds: Faults(FailProduce)}, LoneOnce}.run(t)
}

func TestRow18GraceWhileAttached(t *testing.T) {
	row{Config{Up: 0, Down: 0, Faults: 1, Late: true, Linger: true, Kinds: Faults(Cut)}, Events}.run(t)
}

func TestRow19GraceNeverStarts(t *testing.T) {
	row{Config{Up: 0, Down: 0, Faults: 1, NoDetached: true, Kinds: Faults(AgentGone)}, NeverLapse}.run(t)
}

func TestRow20CloseLost(t *testing.T) {
	row{Config{Up: 0, Down: 0, Faults: 1, Kinds: Faults(FailProduce)}, CloseOnce}.run(t)
}

func TestRow21OpenedBehindItsOwnLoss(t *testing.T) {
	row{Config{Up: 0, Down: 0, Faults: 2, Late: true, Kinds: Faults(Retention, Cut)}, LostUnheeded}.run(t)
}

func TestRow22GraceWhileTheUpLogStands(t *testing.T) {
	row{Config{Up: 0, Down: 0, Faults: 1, Linger: true, Kinds: Faults(Stall)}, StallUntold}.run(t)
}
