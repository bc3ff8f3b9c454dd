package legacy_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// verdicts are how the builds ended, to be seen side by side.
type verdicts struct {
	mu  sync.Mutex
	all []string
}

func (v *verdicts) add(t *testing.T, verdict string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if t.Failed() {
		verdict += ", but the test FAILED"
	}
	name := t.Name()
	v.all = append(v.all, fmt.Sprintf("%-60s %s", strings.ReplaceAll(name[strings.LastIndexByte(name, '/')+1:], "_", " "), verdict))
}

func (v *verdicts) print(t *testing.T, g generation) {
	slices.Sort(v.all)
	fmt.Fprintf(t.Output(), "Hudson %s, %s:\n%s\n", g.name, g.protocol, strings.Join(v.all, "\n"))
}
