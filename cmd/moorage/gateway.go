package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/door"
	"github.com/moorage-dev/moorage/gateway"
	"github.com/moorage-dev/moorage/session"
)

type gatewayCmd struct {
	kafkaFlags

	Listen       listenAddress `default:":7443" help:"Where agents connect."`
	Admin        listenAddress `default:"127.0.0.1:7480" help:"Where /healthz, /readyz and /metrics are served, without TLS: keep it local or behind a firewall."`
	Name         gatewayName   `placeholder:"NAME" help:"This gateway's name, unique in the fleet; the host's name by default."`
	Advertise    address       `placeholder:"HOST:PORT" help:"Where agents reach this gateway from outside, for hints to agents and the list of gateways; the address of --listen by default, if it names a host."`
	DrainTimeout time.Duration `default:"30s" help:"How long SIGTERM waits for agents to move elsewhere."`
	Heartbeat    time.Duration `default:"5s" least:"1s" help:"How often a gateway and an agent that have nothing to say show that they live. Three of them are missed before a stream is given up: rarer ones cost less with very many agents, and find a dead link later."`

	TLSCert              string `name:"tls-cert" placeholder:"FILE" group:"tls" help:"This gateway's certificate chain (PEM)."`
	TLSKey               string `name:"tls-key" placeholder:"FILE" group:"tls" help:"Key (PEM) of --tls-cert."`
	ClientCA             string `name:"client-ca" placeholder:"FILE" group:"tls" help:"Certificates (PEM) that agents' are checked against; the name in an agent's certificate is its identity."`
	TokenKeyFile         string `placeholder:"FILE" group:"tls" help:"File with the fleet's key on its first line: agents' tokens are made of it (see moorage token), and the tickets they resume with. The same at all gateways."`
	TokenPreviousKeyFile string `placeholder:"FILE" group:"tls" help:"File with a second key that is believed too, while the fleet changes from one to the other."`
	Insecure             bool   `group:"tls" help:"Accept agents without TLS and without proof of their names. For trying things out."`

	MaxSessions count `default:"20000" group:"bounds" help:"Sessions attached at once."`
	MaxStreams  count `default:"25000" group:"bounds" help:"Streams open at once, with or without a session."`
	PerAddress  count `name:"streams-per-address" default:"1024" group:"bounds" help:"Streams of one address that have not proved who they are."`
	Controllers count `name:"max-controllers" default:"256" group:"bounds" help:"Controllers followed at once, for the agents of each."`
	QueueBytes  size  `default:"8MiB" least:"64KiB" group:"bounds" help:"Bytes waiting for Kafka, per partition."`
	CacheBytes  size  `default:"64MiB" group:"bounds" help:"Recent frames kept for agents that come back soon; older ones are read from Kafka."`
	ReplayScans count `default:"4" group:"bounds" help:"Replays read from Kafka at once."`

	gatewayDoorFlags
}

// Help gives the examples.
func (*gatewayCmd) Help() string {
	return `
A gateway keeps nothing that is needed after its death: run as many as you like behind a load balancer.

Examples:

  # Production: TLS both ways, SCRAM to Kafka, agents prove their names by tokens.
  moorage gateway --name gw1 --listen :7443 --advertise gw1.example.org:7443 \
    --kafka k1.example.org:9093,k2.example.org:9093,k3.example.org:9093 --kafka-ca /etc/moorage/kafka-ca.pem \
    --kafka-sasl-mechanism SCRAM-SHA-512 --kafka-user gateway --kafka-password-file /etc/moorage/kafka-password \
    --tls-cert /etc/moorage/gw1.pem --tls-key /etc/moorage/gw1.key --token-key-file /etc/moorage/token-key

  # The same from a file.
  moorage gateway --config /etc/moorage/moorage.yaml

  # Stock agents too: Jenkins' at https://gw1.example.org:7443/ci/, Hudson's where it has none.
  moorage gateway --kafka k1.example.org:9093 --tls-cert /etc/moorage/gw1.pem --tls-key /etc/moorage/gw1.key --token-key-file /etc/moorage/token-key \
    --door ci --door hudson --door-route hudson=port:7444 --door-listen :7444 --allow-cleartext-remoting

  # On one machine, to try things out.
  moorage gateway --kafka 127.0.0.1:9092 --listen 127.0.0.1:7443 --insecure
`
}

// tls returns what the listener speaks; nil is in clear. What would let
// anybody in must be asked for by name.
func (c *gatewayCmd) tls() (*tls.Config, error) {
	pair, err := loadPair("--tls-cert", c.TLSCert, "--tls-key", c.TLSKey)
	if err != nil {
		return nil, err
	}
	pool, err := loadPool("--client-ca", c.ClientCA)
	if err != nil {
		return nil, err
	}
	switch {
	case pair == nil && pool != nil:
		return nil, usagef("--client-ca needs --tls-cert and --tls-key: without TLS no agent shows a certificate")
	case pair == nil && !c.Insecure:
		return nil, usagef("no --tls-cert and --tls-key: tokens and frames would travel in clear; give them, or --insecure to try things out")
	case pair == nil:
		return nil, nil
	}
	cfg := &tls.Config{Certificates: pair, MinVersion: tls.VersionTLS13}
	if pool != nil {
		// A token proves a name too, so no certificate is demanded here.
		cfg.ClientCAs, cfg.ClientAuth = pool, tls.VerifyClientCertIfGiven
	}
	return cfg, nil
}

