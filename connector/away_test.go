package connector

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moorage-dev/moorage/controller"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
)

func TestLookUpFollowsARestart(t *testing.T) {
	j := startJenkins(t, false)
	c, b := j.beside(Config{})
	before := b.until("a reachable Jenkins", reachable)
	j.set(func() { j.down = true })
	j.closePort()
	c.jenkins.reached(false) // as a session finds out
	away := b.until("unreachable", func(j *linkv1.Jenkins) bool { return !j.GetReachable() })
	if away.GetAgentPort() != before.GetAgentPort() || away.GetInstanceIdentity() != before.GetInstanceIdentity() || away.GetEpoch() != before.GetEpoch() {
		t.Errorf("what was known is forgotten: %v", away)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	other := base64.StdEncoding.EncodeToString(der)
	j.openPort()
	j.set(func() {
		j.down = false
		j.listen.Set("X-Instance-Identity", other)
		j.pages.Set("X-Jenkins-Session", "second")
	})
	c.jenkins.look()
	after := b.until("the new Jenkins", func(j *linkv1.Jenkins) bool {
		return j.GetReachable() && j.GetAgentPort() != before.GetAgentPort()
	})
	if after.GetInstanceIdentity() != other || after.GetEpoch() == before.GetEpoch() {
		t.Errorf("found %v, after %v", after, before)
	}
}

// The log says why a Jenkins is away, and says it again when that changes.
func TestLogSaysWhyJenkinsIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		n := newNeighbour(Jenkins{URL: "http://127.0.0.1:8080/"}, time.Second, slog.New(slog.NewTextHandler(&log, nil)), nil)
		for _, why := range []string{"refused", "refused", "status 503", "status 503", "status 503"} {
			for range 10 {
				n.saw(nil, errors.New(why))
				time.Sleep(lookAgain)
			}
		}
		for _, why := range []string{"refused", "status 503"} {
			if c := strings.Count(log.String(), why); c != 1 {
				t.Errorf("%q stands there %d times:\n%s", why, c, log.String())
			}
		}
	})
}

