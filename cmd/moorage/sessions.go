package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/proto/envelope"
	logv1 "github.com/moorage-dev/moorage/proto/moorage/log/v1"
)

type sessionsCmd struct {
	List sessionsListCmd `cmd:"" default:"withargs" help:"List sessions."`
	Show sessionsShowCmd `cmd:"" help:"Show all that is known of one session."`
	End  sessionsEndCmd  `cmd:"" help:"End a session; both its ends are told so."`
}

// A sessionLine is one session as the commands print it: what its controller
// last wrote of it.
type sessionLine struct {
	Session       string            `json:"session"`
	Controller    string            `json:"controller"`
	Agent         string            `json:"agent"`
	State         string            `json:"state"`                     // attached, detached, ended; unknown: no controller says so any more
	Was           string            `json:"was,omitzero"`              // what the state was when it was last known
	Heard         time.Time         `json:"controller_heard,omitzero"` // the controller's last heartbeat, with unknown
	Gateway       string            `json:"gateway"`
	Attempt       uint32            `json:"attempt"`
	Kind          string            `json:"kind"`
	Service       string            `json:"service,omitzero"`
	Protocol      string            `json:"protocol,omitzero"`
	LegacyAgent   string            `json:"legacy_agent,omitzero"`
	Waits         string            `json:"waits,omitzero"`
	Opened        time.Time         `json:"opened,omitzero"`
	Since         time.Time         `json:"since,omitzero"`
	Reason        string            `json:"reason,omitzero"`
	Text          string            `json:"text,omitzero"`
	RemoteAddress string            `json:"remote_address,omitzero"`
	UpBytes       uint64            `json:"up_bytes"`
	DownBytes     uint64            `json:"down_bytes"`
	Partition     int32             `json:"partition"`
	Incarnation   string            `json:"incarnation"`
	Labels        map[string]string `json:"labels,omitzero"`

	presence *logv1.SessionPresence
}

func newSessionLine(controller string, s *logv1.SessionPresence) sessionLine {
	var topic envelope.TopicID
	copy(topic[:], s.GetIncarnation().GetTopicId())
	return sessionLine{
		Session:       fmt.Sprintf("%x", s.GetSessionId()),
		Controller:    controller,
		Agent:         s.GetAgent(),
		State:         word(s.GetState().String(), "SESSION_STATE_"),
		Gateway:       s.GetGateway(),
		Attempt:       s.GetAttempt(),
		Kind:          word(s.GetKind().String(), "SERVICE_KIND_"),
		Service:       s.GetService(),
		Protocol:      s.GetProtocol(),
		LegacyAgent:   s.GetLegacyAgent(),
		Waits:         s.GetWaits(),
		Opened:        fromMillis(s.GetOpenedMs()),
		Since:         fromMillis(s.GetSinceMs()),
		Reason:        reasonWord(s),
		Text:          s.GetText(),
		RemoteAddress: s.GetRemoteAddress(),
		UpBytes:       s.GetUpBytes(),
		DownBytes:     s.GetDownBytes(),
		Partition:     s.GetPartition(),
		Incarnation:   envelope.Incarnation{Topic: topic, Offset: s.GetIncarnation().GetOffset()}.String(),
		Labels:        s.GetLabels(),
		presence:      s,
	}
}

// word is an enum's name as people and scripts see it.
func word(name, prefix string) string {
	return strings.ToLower(strings.TrimPrefix(name, prefix))
}

