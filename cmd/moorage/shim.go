package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moorage-dev/moorage/door"
	"github.com/moorage-dev/moorage/link"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/shim"
	"github.com/moorage-dev/moorage/tunnel"
)

type shimCmd struct {
	linkFlags
	Door          listenAddress `placeholder:"[HOST]:PORT" group:"door" help:"Where agents of this host find the controller; a free port of 127.0.0.1 when only a command needs it."`
	Hold          time.Duration `default:"10m" group:"door" help:"How long an agent is held silently while the controller or every gateway is away."`
	GiveUp        time.Duration `default:"240s" group:"door" help:"How long an agent's session may be detached before it is ended and the agent told. Stock Jenkins lives through 200s, may fail from 240s and always fails from 540s."`
	StateDir      string        `placeholder:"DIR" group:"door" help:"Where to keep what is known of the controller, so that look-ups are answered while every gateway is away; the user's cache directory by default."`
	Restart       string        `enum:"always,on-failure,never" default:"on-failure" group:"door" help:"When the command is started again: ${enum}. Agents exit 0 when they are done for good."`
	StopTimeout   time.Duration `default:"10s" group:"door" help:"How long the command has to end before its process group is killed."`
	AgentLog      string        `placeholder:"FILE" group:"door" help:"Keep the command's output here too, and older output in FILE.1, FILE.2 and so on."`
	AgentLogBytes size          `default:"10MiB" group:"door" help:"How much one such file takes."`
	AgentLogFiles count         `default:"5" group:"door" help:"How many of them are kept."`
	Forward       []pair        `placeholder:"LISTEN=SERVICE" help:"A local port, [HOST]:PORT, and the service that connections to it reach. May be repeated."`
	OpenTimeout   time.Duration `default:"60s" help:"How long a new connection to a forwarded port waits while no gateway can be reached."`
	MaxSessions   count         `default:"1024" group:"bounds" help:"Connections at once; further ones wait."`

	Command []string `arg:"" optional:"" help:"The agent's command line, behind --: it is run with the addresses of its controller replaced by the door's."`
}

// Help gives the examples.
func (*shimCmd) Help() string {
	return `
Behind --, the agent's own command line as Jenkins shows it: -url, -jnlpUrl, -direct and -tunnel are made to lead through the gateways, and {door}, {door.host}, {door.port} and {door.url} are replaced wherever they stand. The agent is started again when it fails, signals go to it, its exit code becomes the shim's, and it never outlives the shim. Name its secret as -secret @FILE, or the process list shows it.

Connections stay open while links break and gateways die; they only see a pause. Keep the ports local: whoever reaches them acts as this agent.

Examples:

  # A Jenkins agent, by WebSocket or by TCP, as its page in Jenkins tells it.
  moorage shim --gateway gw1.example.org:7443,gw2.example.org:7443 --controller ci --agent a1 --token-file /etc/moorage/a1.token \
    -- java -jar agent.jar -url https://jenkins.example.org/ -secret @secret-file -name a1 -webSocket -workDir /var/jenkins
  moorage shim --gateway gw1.example.org:7443 --controller ci --agent a1 --token-file /etc/moorage/a1.token \
    -- java -jar agent.jar -url https://jenkins.example.org/ -secret @secret-file -name a1 -workDir /var/jenkins

  # The same with -direct and with -jnlpUrl.
  moorage shim --gateway gw1.example.org:7443 --controller ci --agent a1 --token-file /etc/moorage/a1.token \
    -- java -jar agent.jar -direct jenkins.example.org:50000 -protocols JNLP4-connect -instanceIdentity MIIB -secret @secret-file -name a1
  moorage shim --gateway gw1.example.org:7443 --controller ci --agent a1 --token-file /etc/moorage/a1.token \
    -- java -jar agent.jar -jnlpUrl https://jenkins.example.org/computer/a1/jenkins-agent.jnlp -secret @secret-file

  # A door for an agent that is started elsewhere, as in another container of its pod.
  moorage shim --gateway gw1.example.org:7443 --controller ci --agent a1 --token-file /etc/moorage/a1.token --door 127.0.0.1:8080

  # Services on local ports, on one machine, to try things out.
  moorage shim --gateway 127.0.0.1:7443 --controller ci --agent a1 --insecure --forward 127.0.0.1:9000=web
`
}