// A Hudson does not name its starts; its jar tells.
func TestEpochOfAHudsonIsItsJars(t *testing.T) {
	j := startJenkins(t, false)
	j.becomeHudson()
	n := start(t, Config{Jenkins: &Jenkins{URL: j.http.URL}}).jenkins
	defer n.client.CloseIdleConnections()
	epoch := func() string {
		t.Helper()
		found, err := n.lookUp(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return found.GetEpoch()
	}
	first := epoch()
	if again := epoch(); again != first {
		t.Errorf("the same Hudson is of epoch %s and %s", first, again)
	}
	j.set(func() { j.jar.Set("Content-Length", "778") })
	if other := epoch(); other == first {
		t.Error("other files, the same epoch")
	}
}

func TestLookUpTakesNothingElseForAJenkins(t *testing.T) {
	for _, tt := range []struct {
		desc string
		how  func(j *fakeJenkins)
		want string // in the error; empty: it is found
	}{
		{"starting", func(j *fakeJenkins) { j.down = true }, "answers 503"},
		{"another server", func(j *fakeJenkins) { j.port, j.pages = 0, nil }, "nothing says that this is a Jenkins"},
		{"a line break in the identity", func(j *fakeJenkins) { j.listen.Set("X-Instance-Identity", identity()[:10]+" "+identity()[10:]) }, "identity"},
		{"no RSA key", func(j *fakeJenkins) { j.listen.Set("X-Instance-Identity", "AAAA") }, "identity"},
		{"the agent port is switched off", func(j *fakeJenkins) { j.port = 0 }, ""},
		{"text that is not UTF-8", func(j *fakeJenkins) { j.listen.Set("X-Remoting-Minimum-Version", "\xff") }, ""},
	} {
		j := startJenkins(t, false)
		j.set(func() { tt.how(j) })
		n := start(t, Config{Jenkins: &Jenkins{URL: j.http.URL}}).jenkins
		found, err := n.lookUp(t.Context())
		n.client.CloseIdleConnections()
		switch {
		case tt.want == "" && err != nil, tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, %v", tt.desc, found, err)
		case err == nil && (found.GetVersion() != "2.999" || found.GetHudson()):
			t.Errorf("%s: found %v", tt.desc, found)
		}
	}
}

func TestSessionIsHeldWhileJenkinsIsAway(t *testing.T) {
	j := startJenkins(t, false)
	c, b := j.beside(Config{})
	b.until("a reachable Jenkins", reachable)
	j.closePort()
	agent, s := c.session(t, remotingSession(remoting.JNLP4, "a1"))
	b.until("unreachable", func(j *linkv1.Jenkins) bool { return !j.GetReachable() })
	j.openPort()
	jenkins := j.dialled()
	wantBytes(t, agent, jenkins, "down")
	s.mu.Lock()
	waits := s.waits
	s.mu.Unlock()
	if len(waits) < 2 || !strings.HasPrefix(waits[0], "the controller's agent port: connection refused, tried since ") || waits[len(waits)-1] != "" {
		t.Errorf("waits for %q", waits)
	}
}

// A controller that starts may turn agents down that it does not know yet.
func TestNobodyIsBroughtToAJenkinsThatStarts(t *testing.T) {
	j := startJenkins(t, false)
	c, b := j.beside(Config{})
	b.until("a reachable Jenkins", reachable)
	j.set(func() { j.down = true }) // its agent port is open
	if found, err := c.jenkins.lookUp(t.Context()); err == nil {
		t.Fatalf("found %v", found)
	} else {
		c.jenkins.saw(nil, err)
	}
	agent, s := c.session(t, remotingSession(remoting.JNLP4, "a1"))
	socket := controller.Info{Kind: linkv1.ServiceKind_SERVICE_KIND_WEBSOCKET, Remoting: &linkv1.Remoting{Agent: "a2"}}
	_, s2 := c.session(t, socket)
	<-s.waited
	<-s2.waited
	for _, tt := range []struct{ got, want string }{
		{s.waiting(), "the controller's agent port: the controller answers no look-up, tried since "},
		{s2.waiting(), "the controller's HTTP port: the controller answers no look-up, tried since "},
	} {
		if !strings.HasPrefix(tt.got, tt.want) {
			t.Errorf("waits for %q, want %q", tt.got, tt.want)
		}
	}
	if len(j.conns) > 0 {
		t.Error("dialled")
	}
	j.set(func() { j.down = false })
	wantBytes(t, agent, j.dialled(), "down")
	<-s2.accepted
}

// What stands before a Jenkins may answer in its place that it is not there.
func TestWebSocketIsTriedAgainUntilJenkinsIsReady(t *testing.T) {
	j := startJenkins(t, false)
	asked := 0
	j.set(func() {
		j.socket = func(w http.ResponseWriter, _ *http.Request) {
			if asked++; asked < 3 {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			http.Error(w, "no such agent", http.StatusBadRequest)
		}
	})
	c, _ := j.beside(Config{})
	_, s := c.session(t, controller.Info{Kind: linkv1.ServiceKind_SERVICE_KIND_WEBSOCKET, Remoting: &linkv1.Remoting{Agent: "a2"}})
	wantEnding(t, s, linkv1.Reason_REASON_OK)
	if status := s.wasAccepted().GetStatus(); status != http.StatusBadRequest || asked != 3 {
		t.Errorf("answered %d after %d requests", status, asked)
	}
}

func TestHoldHasAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, Config{Jenkins: &Jenkins{URL: "http://127.0.0.1:1/"}})
		tries := 0
		s := newSession(remotingSession(remoting.JNLP4, "a1"), nil)
		began := time.Now()
		_, why, _ := c.keepTrying(t.Context(), s, linkv1.ServiceKind_SERVICE_KIND_REMOTING, "the controller's agent port", func(context.Context) (*local, error) {
			tries++
			return nil, syscall.ECONNREFUSED
		})
		if why.Reason != linkv1.Reason_REASON_DIAL_FAILED || why.Text != "the controller's agent port: connection refused, tried for 5m0s" {
			t.Errorf("got %v", why)
		}
		if took := time.Since(began); took != DefaultHold || tries < 30 || tries > 200 {
			t.Errorf("%d tries in %v", tries, took)
		}
	})
}

// The agent gave up, or its grace is over: nobody dials for it any more.
func TestHeldSessionThatEndsIsNotDialled(t *testing.T) {
	j := startJenkins(t, false)
	j.closePort()
	c, _ := j.beside(Config{})
	_, s := c.session(t, remotingSession(remoting.JNLP4, "a1"))
	select {
	case <-s.waited:
	case <-time.After(patience):
		t.Fatal("it waits for nothing")
	}
	s.leave()
	wantEnding(t, s, linkv1.Reason_REASON_OK)
}

func TestAgentPortThatAnswersOddly(t *testing.T) {
	j := startJenkins(t, false)
	j.set(func() { j.refusal = "Unknown protocol:JNLP4-connect\r\n" })
	c, b := j.beside(Config{})
	b.until("a reachable Jenkins", reachable)
	_, s := c.session(t, remotingSession(remoting.JNLP4, "a1"))
	wantEnding(t, s, linkv1.Reason_REASON_REFUSED)
	if s.ending().Text != "the controller does not speak JNLP4-connect" {
		t.Errorf("refused with %q", s.ending().Text)
	}
	_, s = c.session(t, remotingSession("CLI-connect", "a1"))
	wantEnding(t, s, linkv1.Reason_REASON_REFUSED)
}

func TestMissingACKIsNotAwaitedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		go func() { _, _ = far.Read(make([]byte, 100)) }()
		began := time.Now()
		err := greet(near, remoting.JNLP4)
		if took := time.Since(began); err == nil || dialWord(err) != "no answer in time" || took != ackWithin {
			t.Errorf("%v after %v", err, took)
		}
		_ = near.Close()
	})
}

// A connector reaches out; nobody reaches in.
func TestNeverListens(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		code, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"net.Listen", "ListenConfig", "ListenAndServe", "http.Serve"} {
			if strings.Contains(string(code), word) {
				t.Errorf("%s has %s", name, word)
			}
		}
	}
}