// reasonWord keeps the capitals: reasons are written so everywhere.
func reasonWord(s *logv1.SessionPresence) string {
	if s.GetReason() == 0 {
		return ""
	}
	return strings.TrimPrefix(s.GetReason().String(), "REASON_")
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// readSessions returns what controllers last wrote of their sessions, oldest
// first. Of records that are not of Moorage the log tells how many there are.
func readSessions(ctx context.Context, client *bridge.Client, log *slog.Logger, prefix string, only controllerName) ([]sessionLine, error) {
	controllers, err := controllersOf(ctx, client, prefix, only)
	if err != nil {
		return nil, err
	}
	var all []sessionLine
	for _, controller := range controllers {
		latest := map[string]sessionLine{}
		topic, foreign := client.Topics(controller).Sessions, 0
		err := readState(ctx, client, topic, func(m bridge.Message) {
			delete(latest, string(m.Key))
			if m.Value == nil {
				return
			}
			var s logv1.SessionPresence
			if proto.Unmarshal(m.Value, &s) != nil || len(s.GetSessionId()) != len(envelope.SessionID{}) {
				foreign++
				return
			}
			latest[string(m.Key)] = newSessionLine(controller, &s)
		})
		if err != nil {
			return nil, err
		}
		if foreign > 0 {
			log.Warn("sessions: records that are not of Moorage; who else writes here?", "topic", topic, "records", foreign)
		}
		all = slices.AppendSeq(all, maps.Values(latest))
	}
	slices.SortFunc(all, func(a, b sessionLine) int {
		return cmp.Or(a.Opened.Compare(b.Opened), cmp.Compare(a.Session, b.Session))
	})
	return all, nil
}

// doubt marks what no controller vouches for any more. A process that is killed
// cannot write that its sessions are over: its successor does, if one comes.
// Only heartbeats say that it lives.
//
// They are read from the gateways topic, where controllers beat too, for that is
// what an operator's access rules let him read.
func doubt(ctx context.Context, client *bridge.Client, lines []sessionLine) error {
	if !slices.ContainsFunc(lines, sessionLine.open) {
		return nil
	}
	heard := map[string]time.Time{}
	err := readState(ctx, client, client.GatewaysTopic(), func(m bridge.Message) {
		var beat logv1.GatewayHeartbeat
		if m.Value != nil && proto.Unmarshal(m.Value, &beat) == nil && beat.GetController() {
			heard[beat.GetName()] = m.Time.UTC()
		}
	})
	if err != nil {
		return err
	}
	now := time.Now()
	for i := range lines {
		lines[i].doubt(heard[lines[i].Controller], now)
	}
	return nil
}

// open reports whether the controller's last word is that the session lives.
func (l sessionLine) open() bool {
	return l.presence.GetState() != logv1.SessionState_SESSION_STATE_ENDED
}

// doubt makes the state unknown when the controller has been silent too long.
func (l *sessionLine) doubt(heard, now time.Time) {
	if l.open() && now.Sub(heard) > silentAfter {
		l.State, l.Was, l.Heard = "unknown", l.State, heard
	}
}

// controllersOf returns the one asked for, or all that have topics.
func controllersOf(ctx context.Context, client *bridge.Client, prefix string, only controllerName) ([]string, error) {
	if only != "" {
		return []string{string(only)}, nil
	}
	topics, err := client.ListTopics(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, topic := range topics {
		name, ok := strings.CutSuffix(strings.TrimPrefix(topic.Name, prefix), ".sessions")
		if ok && bridge.ValidController(name) == nil {
			names = append(names, name)
		}
	}
	return names, nil
}

type sessionsListCmd struct {
	kafkaFlags
	Controller controllerName `placeholder:"NAME" help:"Only this controller's; all by default."`
	State      []string       `enum:"attached,detached,ended,unknown" default:"attached,detached,ended,unknown" help:"Only in these states (${enum})."`
	JSON       bool           `name:"json" help:"Print one JSON array."`
}

// Help gives the examples.
func (*sessionsListCmd) Help() string {
	return `
A session is unknown when its controller has not been heard of for 10 s, by the clocks of this host and the brokers:
its last word may be out of date. A successor of the controller ends it.

Examples:

  moorage sessions list --kafka k1.example.org:9092
  moorage sessions --kafka k1.example.org:9092 --controller ci --state attached,detached --json
`
}

// Run prints the list.
func (c *sessionsListCmd) Run(ctx context.Context, p *process) error {
	client, err := c.dial(ctx, p)
	if err != nil {
		return err
	}
	defer client.Close()
	lines, err := readSessions(ctx, client, p.log, string(c.TopicPrefix), c.Controller)
	if err != nil {
		return err
	}
	if err := doubt(ctx, client, lines); err != nil {
		return err
	}
	lines = slices.DeleteFunc(lines, func(l sessionLine) bool { return !slices.Contains(c.State, l.State) })
	if c.JSON {
		return printJSON(p.stdout, append([]sessionLine{}, lines...))
	}
	now := time.Now()
	t := newTable(p.stdout, "SESSION", "CONTROLLER", "AGENT", "WHAT", "STATE", "GATEWAY", "OPENED", "DETACHED", "UP", "DOWN", "REASON, OR WAITS FOR")
	for _, l := range lines {
		t.row(l.Session, l.Controller, l.who(), l.what(), l.State, l.Gateway, age(l.Opened, now), l.detached(now), l.UpBytes, l.DownBytes, l.why(now))
	}
	return t.flush()
}

// who is the agent as people know it: a legacy agent's own name is better than
// that of the shim before it.
func (l *sessionLine) who() string { return cmp.Or(l.LegacyAgent, l.Agent) }

// what is what the agent side asked for; a legacy agent's protocol says it all.
func (l *sessionLine) what() string {
	if l.Protocol != "" {
		return l.Protocol
	}
	return strings.TrimSuffix(l.Kind+":"+l.Service, ":")
}

// detached is for how long the agent has been away.
func (l *sessionLine) detached(now time.Time) string {
	if l.presence.GetState() != logv1.SessionState_SESSION_STATE_DETACHED {
		return ""
	}
	return age(l.Since, now)
}

// why is the reason why a session ended, or what one waits for that has not,
// or why nobody knows.
func (l *sessionLine) why(now time.Time) string {
	if l.Was != "" {
		return fmt.Sprintf("was %s; controller not heard of %s", l.Was, l.silence(now))
	}
	if l.Waits != "" {
		return "waits for " + l.Waits
	}
	return strings.TrimSpace(l.Reason + " " + l.Text)
}

// silence is for how long a controller has not been heard of that is silent.
func (l *sessionLine) silence(now time.Time) string {
	if l.Heard.IsZero() {
		return "for more than " + silentAfter.String() // or ever: its beats are gone
	}
	return "for " + age(l.Heard, now)
}

// oneSession names a session for show and end.
type oneSession struct {
	kafkaFlags
	Session    string         `arg:"" help:"The session's id, or as much of its beginning as is unambiguous."`
	Controller controllerName `placeholder:"NAME" help:"Whose session; all controllers are searched by default."`
}

func (c *oneSession) find(ctx context.Context, client *bridge.Client, p *process) (sessionLine, error) {
	if c.Session == "" {
		return sessionLine{}, usagef("<session> is empty; give the beginning of an id, moorage sessions list shows them")
	}
	lines, err := readSessions(ctx, client, p.log, string(c.TopicPrefix), c.Controller)
	if err != nil {
		return sessionLine{}, err
	}
	lines = slices.DeleteFunc(lines, func(l sessionLine) bool { return !strings.HasPrefix(l.Session, strings.ToLower(c.Session)) })
	switch len(lines) {
	case 0:
		return sessionLine{}, fmt.Errorf("no session %s; moorage sessions list shows what there is", c.Session)
	case 1:
		return lines[0], nil
	}
	return sessionLine{}, fmt.Errorf("%d sessions begin with %s; give more of the id", len(lines), c.Session)
}

type sessionsShowCmd struct {
	oneSession
	JSON bool `name:"json" help:"Print one JSON object."`
}

// Help gives the example.
func (*sessionsShowCmd) Help() string {
	return "\nExample:\n\n  moorage sessions show 3f9a --kafka k1.example.org:9092\n"
}

// Run prints the session.
func (c *sessionsShowCmd) Run(ctx context.Context, p *process) error {
	client, err := c.dial(ctx, p)
	if err != nil {
		return err
	}
	defer client.Close()
	l, err := c.find(ctx, client, p)
	if err != nil {
		return err
	}
	one := []sessionLine{l}
	if err := doubt(ctx, client, one); err != nil {
		return err
	}
	l = one[0]
	if c.JSON {
		return printJSON(p.stdout, l)
	}
	t := newTable(p.stdout, "session", l.Session)
	t.row("controller", l.Controller)
	t.row("incarnation", l.Incarnation)
	t.row("agent", l.Agent)
	t.row("legacy agent", l.LegacyAgent)
	t.row("remote address", l.RemoteAddress)
	t.row("what", l.what())
	t.row("state", l.State)
	if l.Was != "" {
		t.row("was", l.Was)
		t.row("controller heard", stamp(l.Heard))
	}
	t.row("gateway", l.Gateway)
	t.row("attempt", l.Attempt)
	t.row("partition", l.Partition)
	t.row("opened", stamp(l.Opened))
	t.row("since", stamp(l.Since))
	t.row("waits for", l.Waits)
	t.row("reason", l.Reason)
	t.row("text", l.Text)
	t.row("bytes up", l.UpBytes)
	t.row("bytes down", l.DownBytes)
	for _, name := range slices.Sorted(maps.Keys(l.Labels)) {
		t.row("label "+name, l.Labels[name])
	}
	return t.flush()
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339)
}

type sessionsEndCmd struct {
	oneSession
	Text string `default:"ended by an operator" help:"Why, for the people at both ends."`
}

// Help gives the example.
func (*sessionsEndCmd) Help() string {
	return `
The order goes to the session's controller through Kafka; the session then ends with the reason OPERATOR.
Where the controller is silent, this says so: the order waits for it, and a successor, which never sees the order,
ends the session by itself.

Example:

  moorage sessions end 3f9a --kafka k1.example.org:9092 --text maintenance
`
}

// Run writes the order and waits until Kafka has it.
func (c *sessionsEndCmd) Run(ctx context.Context, p *process) error {
	client, err := c.dial(ctx, p)
	if err != nil {
		return err
	}
	defer client.Close()
	l, err := c.find(ctx, client, p)
	if err != nil {
		return err
	}
	if l.presence.GetState() == logv1.SessionState_SESSION_STATE_ENDED {
		return fmt.Errorf("session %s has ended already: %s %s", l.Session, l.Reason, l.Text)
	}
	if err := writeEnd(ctx, client, l, c.Text); err != nil {
		return fmt.Errorf("session %s: %w", l.Session, err)
	}
	_, err = fmt.Fprintln(p.stdout, orderGiven(ctx, client, l))
	return err
}

// orderGiven says what is known once Kafka has the order: whether somebody is
// there who takes it.
func orderGiven(ctx context.Context, client *bridge.Client, l sessionLine) string {
	one := []sessionLine{l}
	switch err := doubt(ctx, client, one); {
	case err != nil:
		return fmt.Sprintf("session %s: the order is in Kafka; whether controller %s is there to take it is not known: %v", l.Session, l.Controller, err)
	case one[0].Was != "":
		return fmt.Sprintf("session %s: the order is in Kafka, but controller %s has not been heard of %s; it ends the session once it is back, and a successor does without the order",
			l.Session, l.Controller, one[0].silence(time.Now()))
	}
	return fmt.Sprintf("session %s: told controller %s to end it", l.Session, l.Controller)
}

func writeEnd(ctx context.Context, client *bridge.Client, l sessionLine, text string) error {
	producer, err := client.NewProducer()
	if err != nil {
		return err
	}
	defer producer.Close()
	id, err := envelope.ParseSessionID(l.Session)
	if err != nil {
		return err
	}
	record := &envelope.Record{Kind: envelope.End, Session: id, Payload: []byte(text)}
	incarnation := l.presence.GetIncarnation()
	copy(record.Incarnation.Topic[:], incarnation.GetTopicId())
	record.Incarnation.Offset = incarnation.GetOffset()
	done := make(chan error, 1)
	producer.Queue(client.Topics(l.Controller).Up, l.Partition).Put(id, record, func(_ int64, err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
