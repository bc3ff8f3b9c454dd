package main

import (
	"io"

	"github.com/alecthomas/kong"
)

// cli is the root of the command line: one field per subcommand, and what all of them share.
type cli struct {
	Config configFlag `placeholder:"FILE" help:"Read settings from a YAML file: keys are flag names, at the top for all commands or in a section named like a command. Flags win over the environment, and that over the file."`
	Log    logFlags   `embed:"" prefix:"log-"`

	Gateway    gatewayCmd    `cmd:"" help:"Serve agents at the edge and carry their sessions to and from Kafka."`
	Connector  connectorCmd  `cmd:"" help:"Stand beside a Jenkins, a Hudson or other services, and bring agents to them."`
	Shim       shimCmd       `cmd:"" help:"Run an agent, or stand beside one, and offer it its controller on local ports."`
	Send       sendCmd       `cmd:"" help:"Send messages to a controller by hand, as an agent."`
	Tail       tailCmd       `cmd:"" help:"Be a controller by hand, and print what agents send."`
	Demo       demoCmd       `cmd:"" help:"See it work: everything in one process, with faults, and a verdict."`
	Loadtest   loadtestCmd   `cmd:"" help:"Measure how many agents it carries, how fast, and that nothing is lost while things break."`
	Broker     brokerCmd     `cmd:"" help:"Be a Kafka broker in memory, for trying things out."`
	Topics     topicsCmd     `cmd:"" help:"Create, check and list the topics of controllers."`
	Sessions   sessionsCmd   `cmd:"" help:"List, show and end sessions."`
	Gateways   gatewaysCmd   `cmd:"" help:"List gateways."`
	Token      tokenCmd      `cmd:"" help:"Make the token that proves an agent's name."`
	Version    versionCmd    `cmd:"" help:"Print the version."`
	Completion completionCmd `cmd:"" help:"Print how to switch on tab completion in your shell."`

	LoadtestWorker loadtestWorkerCmd `cmd:"" hidden:"" help:"Make a load test's load."`
	LoadtestRelay  loadtestRelayCmd  `cmd:"" hidden:"" help:"Be what moorage is compared with."`
}

const description = `Keeps build agents attached to their controllers while the network, a gateway or a Kafka broker between them fails.

Agents connect to gateways, gateways write to and read from Kafka, controllers talk only to Kafka. On a broken link or a dead gateway, a session goes on elsewhere and what was missed is replayed.`

const examples = `
Examples:

  # See it work: everything in one process, with faults.
  moorage demo

  # By hand, on one machine, without any security:
  moorage broker --listen 127.0.0.1:9092
  moorage topics create --kafka 127.0.0.1:9092 --controller ci --single-broker
  moorage connector --kafka 127.0.0.1:9092 --single-broker --controller ci --service web=127.0.0.1:8080
  moorage gateway --kafka 127.0.0.1:9092 --listen 127.0.0.1:7443 --insecure
  moorage shim --gateway 127.0.0.1:7443 --controller ci --agent a1 --insecure --forward 127.0.0.1:9000=web

Every flag can also be set by an environment variable (--max-sessions: MOORAGE_MAX_SESSIONS) or in the file that --config names.`

// Help is what stands below the one-line description.
func (*cli) Help() string { return examples }

// newParser builds the parser; every flag gets its environment variable here.
func newParser(c *cli, stdout, stderr io.Writer) (*kong.Kong, error) {
	return kong.New(c,
		kong.Name("moorage"),
		kong.Description(description),
		kong.Writers(stdout, stderr),
		kong.DefaultEnvars("MOORAGE"),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.ExplicitGroups([]kong.Group{
			{Key: "kafka", Title: "Kafka:"},
			{Key: "door", Title: "The agent and its door:"},
			{Key: "link", Title: "The way to a controller:"},
			{Key: "tls", Title: "Who may connect, and how:"},
			{Key: "bounds", Title: "Bounds:", Description: "Each is hard: when it is reached, the sender is slowed down or a newcomer refused, and a counter says so."},
		}),
	)
}