// Run serves until ctx ends, or until the command has ended for good.
func (c *shimCmd) Run(ctx context.Context, p *process) error {
	if len(c.Command) == 0 && c.Door == "" && len(c.Forward) == 0 {
		return usagef("nothing to do: give an agent's command line behind --, or --door, or --forward")
	}
	cfg := shim.Config{DialTimeout: c.OpenTimeout, MaxConns: int(c.MaxSessions), Log: p.log}
	if len(c.Forward) > 0 {
		closeForwards, err := c.forwards(p, &cfg)
		if err != nil {
			return err
		}
		defer closeForwards()
	}
	if len(c.Command) > 0 || c.Door != "" {
		shut, err := c.door(p, &cfg)
		if err != nil {
			return err
		}
		defer shut()
	}
	err := shim.Run(ctx, cfg)
	if cause := context.Cause(ctx); cause != nil {
		p.log.Info("shim: stopping", "cause", cause)
	}
	if err != nil {
		return fmt.Errorf("shim: %w", err)
	}
	return nil
}

// forwards opens the local ports of services.
func (c *shimCmd) forwards(p *process, cfg *shim.Config) (closeAll func(), err error) {
	client, err := c.client(p)
	if err != nil {
		return nil, err
	}
	closeAll = func() {
		for _, f := range cfg.Forwards {
			_ = f.Listener.Close() // closed already, unless something failed before Run
		}
		_ = client.Close() // it never fails
	}
	cfg.Dial = func(ctx context.Context, service string) (tunnel.Conn, error) {
		s, err := client.Open(ctx, link.Target{Kind: linkv1.ServiceKind_SERVICE_KIND_TCP, Service: service})
		if err != nil {
			return nil, err
		}
		return tunnel.Session{Conn: s.Conn}, nil
	}
	for _, f := range c.Forward {
		var address listenAddress
		if err := address.UnmarshalText([]byte(f.Name)); err != nil {
			closeAll()
			return nil, usagef("--forward %s=%s: %w", f.Name, f.Value, err)
		}
		l, err := listen("--forward", address)
		if err != nil {
			closeAll()
			return nil, err
		}
		cfg.Forwards = append(cfg.Forwards, shim.Forward{Listener: l, Service: f.Value})
		p.log.Info("shim: listening", "address", l.Addr().String(), "service", f.Value)
	}
	return closeAll, nil
}

// closers is what is to be closed, in the order in which it was opened.
type closers []func()

func (c *closers) add(f func()) { *c = append(*c, f) }

// close closes the last first.
func (c *closers) close() {
	for _, f := range slices.Backward(*c) {
		f()
	}
}

// anyPort is where the door is when only the shim's own agent must find it.
const anyPort listenAddress = "127.0.0.1:0"

// door opens the door, and prepares the agent that is to come through it.
func (c *shimCmd) door(p *process, cfg *shim.Config) (shut func(), err error) {
	var opened closers
	defer func() {
		if err != nil {
			opened.close()
		}
	}()
	client, err := c.clientFor(p, c.GiveUp)
	if err != nil {
		return nil, err
	}
	opened.add(func() { _ = client.Close() }) // it never fails
	cfg.Link = shim.NewLink(client, string(c.Controller), c.stateFile(p), p.log)
	opened.add(cfg.Link.Close)

	address := c.Door
	if address == "" {
		address = anyPort
	}
	l, err := listen("--door", address)
	if err != nil {
		return nil, err
	}
	cfg.DoorListener = l
	opened.add(func() { _ = l.Close() }) // closed already, unless something failed before Run
	secret, jnlp := "", ""
	if len(c.Command) > 0 {
		done, err := c.command(p, cfg, l.Addr(), &secret, &jnlp)
		if err != nil {
			return nil, err
		}
		opened.add(done)
	}
	d, err := door.New(door.Config{
		Backend:     cfg.Link,
		Default:     string(c.Controller),
		Controllers: []string{string(c.Controller)},
		Hold:        c.Hold,
		Secret:      func(string) (string, bool) { return secret, secret != "" },
		Connections: int(c.MaxSessions),
		PerAddress:  int(c.MaxSessions), // all come from here
		Sessions:    int(c.MaxSessions),
		JarCache:    -1, // one agent fetches its jar once
		Log:         p.log,
	})
	if err != nil {
		return nil, err
	}
	cfg.Door = d
	if cfg.Agent != nil {
		cfg.Agent.Ahead = func(ctx context.Context) { d.Expect(ctx, string(c.Controller), jnlp) }
	}
	if at, ok := l.Addr().(*net.TCPAddr); ok && !at.IP.IsLoopback() {
		p.log.Warn("shim: the door is open to other hosts; whoever reaches it comes as this agent", "address", l.Addr().String())
	}
	p.log.Info("shim: door open", "address", l.Addr().String(), "controller", string(c.Controller))
	return opened.close, nil
}

