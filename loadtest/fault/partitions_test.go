package fault

import (
	"strings"
	"testing"

	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// TestChaosAddsPartitionsWhileThereIsRoom: a run whose topics start with many
// partitions ends without a fault that could not be done.
func TestChaosAddsPartitionsWhileThereIsRoom(t *testing.T) {
	for _, tt := range []struct{ start, planned, want int }{
		{0, 0, 3}, // 16, and three times is chaos's own bound
		{32, 0, 3},
		{64, 0, 2},
		{256, 0, 0},
		{1024, 0, 0},
		{0, 2, 1},
		{64, 1, 1}, // room for one beside the scenario's own
	} {
		sc := minute("embedded")
		sc.Local.Partitions = tt.start
		for i := range tt.planned {
			sc.Faults = append(sc.Faults, scenario.Fault{At: seconds(float64(20 + i)), Do: AddPartitions})
		}
		sc.Chaos = &scenario.Chaos{Every: seconds(1), Kinds: []string{AddPartitions, Cut}}
		for seed := range uint64(10) {
			plan, err := Plan(sc, Kinds, seed)
			if err != nil {
				t.Fatal(err)
			}
			added := 0
			for _, f := range plan {
				if f.Do == AddPartitions {
					added++
				}
			}
			if added != tt.planned+tt.want {
				t.Errorf("%d partitions, %d times planned: added %d times, want %d", tt.start, tt.planned, added, tt.planned+tt.want)
			}
		}
	}
}

// TestPartitionsThatCannotBeAreToldBeforeAnyLoad: all that is planned counts, in
// the order of time.
func TestPartitionsThatCannotBeAreToldBeforeAnyLoad(t *testing.T) {
	count := func(n string) map[string]string { return map[string]string{"count": n} }
	for _, tt := range []struct {
		start  int
		faults []scenario.Fault
		want   string // "": it can be
	}{
		{64, []scenario.Fault{{At: seconds(1), Do: AddPartitions, Every: seconds(10), Times: 2}}, ""},
		{64, []scenario.Fault{{At: seconds(1), Do: AddPartitions, Every: seconds(10), Times: 3}},
			"scenario: faults[0]: add-partitions at 21s: 256 partitions and 256 more are above 256"},
		{0, []scenario.Fault{{At: seconds(1), Do: AddPartitions, With: count("48")}, {At: seconds(9), Do: AddPartitions}}, ""},
		{0, []scenario.Fault{{At: seconds(9), Do: AddPartitions}, {At: seconds(1), Do: AddPartitions, With: count("8")}},
			"scenario: faults[1]: add-partitions at 1s: 16 partitions and 8 more are 24, which is no power of two; set count to 16, or leave it out"},
		{0, []scenario.Fault{{At: seconds(9), Do: AddPartitions, With: count("16")}, {At: seconds(1), Do: AddPartitions}},
			"scenario: faults[0]: add-partitions at 9s: 32 partitions and 16 more are 48, which is no power of two"},
		{512, []scenario.Fault{{At: seconds(1), Do: AddPartitions}}, "scenario: faults[0]: add-partitions at 1s: 512 partitions and 512 more are above 256"},
	} {
		sc := minute("embedded", tt.faults...)
		sc.Local.Partitions = tt.start
		_, err := Plan(sc, Kinds, 1)
		if tt.want == "" && err != nil {
			t.Errorf("%v", err)
		}
		if tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)) {
			t.Errorf("got  %v\nwant %s", err, tt.want)
		}
	}
}
