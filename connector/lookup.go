package connector

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
)

const (
	// maxHeaders bounds the headers of one answer, in bytes.
	maxHeaders = 64 << 10
	// maxProtocols bounds the list of protocols; the rest is left out.
	maxProtocols = 16
)

// lookUp asks the controller what an agent would ask, and what tells one
// start of it from another.
func (n *neighbour) lookUp(ctx context.Context) (*linkv1.Jenkins, error) {
	listener, err := n.ask(ctx, http.MethodGet, remoting.PathDiscovery)
	if err != nil {
		return nil, err
	}
	switch listener.status {
	case http.StatusOK, http.StatusNotFound: // 404: it has switched its agent port off
	default:
		return nil, fmt.Errorf("connector: tcpSlaveAgentListener/ answers %d", listener.status)
	}
	facts := listener.header
	if first(facts, "X-Jenkins-Session") == "" || version(facts) == "" {
		login, err := n.ask(ctx, http.MethodGet, remoting.PathReady) // every page but the listener's names version and session
		if err != nil {
			return nil, err
		}
		facts = login.header
	}
	j := &linkv1.Jenkins{Path: n.root.EscapedPath(), Version: version(facts)}
	if listener.status == http.StatusOK {
		if err := readListener(j, listener.header); err != nil {
			return nil, err
		}
	}
	j.Hudson = first(facts, "X-Jenkins") == "" && first(listener.header, remoting.HeaderPort) == ""
	if listener.status == http.StatusNotFound && j.Version == "" {
		return nil, errors.New("connector: tcpSlaveAgentListener/ answers 404, and nothing says that this is a Jenkins")
	}
	if j.Version == "" {
		if j.Version, err = n.versionOnFront(ctx); err != nil {
			return nil, err
		}
	}
	if j.Epoch, err = n.epoch(ctx, j, first(facts, "X-Jenkins-Session")); err != nil {
		return nil, err
	}
	return j, nil
}

// readListener takes what the page for agents says.
func readListener(j *linkv1.Jenkins, h http.Header) error {
	text := first(h, remoting.HeaderPort, remoting.HeaderHudsonPort)
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("connector: tcpSlaveAgentListener/ names no agent port (%q): this is no Jenkins", text)
	}
	j.AgentPort = uint32(port)
	j.Protocols = remoting.ParseProtocols(first(h, remoting.HeaderProtocols))
	j.Protocols = j.Protocols[:min(len(j.Protocols), maxProtocols)]
	j.InstanceIdentity = first(h, remoting.HeaderIdentity)
	if j.InstanceIdentity != "" { // Hudson has none
		if _, err := remoting.ParseIdentity(j.InstanceIdentity); err != nil {
			return fmt.Errorf("connector: instance identity, which would end any agent: %w", err)
		}
	}
	j.MinimumVersion = first(h, remoting.HeaderMinimumVersion)
	return nil
}

// epoch makes one word of everything that changes when the controller's files
// may have changed. A Jenkins names each of its starts; a Hudson is known by
// the jar that it serves to its agents.
func (n *neighbour) epoch(ctx context.Context, j *linkv1.Jenkins, start string) (string, error) {
	parts := []string{j.GetVersion(), j.GetInstanceIdentity(), start}
	if start == "" {
		jar, err := n.ask(ctx, http.MethodHead, "jnlpJars/slave.jar")
		if err != nil {
			return "", err
		}
		parts = append(parts, strconv.Itoa(jar.status))
		for _, name := range []string{"ETag", "Last-Modified", "Content-Length"} {
			parts = append(parts, first(jar.header, name))
		}
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:8]), nil
}

// versionOnFront returns the version that a Hudson names on its front page
// alone. That page is dear, so it is asked for only when the Hudson may have
// started anew.
func (n *neighbour) versionOnFront(ctx context.Context) (string, error) {
	n.mu.Lock()
	known, away := n.known, n.away
	n.mu.Unlock()
	if known != nil && !away {
		return known.GetVersion(), nil
	}
	front, err := n.ask(ctx, http.MethodGet, "/")
	return version(front.header), err
}

// An answer is what counts of a response.
type answer struct {
	status int
	header http.Header
}

func (n *neighbour) ask(ctx context.Context, method, page string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, n.root.JoinPath(page).String(), nil)
	if err != nil {
		return answer{}, fmt.Errorf("connector: %w", err)
	}
	// Hudson 1.395 sends a page's body behind HEAD's answer too: on a connection
	// that is kept, net/http writes it to stderr.
	req.Close = method == http.MethodHead
	resp, err := n.client.Do(req)
	if err != nil {
		return answer{}, fmt.Errorf("connector: %w", err)
	}
	// Read to its end, the connection can be used again; a page too long costs a new one.
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 256<<10))
	if cerr := resp.Body.Close(); err == nil {
		err = cerr
	}
	if err == nil && resp.StatusCode >= http.StatusInternalServerError {
		err = fmt.Errorf("answers %d", resp.StatusCode) // it is starting, or something before it cannot reach it
	}
	if err != nil {
		return answer{}, fmt.Errorf("connector: %s: %w", page, err)
	}
	return answer{status: resp.StatusCode, header: resp.Header}, nil
}

func version(h http.Header) string { return first(h, "X-Jenkins", "X-Hudson") }

// first returns the first value there is, as text that can be published.
func first(h http.Header, names ...string) string {
	for _, name := range names {
		if v := h.Get(name); v != "" {
			return strings.ToValidUTF8(v, "?")
		}
	}
	return ""
}