// stateFile returns where to keep what is known of the controller; "": nowhere.
func (c *shimCmd) stateFile(p *process) string {
	dir := c.StateDir
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			p.log.Debug("shim: nothing is kept on disk", "err", err)
			return ""
		}
		dir = filepath.Join(cache, "moorage")
	}
	return shim.StateFile(dir, string(c.Controller), string(c.Agent))
}

// command prepares the agent's command line, and what of it is not for everybody's eyes.
func (c *shimCmd) command(p *process, cfg *shim.Config, at net.Addr, secret, jnlp *string) (done func(), err error) {
	if _, err := exec.LookPath(c.Command[0]); err != nil {
		return nil, usagef("%w; give the agent's command line behind --", err)
	}
	command, err := shim.Lead(c.Command, at)
	if err != nil {
		return nil, usageError{err}
	}
	*jnlp = command.JNLP
	host, _, err := net.SplitHostPort(at.String())
	if err != nil {
		return nil, err
	}
	agent := &shim.Agent{
		Host: host, Restart: shim.Restart(c.Restart), StopTimeout: c.StopTimeout, Stdout: p.stdout, Stderr: p.stderr,
	}
	var opened closers
	defer func() {
		if err != nil {
			opened.close()
		}
	}()
	switch {
	case command.Secret != "":
		if agent.Private, err = writePrivate(command.Secret); err != nil {
			return nil, err
		}
		opened.add(func() {
			if err := os.RemoveAll(agent.Private); err != nil {
				p.log.Warn("shim: the agent's secret is left behind", "err", err)
			}
		})
		command.HideSecret(filepath.Join(agent.Private, "secret"))
		*secret = command.Secret
		p.log.Warn("shim: this process's own command line shows the agent's secret; write it to a file and give -secret @FILE")
	case command.File != "":
		if *secret, err = firstWord(command.File); err != nil {
			p.log.Warn("shim: the agent's secret cannot be read; encrypted .jnlp files are passed on unchanged", "err", err)
		}
	}
	agent.Args = command.Args
	if c.AgentLog != "" {
		if agent.Log, err = shim.OpenRotated(c.AgentLog, int64(c.AgentLogBytes), int(c.AgentLogFiles)); err != nil {
			return nil, fmt.Errorf("--agent-log: %w", err)
		}
		opened.add(func() {
			if err := errors.Join(agent.Log.Failed(), agent.Log.Close()); err != nil {
				p.log.Warn("shim: some of the agent's log was lost", "err", err)
			}
		})
	}
	signals := make(chan os.Signal, 16) // more at once are lost, as the kernel may do too
	if list := shim.Forwarded(); len(list) > 0 {
		signal.Notify(signals, list...)
		opened.add(func() { signal.Stop(signals) })
	}
	agent.Signals = signals
	cfg.Agent = agent
	return opened.close, nil
}

// writePrivate puts the secret where only this user can read it.
func writePrivate(secret string) (dir string, err error) {
	dir, err = os.MkdirTemp("", "moorage-shim-") // 0700
	if err != nil {
		return "", fmt.Errorf("shim: a place for the agent's secret: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte(secret+"\n"), 0o600); err != nil {
		return "", errors.Join(fmt.Errorf("shim: a place for the agent's secret: %w", err), os.RemoveAll(dir))
	}
	return dir, nil
}

// mostSecret bounds what is read of a file that ought to hold 64 digits.
const mostSecret = 4 << 10

func firstWord(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	line, err := bufio.NewReader(io.LimitReader(f, mostSecret)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return strings.TrimSpace(line), nil
}
