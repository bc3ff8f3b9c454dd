package main

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/bridge"
	logv1 "github.com/moorage-dev/moorage/proto/moorage/log/v1"
)

// silentAfter is when the list calls a gateway silent: ten of its heartbeats,
// for this host's clock and the broker's may differ a little.
const silentAfter = 10 * time.Second

// listedFor is how long a silent gateway stays in the list. Its last heartbeat
// stays in the topic for ever.
const listedFor = 24 * time.Hour

type gatewaysCmd struct {
	kafkaFlags
	JSON bool `name:"json" help:"Print one JSON array."`
}

// Help gives the example.
func (*gatewaysCmd) Help() string {
	return `
A gateway that has not been heard of for 10 s, by the clocks of this host and the brokers, is called silent; one that has
not been heard of for a day is left out.

Example:

  moorage gateways --kafka k1.example.org:9092
`
}

// A gatewayLine is one gateway as the command prints it: its last heartbeat.
type gatewayLine struct {
	Name     string    `json:"name"`
	Address  string    `json:"address"`
	State    string    `json:"state"` // serving, draining or silent
	Sessions uint32    `json:"sessions"`
	Streams  uint32    `json:"streams"`
	Version  string    `json:"version"`
	Boot     uint64    `json:"boot,string"` // more than JSON's numbers hold
	Beat     uint64    `json:"beat"`
	LastBeat time.Time `json:"last_beat"`
}

// Run prints the list.
func (c *gatewaysCmd) Run(ctx context.Context, p *process) error {
	client, err := c.dial(ctx, p)
	if err != nil {
		return err
	}
	defer client.Close()
	now := time.Now()
	latest := map[string]gatewayLine{}
	err = readState(ctx, client, client.GatewaysTopic(), func(m bridge.Message) {
		var beat logv1.GatewayHeartbeat
		if m.Value == nil || proto.Unmarshal(m.Value, &beat) != nil || beat.GetController() {
			delete(latest, string(m.Key))
			return
		}
		latest[string(m.Key)] = newGatewayLine(&beat, m.Time, now)
	})
	if err != nil {
		return err
	}
	maps.DeleteFunc(latest, func(_ string, l gatewayLine) bool { return now.Sub(l.LastBeat) > listedFor })
	lines := slices.SortedFunc(maps.Values(latest), func(a, b gatewayLine) int { return cmp.Compare(a.Name, b.Name) })
	if c.JSON {
		return printJSON(p.stdout, append([]gatewayLine{}, lines...))
	}
	t := newTable(p.stdout, "NAME", "ADDRESS", "STATE", "SESSIONS", "STREAMS", "LAST BEAT", "VERSION")
	for _, l := range lines {
		t.row(l.Name, l.Address, l.State, l.Sessions, l.Streams, age(l.LastBeat, now), l.Version)
	}
	return t.flush()
}

func newGatewayLine(b *logv1.GatewayHeartbeat, at, now time.Time) gatewayLine {
	l := gatewayLine{
		Name: b.GetName(), Address: b.GetAddress(), State: "serving",
		Sessions: b.GetSessions(), Streams: b.GetStreams(), Version: b.GetVersion(),
		Boot: b.GetBoot(), Beat: b.GetBeat(), LastBeat: at.UTC(),
	}
	switch {
	case now.Sub(at) > silentAfter:
		l.State = "silent"
	case b.GetDraining():
		l.State = "draining"
	}
	return l
}
