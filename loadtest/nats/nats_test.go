package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/moorage-dev/moorage/loadtest/baseline"
	"github.com/moorage-dev/moorage/loadtest/baseline/transporttest"
	"github.com/moorage-dev/moorage/loadtest/worker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start starts a server with a store of its own, and returns a plan for it.
func start(t testing.TB) *worker.Plan {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- serve(ctx, serverConfig{"127.0.0.1:0", t.TempDir()}, func(addr string) { ready <- addr })
	}()
	select {
	case addr := <-ready:
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		return &worker.Plan{Transport: baseline.NATS, Run: "test-1", Gateways: []string{addr}}
	case err := <-done:
		cancel()
		t.Fatal(err)
		return nil
	}
}

func TestTransport(t *testing.T) {
	transporttest.Run(t, Transport{}, func(t *testing.T) *worker.Plan { return start(t) })
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"swim"}, {"serve"}, {"serve", "--dir"}, {"serve", "--dir", "x", "y"}} {
		if err := run(t.Context(), args, strings.NewReader(""), new(bytes.Buffer)); !errors.Is(err, errUsage) {
			t.Errorf("%q: %v, want an error of usage", args, err)
		}
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--help"}, nil, &out); err != nil || out.String() != usage {
		t.Errorf("--help says %q, %v", out.String(), err)
	}
}

func TestAServerThatCannotListenSaysSo(t *testing.T) {
	for listen, want := range map[string]string{"nowhere": "--listen", "127.0.0.1:99999": "65535"} {
		err := serve(t.Context(), serverConfig{listen, t.TempDir()}, func(string) {})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", listen, err, want)
		}
	}
}
