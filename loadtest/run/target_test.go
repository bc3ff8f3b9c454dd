package run_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/moorage-dev/moorage/loadtest/access"
	"github.com/moorage-dev/moorage/loadtest/run"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// A door leads to its deployment's own controller, a shim wherever it is told.
func TestOthersDoorsAreLeftAlone(t *testing.T) {
	cfg := config(&stage{t: t})
	cfg.Site.Gateways, cfg.Site.Kafka = []string{"g:1"}, []string{"k:1"}
	for door, want := range map[string]string{"": "write door: shim", "gateway": "write door: shim", scenario.DoorShim: ""} {
		cfg.Scenario.Groups = []scenario.Group{{Name: "old", Kind: scenario.Legacy, Door: door, Agents: 1}}
		err := cfg.Check()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("door %q: got %v, want %q", door, err, want)
		}
	}
}

// The password of others' Kafka goes to the application alone, and not into
// what is written down.
func TestPasswordGoesToTheApplicationAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t}
		cfg := config(s)
		cfg.Site.Gateways, cfg.Site.Kafka = []string{"g:1"}, []string{"k:1"}
		cfg.Site.Access = access.Kafka{TLS: true, Mechanism: "PLAIN", User: "load", Password: "hunter2"}
		var mu sync.Mutex
		told := map[string]bool{} // by worker: whether it was told
		cfg.Spawn = func(ctx context.Context, system, name string) (*run.Child, error) {
			child, err := s.spawn(ctx, system, name)
			child.In = &ear{WriteCloser: child.In, hears: func(line []byte) {
				mu.Lock()
				defer mu.Unlock()
				told[name] = told[name] || bytes.Contains(line, []byte("hunter2"))
			}}
			return child, err
		}
		r, err := run.Run(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := json.Marshal(r); err != nil || bytes.Contains(b, []byte("hunter2")) {
			t.Errorf("the results have the password, or %v", err)
		}
		if want := map[string]bool{"app": true, "agents-1": false}; !maps.Equal(told, want) {
			t.Errorf("told the password: %v, want %v", told, want)
		}
	})
}

// An ear hears what is said to a worker.
type ear struct {
	io.WriteCloser
	hears func(line []byte)
}

func (e *ear) Write(line []byte) (int, error) {
	e.hears(line)
	return e.WriteCloser.Write(line)
}
