package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/moorage-dev/moorage/standin"
)

// legacy are the stand-ins for a Jenkins and its agents that a script has
// started.
type legacy struct {
	identity *rsa.PrivateKey     // of Jenkins; nil: never started
	jenkins  *standin.Controller // nil: it is not running
	stop     func()              // it
}

// legacies is the key of a script's.
const legacies = "legacy peers"

// jenkins start|stop HTTP-ADDRESS TCP-ADDRESS runs a Jenkins there, which is
// the same one again when it is started again.
func jenkins(ts *testscript.TestScript, _ bool, args []string) {
	l := ts.Value(legacies).(*legacy)
	if args[0] == "stop" {
		l.stop()
		l.jenkins = nil
		return
	}
	if l.identity == nil {
		var err error
		l.identity, err = rsa.GenerateKey(rand.Reader, 2048)
		ts.Check(err)
	}
	c, err := standin.NewController(standin.Config{ListenHTTP: args[1], ListenTCP: args[2], Identity: l.identity, Key: []byte("thirty-two bytes of a secret key")})
	ts.Check(err)
	l.jenkins, l.stop = c, inBackground(ts, c.Run)
}

// agent NAME URL [websocket] runs a stock agent and returns when it is online.
func agent(ts *testscript.TestScript, _ bool, args []string) {
	l := ts.Value(legacies).(*legacy)
	a := &standin.Agent{Name: args[0], URL: args[1], WebSocket: len(args) > 2, Secret: l.jenkins.Secret(args[0])}
	inBackground(ts, a.Run)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ts.Check(l.jenkins.WaitOnline(ctx, a.Name))
}

// build NAME waits until the agent is online, and sends it a megabyte to work on.
func build(ts *testscript.TestScript, _ bool, args []string) {
	l := ts.Value(legacies).(*legacy)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ts.Check(l.jenkins.WaitOnline(ctx, args[0]))
	ts.Check(l.jenkins.Call(ctx, args[0], 100<<10, 1<<20))
}

// inBackground runs a peer until the script ends, or stop is called.
func inBackground(ts *testscript.TestScript, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = run(ctx) }) // whatever it says, the script sees what became of it
	stop = func() {
		cancel()
		wg.Wait()
	}
	ts.Defer(stop)
	return stop
}
