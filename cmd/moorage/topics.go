package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/moorage-dev/moorage/bridge"
)

type topicsCmd struct {
	Create topicsCreateCmd `cmd:"" help:"Create what is missing of a controller's topics."`
	Check  topicsCheckCmd  `cmd:"" help:"Say what durability cannot stand on in a controller's topics."`
	List   topicsListCmd   `cmd:"" help:"List all topics under the prefix."`
}

type topicsCreateCmd struct {
	kafkaFlags
	Controller   controllerName `required:"" placeholder:"NAME" help:"Whose topics."`
	Partitions   int32          `default:"16" help:"Partitions of the up and the down topic: a power of two, at least 16."`
	Replication  int16          `default:"3" help:"Copies of each partition; 1 with --single-broker."`
	Retention    time.Duration  `default:"1h" help:"How long frames are kept; well above the time a session may be away."`
	SingleBroker bool           `help:"Allow one broker and one copy, which outlives nothing. For trying things out."`
}

// Help gives the examples.
func (*topicsCreateCmd) Help() string {
	return `
Topics that exist are left as they are; moorage topics check says whether they will do.

Examples:

  moorage topics create --kafka k1.example.org:9092 --controller ci
  moorage topics create --kafka 127.0.0.1:9092 --controller ci --single-broker
`
}

// Run creates the topics and lists them.
func (c *topicsCreateCmd) Run(ctx context.Context, p *process) error {
	if c.Partitions < 16 || c.Partitions&(c.Partitions-1) != 0 {
		return usagef("--partitions %d: want a power of two, at least 16", c.Partitions)
	}
	if c.Replication < 1 {
		return usagef("--replication %d: want a number above 0", c.Replication)
	}
	client, err := c.dial(ctx, p)
	if err != nil {
		return err
	}
	defer client.Close()
	before, err := client.ListTopics(ctx)
	if err != nil {
		return err
	}
	spec := bridge.TopicSpec{Partitions: c.Partitions, Replication: c.Replication, Retention: c.Retention, SingleBroker: c.SingleBroker}
	if c.SingleBroker {
		spec.Replication = 1
	}
	if err := client.CreateTopics(ctx, string(c.Controller), spec); err != nil {
		return err
	}
	after, err := client.ListTopics(ctx)
	if err != nil {
		return err
	}
	existed := map[bridge.Topic]bool{}
	for _, topic := range before {
		existed[topic] = true
	}
	t := newTable(p.stdout, "TOPIC", "PARTITIONS", "STATE")
	for _, topic := range after {
		if !strings.HasPrefix(topic.Name, string(c.TopicPrefix)+string(c.Controller)+".") && topic.Name != client.GatewaysTopic() {
			continue
		}
		state := "created"
		if existed[topic] {
			state = "was there, left as it is"
		}
		t.row(topic.Name, topic.Partitions, state)
	}
	return t.flush()
}

type topicsCheckCmd struct {
	kafkaFlags
	Controller   controllerName `required:"" placeholder:"NAME" help:"Whose topics."`
	Grace        time.Duration  `default:"240s" help:"How long the controller keeps a session that is away; retention must be well above."`
	SingleBroker bool           `help:"Do not ask for what one broker cannot offer."`
}

// Help gives the example.
func (*topicsCheckCmd) Help() string {
	return `
Each problem is one line: what, where, how to mend. The exit code is 1 if there is any.

Example:

  moorage topics check --kafka k1.example.org:9092 --controller ci
`
}

// Run prints the problems.
func (c *topicsCheckCmd) Run(ctx context.Context, p *process) error {
	client, err := c.dial(ctx, p)
	if err != nil {
		return err
	}
	defer client.Close()
	problems, err := client.CheckTopics(ctx, string(c.Controller), bridge.CheckOptions{SingleBroker: c.SingleBroker, Grace: c.Grace})
	if err != nil {
		return err
	}
	for _, problem := range problems {
		fmt.Fprintln(p.stdout, problem)
	}
	switch len(problems) {
	case 0:
		_, err = fmt.Fprintf(p.stdout, "topics of controller %s: nothing to complain about\n", c.Controller)
		return err
	case 1:
		return fmt.Errorf("topics of controller %s: 1 problem; mend what stands above", c.Controller)
	}
	return fmt.Errorf("topics of controller %s: %d problems; mend what stands above", c.Controller, len(problems))
}

type topicsListCmd struct {
	kafkaFlags
	JSON bool `name:"json" help:"Print one JSON array."`
}

// Help gives the example.
func (*topicsListCmd) Help() string {
	return "\nExample:\n\n  moorage topics list --kafka k1.example.org:9092\n"
}

// A topicLine is one topic as the command prints it.
type topicLine struct {
	Name       string `json:"name"`
	ID         string `json:"id"`
	Partitions int32  `json:"partitions"`
}

// Run prints the list.
func (c *topicsListCmd) Run(ctx context.Context, p *process) error {
	client, err := c.dial(ctx, p)
	if err != nil {
		return err
	}
	defer client.Close()
	topics, err := client.ListTopics(ctx)
	if err != nil {
		return err
	}
	lines := make([]topicLine, len(topics))
	t := newTable(p.stdout, "TOPIC", "PARTITIONS", "ID")
	for i, topic := range topics {
		lines[i] = topicLine{Name: topic.Name, ID: topic.ID.String(), Partitions: topic.Partitions}
		t.row(topic.Name, topic.Partitions, topic.ID)
	}
	if c.JSON {
		return printJSON(p.stdout, lines)
	}
	return t.flush()
}
