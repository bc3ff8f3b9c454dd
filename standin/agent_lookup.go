package standin

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moorage-dev/moorage/remoting"
)

// lookup asks the controller where its agent port is, and makes the checks of
// a stock agent in their order. An ExitError ends the process.
func (r *run) lookup(ctx context.Context) error {
	root, err := url.Parse(r.root())
	if err != nil {
		return &ExitError{1, err}
	}
	h, err := r.get(ctx, remoting.PathDiscovery, lookupWait)
	if err != nil {
		return err
	}
	text := h.Get(remoting.HeaderIdentity)
	spki, err := remoting.ParseIdentity(text)
	if err != nil {
		// Java's decoder knows no line breaks, and its exception ends the
		// process; a key of another sort is merely invalid.
		if _, broken := base64.StdEncoding.DecodeString(text); broken != nil || strings.ContainsAny(text, "\r\n") {
			return &ExitError{1, err}
		}
		return err
	}
	port, err := lookupPort(h, remoting.HeaderPort, remoting.HeaderHudsonPort)
	if err != nil {
		return err
	}
	host := h.Get(remoting.HeaderHost)
	if host == "" {
		host = root.Hostname()
	}
	addr, err := r.tunnelled(host, port)
	if err != nil {
		return err
	}
	if r.Tunnel == "" {
		if err := r.probe(ctx, addr); err != nil {
			return err
		}
	} else if host, _, err = net.SplitHostPort(addr); err != nil {
		return err
	}
	known := []string{remoting.JNLP4Proxy, remoting.JNLP4}
	if listed := remoting.ParseProtocols(h.Get(remoting.HeaderProtocols)); len(listed) > 0 {
		known = slices.DeleteFunc(known, func(p string) bool { return !slices.Contains(listed, p) })
	}
	if len(known) == 0 {
		return &ExitError{0, errors.New("none of the protocols are enabled")}
	}
	r.endpoint = endpoint{host, addr, spki, known}
	return nil
}

// probe connects to the agent port and closes at once, without a byte.
func (r *run) probe(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	conn, err := r.dial(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("standin: the agent port is not open: %w", err)
	}
	return conn.Close()
}

// lookupPort is the first of the headers that names a port.
func lookupPort(h http.Header, names ...string) (string, error) {
	for _, name := range names {
		if port, err := strconv.Atoi(h.Get(name)); err == nil && port >= 1 && port <= 65535 {
			return strconv.Itoa(port), nil
		}
	}
	return "", errors.New("standin: this is no Jenkins: it names no agent port")
}

// get asks for a path behind the URL and wants 200.
func (r *run) get(ctx context.Context, path string, limit time.Duration) (http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.root()+path, nil)
	if err != nil {
		return nil, err
	}
	if path == remoting.PathDiscovery && !r.Hudson {
		request.Header.Set(remoting.HeaderNodeName, r.Name)
	}
	response, err := r.do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 1<<20)) // nobody reads it
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("standin: %s: %s", path, response.Status)
	}
	return response.Header, nil
}

// do sends a request on a connection of its own: one that is kept would be
// memory of an idle agent.
func (r *run) do(request *http.Request) (*http.Response, error) {
	transport := &http.Transport{DialContext: r.dial, TLSClientConfig: r.TLS, DisableKeepAlives: true}
	return (&http.Client{Transport: transport}).Do(request)
}

// ready asks every ten seconds until the controller answers 200.
func (r *run) ready(ctx context.Context) error {
	for {
		_, err := r.get(ctx, remoting.PathDiscovery, readyWait)
		if err == nil {
			return nil
		}
		if err := sleep(ctx, retrySleep); err != nil {
			return err
		}
	}
}

// hudson is the loop of an agent of Hudson's age. Its process ends for good
// when the first look-up fails, when the port is refused ten times, and when a
// handshake is cut off or refused.
func (r *run) hudson(ctx context.Context) error {
	root, err := url.Parse(r.root())
	if err != nil {
		return &ExitError{255, err}
	}
	for first := true; ; first = false {
		if !first {
			if err := r.ready(ctx); err != nil {
				return err
			}
		}
		h, err := r.get(ctx, remoting.PathDiscovery, lookupWait)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return &ExitError{255, err}
		}
		port, err := lookupPort(h, remoting.HeaderHudsonPort)
		if err != nil {
			return &ExitError{255, err}
		}
		addr, err := r.tunnelled(root.Hostname(), port)
		if err != nil {
			return err
		}
		r.endpoint = endpoint{addr: addr, protocols: r.Protocols}
		if len(r.Protocols) == 0 {
			r.endpoint.protocols = []string{remoting.JNLP2, remoting.JNLP1}
		}
		if err := r.hudsonConnected(ctx); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return &ExitError{255, err}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if r.NoReconnect {
			return &ExitError{0, errors.New("no reconnect")}
		}
		if err := sleep(ctx, retrySleep); err != nil {
			return err
		}
	}
}

// hudsonConnected is connected for an old agent: only an unknown protocol makes
// it try the next, only a refused port makes it try again.
func (r *run) hudsonConnected(ctx context.Context) error {
	for _, protocol := range r.endpoint.protocols {
		var l line
		var cookie, remote string
		var err error
		for range hudsonTries {
			l, cookie, remote, err = r.handshake(ctx, protocol)
			dial, isDial := errors.AsType[*net.OpError](err)
			if err == nil || !isDial || dial.Op != "dial" {
				break
			}
			if err := sleep(ctx, retrySleep); err != nil {
				return err
			}
		}
		if refusal, refused := errors.AsType[*Refusal](err); refused && strings.HasPrefix(refusal.Text, "Unknown protocol") {
			continue
		}
		if err != nil {
			return err
		}
		r.cookie = cookie
		r.live(ctx, newChannel(l, protocol, cookie, remote, r.Pings))
		return nil
	}
	return errors.New("standin: the server knows none of the protocols")
}
