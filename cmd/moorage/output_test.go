package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	logv1 "github.com/moorage-dev/moorage/proto/moorage/log/v1"
)

func TestTableKeepsTheTerminal(t *testing.T) {
	var b bytes.Buffer
	table := newTable(&b, "AGENT", "TEXT")
	table.row("evil\x1b[2J\n", "two\twords")
	table.row("", 7)
	if err := table.flush(); err != nil {
		t.Fatal(err)
	}
	want := "AGENT      TEXT\nevil�[2J�  two�words\n-          7\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestSessionLine(t *testing.T) {
	l := newSessionLine("ci", &logv1.SessionPresence{
		SessionId: []byte{0x3f, 0x9a}, Agent: "a1", Gateway: "gw1", Attempt: 3,
		State: logv1.SessionState_SESSION_STATE_ENDED, Reason: linkv1.Reason_REASON_DATA_LOSS, Text: "retention passed",
		Kind: linkv1.ServiceKind_SERVICE_KIND_TCP, Service: "web", OpenedMs: 1_800_000_000_000,
		Incarnation: &linkv1.Incarnation{TopicId: []byte("0123456789abcdef"), Offset: 7},
	})
	got, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"session":"3f9a"`, `"state":"ended"`, `"gateway":"gw1"`, `"attempt":3`, `"kind":"tcp"`, `"service":"web"`,
		`"opened":"2027-01-15T08:00:00Z"`, `"reason":"DATA_LOSS"`, `"incarnation":"30313233-7"`,
	} {
		if !strings.Contains(string(got), want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
	if strings.Contains(string(got), `"since"`) {
		t.Errorf("an absent time is printed: %s", got)
	}
	if native := (&sessionLine{Kind: "native"}).what(); l.what() != "tcp:web" || native != "native" {
		t.Errorf("what: %q and %q", l.what(), native)
	}
}

// TestLegacySessionLine holds that an administrator reads which agent it is,
// how it is connected, for how long it has been away, and what it waits for.
func TestLegacySessionLine(t *testing.T) {
	now := time.UnixMilli(1_800_000_040_500)
	l := newSessionLine("ci", &logv1.SessionPresence{
		Agent: "shim-host", LegacyAgent: "linux-7", Protocol: "JNLP4-connect", Kind: linkv1.ServiceKind_SERVICE_KIND_REMOTING,
		State: logv1.SessionState_SESSION_STATE_DETACHED, SinceMs: 1_800_000_000_000, Waits: "its agent to come back, 4m0s at most",
	})
	got := []string{l.who(), l.what(), l.detached(now), l.why(now)}
	want := []string{"linux-7", "JNLP4-connect", "40s", "waits for its agent to come back, 4m0s at most"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	printed, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"agent":"shim-host"`, `"legacy_agent":"linux-7"`, `"protocol":"JNLP4-connect"`, `"waits":"its agent`} {
		if !strings.Contains(string(printed), want) {
			t.Errorf("no %s in %s", want, printed)
		}
	}
}

// TestSessionOfSilentController holds that a killed controller's last word is
// not passed on as if it were still so.
func TestSessionOfSilentController(t *testing.T) {
	const attached, ended = logv1.SessionState_SESSION_STATE_ATTACHED, logv1.SessionState_SESSION_STATE_ENDED
	now := time.Unix(1_800_000_000, 0)
	for _, tt := range []struct {
		desc       string
		last       logv1.SessionState
		heard      time.Time
		state, why string
	}{
		{"beats", attached, now.Add(-time.Second), "attached", ""},
		{"the broker's clock is ahead", attached, now.Add(time.Second), "attached", ""},
		{"killed", attached, now.Add(-25 * time.Second), "unknown", "was attached; controller not heard of for 25s"},
		{"its beats are gone", attached, time.Time{}, "unknown", "was attached; controller not heard of for more than 10s"},
		{"ended before", ended, now.Add(-25 * time.Second), "ended", ""},
	} {
		l := newSessionLine("ci", &logv1.SessionPresence{State: tt.last})
		l.doubt(tt.heard, now)
		if l.State != tt.state || l.why(now) != tt.why {
			t.Errorf("%s: got %s, %q; want %s, %q", tt.desc, l.State, l.why(now), tt.state, tt.why)
		}
	}
}

func TestGatewayState(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, tt := range []struct {
		desc     string
		ago      time.Duration
		draining bool
		want     string
	}{
		{"beats", time.Second, false, "serving"},
		{"beats and leaves", time.Second, true, "draining"},
		{"gone while draining", time.Minute, true, "silent"},
		{"the broker's clock is ahead", -time.Second, false, "serving"},
	} {
		l := newGatewayLine(&logv1.GatewayHeartbeat{Draining: tt.draining}, now.Add(-tt.ago), now)
		if l.State != tt.want {
			t.Errorf("%s: %s, want %s", tt.desc, l.State, tt.want)
		}
	}
}
