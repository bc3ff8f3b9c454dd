package connector

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/seeded"
)

// Jenkins says where the controller is that a connector stands beside; a
// Hudson is found the same way.
type Jenkins struct {
	// URL is its root URL, http or https, as reached from here.
	URL string
	// AgentAddress is the host:port of its agent port. Empty: the URL's host and
	// the port that the look-up tells.
	AgentAddress string
	// RootCAs are what an https certificate is checked against; nil: the system's.
	RootCAs *x509.CertPool
}

func (j *Jenkins) check() error {
	if _, err := j.root(); err != nil {
		return err
	}
	if j.AgentAddress == "" {
		return nil
	}
	if host, port, err := net.SplitHostPort(j.AgentAddress); err != nil || host == "" || port == "" {
		return fmt.Errorf("connector: agent address of Jenkins: want HOST:PORT, got %q", j.AgentAddress)
	}
	return nil
}

// root returns the URL with a final slash.
func (j *Jenkins) root() (*url.URL, error) {
	u, err := url.Parse(j.URL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("connector: URL of Jenkins: want its root, such as http://127.0.0.1:8080/: %w", errors.Unwrap(err)) // without the URL: it may hold a password
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Hostname() == "":
		return nil, fmt.Errorf("connector: URL of Jenkins: want its root, such as http://127.0.0.1:8080/, got %q", u.Redacted())
	case u.User != nil:
		return nil, errors.New("connector: URL of Jenkins: agents look it up without a name and password, so there can be none")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("connector: URL of Jenkins: want its root without ? and #, got %q", u.Redacted())
	}
	if !strings.HasSuffix(u.Path, "/") {
		u = u.JoinPath("/")
	}
	return u, nil
}

const (
	// lookEvery is how often a Jenkins that answers is looked up.
	lookEvery = 15 * time.Second
	// lookAgain is how often one is that does not.
	lookAgain = 2 * time.Second
	// lookSoonest is the time between two looks, whoever asks for one.
	lookSoonest = time.Second
)

// A neighbour is the Jenkins next door, as it was seen last. What is known
// stays known, and published, while it is away.
type neighbour struct {
	root    *url.URL
	address string // of the agent port; empty: as the look-up says
	tls     *tls.Config
	client  *http.Client
	timeout time.Duration // of one dial
	log     *slog.Logger
	publish func(*linkv1.Jenkins)
	wanted  chan struct{} // holds one token when somebody wants a look

	mu      sync.Mutex      // guards what follows
	known   *linkv1.Jenkins // never changed once it is here; nil: never found
	away    bool            // the last look failed
	why     string          // the reason that was logged last
	said    time.Time       // when it was
	settled bool            // whether the agent port is reachable has been seen since known changed
	news    chan struct{}   // closed when known changes or it is back
}

func newNeighbour(j Jenkins, timeout time.Duration, log *slog.Logger, publish func(*linkv1.Jenkins)) *neighbour {
	root, err := j.root()
	if err != nil {
		panic(err) // Check has seen it
	}
	n := &neighbour{
		root: root, address: j.AgentAddress, timeout: timeout, log: log, publish: publish,
		wanted: make(chan struct{}, 1), news: make(chan struct{}),
	}
	n.tls = &tls.Config{RootCAs: j.RootCAs, ServerName: root.Hostname(), MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	n.client = &http.Client{
		Timeout: timeout + 10*time.Second, // a page may take longer than a connection
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: timeout}).DialContext,
			TLSClientConfig:        n.tls,
			MaxResponseHeaderBytes: maxHeaders,
			MaxConnsPerHost:        2,
			IdleConnTimeout:        2 * lookEvery,
		},
	}
	return n
}

// watch looks again and again until ctx ends.
func (n *neighbour) watch(ctx context.Context) {
	defer n.client.CloseIdleConnections()
	for {
		found, err := n.lookUp(ctx)
		if ctx.Err() != nil {
			return
		}
		n.saw(found, err)
		n.tryPort(ctx)
		wait := lookEvery
		if err != nil {
			wait = lookAgain
		}
		n.rest(ctx, wait)
		if ctx.Err() != nil {
			return
		}
	}
}

// rest waits for the next look: as long as is said, or for lookSoonest when
// somebody wants one.
func (n *neighbour) rest(ctx context.Context, wait time.Duration) {
	soonest := time.NewTimer(lookSoonest)
	defer soonest.Stop()
	select {
	case <-soonest.C:
	case <-ctx.Done():
		return
	}
	regular := time.NewTimer(wait - lookSoonest)
	defer regular.Stop()
	select {
	case <-n.wanted:
	case <-regular.C:
	case <-ctx.Done():
	}
}

