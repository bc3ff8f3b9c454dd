package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/standin"
)

// legacyController is the name of the stand-in controller that legacy agents
// are led to.
const legacyController = "bench-legacy"

// The ways of an agent to its controller.
const (
	directly = "direct" // TCP, nothing between
	tier0    = "tier 0" // gateway, Kafka, connector
	tier1    = "tier 1" // shim, gateway, Kafka, connector
)

// ways are all of them, in the order in which they are measured.
var ways = []string{directly, tier0, tier1}

// identityKey is what every controller of this program shows, for a gateway
// may still know the one of the run before.
var identityKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// A site is a stand-in for a Jenkins and the ways to it. Controller and agents
// stand in this process, on all ways alike, so that the ways' difference is
// what stands between them.
type site struct {
	jenkins *standin.Controller
	urls    map[string]string // where agents find it, by way

	gateway, connector, shim *process
	connectorTalk            *talk
	metrics                  string // of the gateway

	dir  string // the shim's state
	stop context.CancelFunc
	done chan struct{} // the controller has ended
}

// newSite starts a controller that can be reached directly.
func newSite(ctx context.Context, loginCalls int) (*site, error) {
	key, err := identityKey()
	if err != nil {
		return nil, err
	}
	s := &site{done: make(chan struct{})}
	if s.jenkins, err = standin.NewController(standin.Config{Identity: key, LoginCalls: loginCalls}); err != nil {
		return nil, err
	}
	s.urls = map[string]string{directly: s.jenkins.URL}
	ctx, s.stop = context.WithCancel(ctx)
	go func() {
		defer close(s.done)
		_ = s.jenkins.Run(ctx) // it ends when it is told to
	}()
	return s, nil
}

// surrounded is a site with all of moorage around it; an agent has been online
// by each way.
func (b *bench) surrounded(ctx context.Context, loginCalls int) (*site, error) {
	s, err := newSite(ctx, loginCalls)
	if err != nil {
		return nil, err
	}
	if err := s.surround(ctx, b); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *site) surround(ctx context.Context, b *bench) (err error) {
	out, err := exec.CommandContext(ctx, b.moorage, "topics", "create", "--kafka", b.kafka,
		"--controller", legacyController, "--single-broker").CombinedOutput()
	if err != nil {
		return fmt.Errorf("topics create: %w: %s", err, out)
	}
	if err := s.startConnector(ctx, b); err != nil {
		return err
	}
	gateway, shim, err := twoAddrs()
	if err != nil {
		return err
	}
	if s.metrics, err = freeAddr(); err != nil {
		return err
	}
	if s.gateway, err = start(ctx, b.moorage, append(gatewayArgs(b, gateway, s.metrics), "--door", legacyController)...); err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	if s.shim, err = start(ctx, b.moorage, "shim", "--gateway", gateway, "--controller", legacyController, "--agent", "bench",
		"--insecure", "--door", shim, "--state-dir", s.dir, "--log-level", "error"); err != nil {
		return err
	}
	s.urls[tier0], s.urls[tier1] = "http://"+gateway+"/", "http://"+shim+"/"
	for _, addr := range []string{gateway, shim} {
		if err := waitListening(ctx, addr); err != nil {
			return err
		}
	}
	return s.settle(ctx, ways...)
}

// startConnector starts the connector with its collections on its standard
// error: it serves nothing that could be asked.
func (s *site) startConnector(ctx context.Context, b *bench) (err error) {
	s.connectorTalk = &talk{}
	s.connector, err = startWith(ctx, s.connectorTalk, []string{"GODEBUG=gctrace=1"}, b.moorage, "connector",
		"--kafka", b.kafka, "--controller", legacyController, "--single-broker", "--jenkins", s.jenkins.URL, "--log-level", "error")
	return err
}

// settle waits until an agent comes online by each way. A gateway that starts
// may lead the first to the connector of the run before, whose heartbeats it
// reads first.
func (s *site) settle(ctx context.Context, ways ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	for _, way := range ways {
		for {
			try, cancelTry := context.WithTimeout(ctx, 15*time.Second)
			a, _, err := s.online(try, way, "probe")
			cancelTry()
			if err == nil {
				if err := a.leave(ctx); err != nil {
					return err
				}
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("no agent comes online, %s: %w", way, err)
			}
			rest(ctx, 200*time.Millisecond)
		}
	}
	return nil
}

// close ends all of it.
func (s *site) close() {
	s.shim.stop()
	s.gateway.stop()
	s.connector.stop()
	s.stop()
	<-s.done
	if s.dir != "" {
		_ = os.RemoveAll(s.dir) // a temporary folder
	}
}

// An inbound is one life of a stand-in agent.
type inbound struct {
	site *site
	name string
	stop context.CancelFunc
	done chan struct{}
	err  error // valid when done is closed
}

// online starts an agent and waits until the controller counts it as online;
// took is how long that was.
func (s *site) online(ctx context.Context, way, name string) (a *inbound, took time.Duration, err error) {
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	a = &inbound{site: s, name: name, stop: stop, done: make(chan struct{})}
	agent := &standin.Agent{Name: name, Secret: s.jenkins.Secret(name), URL: s.urls[way], NoReconnect: true}
	wait, failed := context.WithCancelCause(ctx)
	defer failed(nil)
	begin := time.Now()
	go func() {
		defer close(a.done)
		a.err = agent.Run(life)
		failed(a.err)
	}()
	err = s.jenkins.WaitOnline(wait, name)
	took = time.Since(begin)
	if err != nil {
		stop()
		<-a.done
		return nil, 0, fmt.Errorf("agent %s, %s: %w", name, way, errors.Join(err, a.err))
	}
	return a, took, nil
}

// leave ends the agent and waits until the controller knows.
func (a *inbound) leave(ctx context.Context) error {
	a.stop()
	<-a.done
	return a.site.jenkins.WaitOffline(ctx, a.name)
}

// call is one command of 256 bytes to the agent and its answer of as many.
func (a *inbound) call(ctx context.Context) error { return a.site.jenkins.Call(ctx, a.name, 256, 256) }