// keys reads the fleet's keys.
func (c *gatewayCmd) keys() (ring gateway.Ring, err error) {
	if c.TokenKeyFile == "" && !c.Insecure {
		return ring, usagef("no --token-key-file: any agent could take any name; give one (openssl rand -base64 32 makes a key), or --insecure to try things out")
	}
	if ring.Current, err = readKey("--token-key-file", c.TokenKeyFile); err != nil {
		return ring, err
	}
	ring.Previous, err = readKey("--token-previous-key-file", c.TokenPreviousKeyFile)
	return ring, err
}

// Run serves until ctx ends, and then moves its agents elsewhere.
func (c *gatewayCmd) Run(ctx context.Context, p *process) error {
	cfg, err := c.config(p)
	if err != nil {
		return err
	}
	agents, err := listen("--listen", c.Listen)
	if err != nil {
		return err
	}
	defer agents.Close() // closed already by a drain, which is no matter
	more, err := c.listeners()
	if err != nil {
		return err
	}
	defer closeAll(more)
	admin, err := listen("--admin", c.Admin)
	if err != nil {
		return err
	}
	defer admin.Close()
	if cfg.Advertise == "" {
		cfg.Advertise = reachable(agents.Addr())
	}
	g, err := gateway.New(ctx, cfg)
	if err != nil {
		return err
	}
	p.log.Info("gateway: serving", "name", cfg.Name, "address", agents.Addr().String(), "admin", admin.Addr().String(),
		"insecure", c.Insecure, "door", texts(c.Door))

	side := &http.Server{Handler: g.Admin(), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 3+len(more))
	var wg sync.WaitGroup
	defer wg.Wait()
	serving, over := context.WithCancel(ctx)
	defer over()
	wg.Go(func() { giveBackMemory(serving) })
	shut := func() {}
	if len(c.Door) == 0 {
		wg.Go(func() { failed <- g.Serve(agents) })
	} else {
		d, err := c.open(g, &cfg)
		if err != nil {
			return errors.Join(err, g.Close())
		}
		inside, leave := context.WithCancel(context.WithoutCancel(ctx))
		defer leave()
		shut = serveDoor(inside, d, append(more, agents), &wg, failed)
		wg.Go(func() { failed <- g.Serve(d.GRPC()) })
	}
	wg.Go(func() { failed <- side.Serve(admin) })
	defer side.Close()
	select {
	case err := <-failed:
		return errors.Join(err, g.Close())
	case <-ctx.Done():
	}
	p.log.Info("gateway: draining", "cause", context.Cause(ctx), "timeout", c.DrainTimeout)
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.DrainTimeout)
	defer cancel()
	shut()
	return g.Drain(drain)
}

// serveDoor lets agents in at all listeners, until ctx ends. shut closes these
// and leaves alone who is in.
func serveDoor(ctx context.Context, d *door.Door, all []net.Listener, wg *sync.WaitGroup, failed chan<- error) (shut func()) {
	open := make([]*lingering, len(all))
	for i, l := range all {
		open[i] = newLingering(l)
		wg.Go(func() { failed <- d.Serve(ctx, open[i]) })
	}
	return func() {
		for _, l := range open {
			l.shut()
		}
	}
}

// reachable returns an address that others can dial, "" when the listener's names no host.
func reachable(a net.Addr) string {
	if tcp, ok := a.(*net.TCPAddr); ok && !tcp.IP.IsUnspecified() {
		return tcp.String()
	}
	return ""
}

// config puts together what the gateway needs. Errors are the caller's to mend.
func (c *gatewayCmd) config(p *process) (cfg gateway.Config, err error) {
	cfg = gateway.Config{
		Name:         string(c.Name),
		Advertise:    string(c.Advertise),
		Version:      versionText(),
		Insecure:     c.Insecure,
		MaxSessions:  int(c.MaxSessions),
		MaxStreams:   int(c.MaxStreams),
		MaxGreeting:  int(c.PerAddress),
		Controllers:  int(c.Controllers),
		QueueBytes:   int(c.QueueBytes),
		CacheBytes:   int(c.CacheBytes),
		ReplayScans:  int(c.ReplayScans),
		DrainTimeout: c.DrainTimeout,
		Heartbeat:    c.Heartbeat,
		Logger:       p.log,
	}
	if c.Heartbeat > session.MostHeartbeat {
		return cfg, usagef("--heartbeat %v: want at most %v", c.Heartbeat, session.MostHeartbeat)
	}
	if cfg.Name == "" {
		if cfg.Name, err = os.Hostname(); err != nil {
			return cfg, usagef("no --name, and the host's cannot be had: %w", err)
		}
		if err = gateway.ValidName(cfg.Name); err != nil {
			return cfg, usagef("no --name, and the host's will not do: %w", err)
		}
	}
	if cfg.TLS, err = c.tls(); err != nil {
		return cfg, err
	}
	if cfg.Keys, err = c.keys(); err != nil {
		return cfg, err
	}
	if err = c.check(); err != nil {
		return cfg, err
	}
	cfg.Bridge, err = c.kafkaFlags.config(p)
	return cfg, err
}
