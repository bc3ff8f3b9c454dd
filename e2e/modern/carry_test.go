package modern_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/standin"
)

// sizes are of what one command carries: around the bounds of chunks, frames
// and messages, and what a build may make of it.
var sizes = []int{0, 1, 2, 8190, 8191, 8192, 8193, 32 << 10, 65534, 65535, 65536, 65537, 1 << 20, 5<<20 + 1}

const largest = 64 << 20

// Each sort of modern agent comes online in both tiers, and commands of all
// sizes pass both ways as they were sent.
func TestCommandsOfAllSizes(t *testing.T) {
	t.Parallel()
	s := newSite(t, standin.Config{}, nil)
	var names []string
	for _, m := range manners {
		for tier, door := range []string{s.places[0], s.startShim("t1-" + m.word).door} {
			name := fmt.Sprintf("t%d-%s", tier, m.word)
			s.startAgent(name, door, m)
			names = append(names, name)
		}
	}
	s.jenkins.wantAgents(t, len(names), 60*time.Second)
	for _, one := range s.jenkins.Agents() {
		t.Logf("%s is online by %s", one.Name, one.Protocol)
	}
	for _, name := range names {
		for i, size := range sizes {
			s.jenkins.call(t, name, size, sizes[len(sizes)-1-i], time.Minute)
		}
	}
	if stats := s.jenkins.Stats(); stats.Lost != 0 || stats.Corrupt != 0 || stats.CloseNotify != 0 || stats.Online != len(names) {
		t.Errorf("at the controller: %+v", stats)
	}
}

// A command of 64 MB goes each way, in both tiers.
func TestLargestCommands(t *testing.T) {
	t.Parallel()
	s := newSite(t, standin.Config{}, nil)
	for tier, door := range []string{s.places[0], s.startShim("t1-websocket").door} {
		for _, m := range []manner{manners[0], manners[3]} {
			name := fmt.Sprintf("t%d-%s", tier, m.word)
			s.startAgent(name, door, m)
			s.jenkins.wantOnline(t, name, 30*time.Second)
			began := time.Now()
			s.jenkins.call(t, name, largest, largest, 2*time.Minute)
			t.Logf("%s: 64 MB down and 64 MB up took %v", name, time.Since(began).Round(10*time.Millisecond))
		}
	}
}