// look asks for a look-up soon; the channel is closed when there is news.
func (n *neighbour) look() <-chan struct{} {
	select {
	case n.wanted <- struct{}{}:
	default:
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.news
}

// saw takes the outcome of a look.
func (n *neighbour) saw(found *linkv1.Jenkins, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case err != nil:
		// Another reason is worth a line: a Jenkins that refused connections and
		// now answers with an error is mended elsewhere. Some name a port that
		// changes, so there is a bound on how often.
		if why := err.Error(); !n.away || why != n.why && time.Since(n.said) >= lookEvery {
			n.why, n.said = why, time.Now()
			n.log.Warn("connector: Jenkins cannot be looked up; what is known of it stays published", "url", n.root.String(), "err", err)
		}
		n.away = true
		return
	}
	back := n.away
	n.away = false
	if n.known != nil {
		if seeded.On(seeded.StaleIdentity) {
			return
		}
		found.Reachable = n.known.GetReachable()
		if proto.Equal(n.known, found) {
			if back {
				n.log.Info("connector: Jenkins is back", "url", n.root.String())
				n.tell()
			}
			return
		}
	}
	found.Reachable, n.settled = false, false
	n.known = found
	n.log.Info("connector: found Jenkins", "url", n.root.String(), "version", found.GetVersion(), "hudson", found.GetHudson(),
		"agent_port", found.GetAgentPort(), "protocols", found.GetProtocols(), "epoch", found.GetEpoch())
	n.publish(found)
	n.tell()
}

// tell wakes whoever waits for news. Lock held.
func (n *neighbour) tell() {
	close(n.news)
	n.news = make(chan struct{})
}

// ready says why nobody is to be brought there now; nil: go. A controller that
// starts opens its ports before it knows its agents, and would turn them down;
// so the page that agents ask first must be there.
func (n *neighbour) ready() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.known == nil:
		return errUnknown
	case n.away:
		return errAway
	}
	return nil
}

// agentPort returns where to dial.
func (n *neighbour) agentPort() (string, error) {
	if err := n.ready(); err != nil {
		return "", err
	}
	if n.address != "" {
		return n.address, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known.GetAgentPort() == 0 {
		return "", errPortOff
	}
	return net.JoinHostPort(n.root.Hostname(), strconv.Itoa(int(n.known.GetAgentPort()))), nil
}

// reached notes whether the agent port could be dialled.
func (n *neighbour) reached(ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known == nil {
		return
	}
	n.settled = ok // what refuses is looked at again
	if n.known.GetReachable() == ok {
		return
	}
	n.known = proto.CloneOf(n.known)
	n.known.Reachable = ok
	n.publish(n.known)
	if ok {
		n.tell()
	} else {
		n.log.Warn("connector: the agent port of Jenkins cannot be reached")
	}
}

// dialAgentPort dials it, and remembers whether that worked.
func (n *neighbour) dialAgentPort(ctx context.Context) (*net.TCPConn, error) {
	address, err := n.agentPort()
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{Timeout: n.timeout}).DialContext(ctx, "tcp", address)
	if ctx.Err() == nil {
		n.reached(err == nil)
	}
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// tryPort dials the agent port if no session has done so since it was found:
// a Jenkins logs connections that say nothing, so this is done rarely.
func (n *neighbour) tryPort(ctx context.Context) {
	n.mu.Lock()
	settled := n.settled || n.away || n.known == nil
	ping := !settled && slices.Contains(n.known.GetProtocols(), remoting.Ping)
	n.mu.Unlock()
	if settled {
		return
	}
	conn, err := n.dialAgentPort(ctx)
	if err != nil {
		return // reached has noted it
	}
	if ping {
		sayPing(conn)
	}
	_ = conn.Close() // nothing is lost by it
}

// sayPing makes a connection that has no other purpose one that the
// controller understands. It was reached, whatever becomes of this.
func sayPing(conn *net.TCPConn) {
	if conn.SetDeadline(time.Now().Add(2*time.Second)) != nil {
		return
	}
	if _, err := conn.Write(remoting.AppendGreeting(nil, remoting.Ping)); err == nil {
		_, _ = io.ReadFull(conn, make([]byte, len(remoting.Pong)))
	}
}
