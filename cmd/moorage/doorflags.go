package main

import (
	"errors"
	"fmt"
	"net"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/door"
	"github.com/moorage-dev/moorage/gateway"
)

// gatewayDoorFlags say what legacy agents find at a gateway.
type gatewayDoorFlags struct {
	Door                   []controllerName `placeholder:"NAME" group:"Legacy agents:" help:"Let stock Jenkins and Hudson agents in, to these controllers; connections that name none go to the first. Without it the port speaks gRPC only."`
	DoorRoute              []doorRoute      `sep:";" placeholder:"NAME=WHAT:VALUE,..." group:"Legacy agents:" help:"Lead agents to a controller by what they show: host:H or prefix:/P/ of the URL, node:PATTERN (the agent's name), sni:S, port:N of this gateway. All that one route says must match; the first route that does wins. Besides, a controller of --door is found by a URL with /NAME/ or a host NAME.anything."`
	DoorListen             []listenAddress  `placeholder:"ADDR" group:"Legacy agents:" help:"More addresses to listen on, like --listen."`
	DoorAdvertise          address          `placeholder:"HOST:PORT" group:"Legacy agents:" help:"Where agents are told to connect; the address they asked at by default."`
	AllowCleartextRemoting bool             `group:"Legacy agents:" help:"Let Hudson-age agents in (JNLP-connect, JNLP2-connect), whose secret travels in clear, from other hosts too."`
	ProxyProtocol          bool             `group:"Legacy agents:" help:"Every connection, gRPC's too, comes from a balancer that puts a PROXY header (v1 or v2) in front. Others are refused: anybody could write one."`
	DoorHold               time.Duration    `default:"10m" group:"Legacy agents:" help:"How long an agent is held silently while its controller or Kafka is away."`

	DoorConnections count `default:"20000" group:"bounds" help:"Connections open at the door at once, gRPC's not counted."`
	DoorPerAddress  count `default:"1024" group:"bounds" help:"Of them from one address that have not said what they speak."`
	DoorSessions    count `default:"10000" group:"bounds" help:"Sessions of legacy agents at once, look-ups included; more are held."`
	DoorRate        count `default:"200" group:"bounds" help:"Sessions of legacy agents opened per second; more are held."`
	DoorJarCache    size  `default:"64MiB" group:"bounds" help:"Jars of controllers kept for agents that start."`
}

// A doorRoute is CONTROLLER=WHAT:VALUE,...
type doorRoute door.Route

// UnmarshalText reads a route. One that says nothing would match everything,
// which is what the first --door is for.
func (r *doorRoute) UnmarshalText(text []byte) error {
	const form = "want NAME=WHAT:VALUE with WHAT one of host, prefix, node, sni, port, got %q"
	name, conditions, _ := strings.Cut(string(text), "=")
	if bridge.ValidController(name) != nil || conditions == "" {
		return fmt.Errorf(form, text)
	}
	*r = doorRoute{Controller: name}
	for condition := range strings.SplitSeq(conditions, ",") {
		what, value, ok := strings.Cut(condition, ":")
		if !ok || value == "" {
			return fmt.Errorf(form, text)
		}
		switch what {
		case "host":
			r.Host = value
		case "prefix":
			if !strings.HasPrefix(value, "/") {
				return fmt.Errorf("a prefix begins with /, got %q", value)
			}
			r.Prefix = value
		case "node":
			if _, err := path.Match(value, ""); err != nil {
				return fmt.Errorf("want a pattern such as linux-*, got %q", value)
			}
			r.Node = value
		case "sni":
			r.SNI = value
		case "port":
			port, err := strconv.ParseUint(value, 10, 16)
			if err != nil || port == 0 {
				return fmt.Errorf("want a port, got %q", value)
			}
			r.Port = int(port)
		default:
			return fmt.Errorf(form, text)
		}
	}
	return nil
}

// check refuses flags of a door where there is none.
func (f *gatewayDoorFlags) check() error {
	if len(f.Door) > 0 {
		return nil
	}
	for _, flag := range []struct {
		name string
		set  bool
	}{
		{"--door-route", len(f.DoorRoute) > 0},
		{"--door-listen", len(f.DoorListen) > 0},
		{"--door-advertise", f.DoorAdvertise != ""},
		{"--allow-cleartext-remoting", f.AllowCleartextRemoting},
		{"--proxy-protocol", f.ProxyProtocol},
	} {
		if flag.set {
			return usagef("%s is for legacy agents, and without --door there is none for them; give --door CONTROLLER", flag.name)
		}
	}
	return nil
}

// open returns the door of a gateway.
func (f *gatewayDoorFlags) open(g *gateway.Gateway, cfg *gateway.Config) (*door.Door, error) {
	d := door.Config{
		Backend: g.DoorBackend(), Default: string(f.Door[0]), Controllers: texts(f.Door), Advertise: string(f.DoorAdvertise),
		TLS: cfg.TLS, AllowCleartext: f.AllowCleartextRemoting, ProxyProtocol: f.ProxyProtocol, Tier0: true,
		Hold: f.DoorHold, Connections: int(f.DoorConnections), PerAddress: int(f.DoorPerAddress), Sessions: int(f.DoorSessions),
		OpenRate: float64(f.DoorRate), JarCache: int64(f.DoorJarCache),
		Registerer: g.Registerer(), Log: cfg.Logger,
	}
	for _, r := range f.DoorRoute {
		d.Routes = append(d.Routes, door.Route(r))
	}
	return door.New(d)
}

// listeners opens those of --door-listen.
func (f *gatewayDoorFlags) listeners() (all []net.Listener, err error) {
	for _, address := range f.DoorListen {
		l, err := listen("--door-listen", address)
		if err != nil {
			closeAll(all)
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

func closeAll(all []net.Listener) {
	for _, l := range all {
		l.Close() // nobody has come yet, or it is closed already
	}
}

// A lingering listener can be shut while who came through it stays: a door's
// Serve takes the end of its listener for the end of everything.
type lingering struct {
	net.Listener
	once sync.Once
	over chan struct{}
}

func newLingering(l net.Listener) *lingering {
	return &lingering{Listener: l, over: make(chan struct{})}
}

// shut lets nobody in any more.
func (l *lingering) shut() { l.Listener.Close() }

// Accept returns an error only after Close.
func (l *lingering) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil && errors.Is(err, net.ErrClosed) {
		<-l.over
	}
	return c, err
}

func (l *lingering) Close() error {
	l.once.Do(func() { close(l.over) })
	return l.Listener.Close()
}
