package door

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
)

const (
	headerTime  = 10 * time.Second // for a request's head; then the connection is closed
	headerBytes = 16 << 10         // of a request's head; above: 431
	idleTime    = 30 * time.Second // a connection without a request is closed after it, ours to a controller too

	// Connections to one controller's HTTP port. Requests above it wait their turn.
	httpConnections = 16
	// An answer that does not begin within this time is given up.
	answerTime = 2 * time.Minute
	// How long a controller that only starts (502, 503, 504) is left alone before it is asked again.
	retryTime = time.Second
)

// A web is the HTTP half of a door: the few pages that an agent asks for, and
// nothing else of what a controller serves.
type web struct {
	door      *Door
	jars      jars
	ahead     ahead
	transport *http.Transport
	proxy     *httputil.ReverseProxy
}

// A page is one of the addresses that an agent asks for.
type page struct {
	controller string
	root       string // path of the controller's root at this door, as the agent knows it; begins and ends with '/'
	below      string // what of root's path stands behind the part that names the controller; "/" as a rule
	path       string // below root, escaped, no leading '/'
	agent      string // the name it asks for or in; "": none
}

func newWeb(d *Door) *web {
	w := &web{door: d}
	w.jars.limit = d.cfg.JarCache
	w.transport = w.sessions()
	w.proxy = &httputil.ReverseProxy{
		Rewrite:        w.address,
		Transport:      patient{w.transport, d.cfg.Hold},
		ModifyResponse: w.rewriteJNLP,
		ErrorHandler:   w.refuse,
		ErrorLog:       slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
		BufferPool:     &copyBuffers{},
	}
	return w
}

// httpServer returns the server of a door's HTTP connections. It has no limit
// for a whole request or answer: one that is held takes long, and a socket whose
// far end is gone is noticed by TCP.
func (d *Door) httpServer() *http.Server {
	var fresh newcomers
	return &http.Server{
		Handler:                      fresh.greet(d.web),
		ConnContext:                  fresh.enter,
		ConnState:                    fresh.watch(func() { d.m.refused.WithLabelValues(refusedHeader).Inc() }),
		ReadHeaderTimeout:            headerTime,
		IdleTimeout:                  idleTime,
		MaxHeaderBytes:               headerBytes,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
		Protocols:                    http1(),
	}
}

// newcomers are connections that have not come to a whole request yet: their
// head is still awaited, and the server closes them if it is too long, too
// slow or none.
type newcomers struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

type newcomerKey struct{}

func (n *newcomers) enter(ctx context.Context, c net.Conn) context.Context {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conns == nil {
		n.conns = make(map[net.Conn]struct{})
	}
	n.conns[c] = struct{}{}
	return context.WithValue(ctx, newcomerKey{}, c)
}

// leave reports whether c was a newcomer still.
func (n *newcomers) leave(c net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, still := n.conns[c]
	delete(n.conns, c)
	return still
}

func (n *newcomers) greet(h http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(newcomerKey{}).(net.Conn); ok {
			n.leave(c)
		}
		h.ServeHTTP(rw, r)
	})
}

func (n *newcomers) watch(refused func()) func(net.Conn, http.ConnState) {
	return func(c net.Conn, state http.ConnState) {
		if state == http.StateClosed && n.leave(c) {
			refused()
		}
	}
}

// pages are all addresses that there are. What stands before one is the path
// of a controller's root. Hudson 3 names a root without the last '/', and
// agents of that age then ask for "//". How long names may be is not said here:
// counted repeats make an expression that every start of the program pays for.
var pages = regexp.MustCompile(`^(.*/)/?(tcpSlaveAgentListener/?|login|wsagents/?|jnlpJars/([A-Za-z0-9_-][A-Za-z0-9._-]*)|computer/([^/]+)/(?:slave|jenkins)-agent\.jnlp)$`)

// Bounds of names in addresses, in bytes, an agent's with its escapes.
const (
	mostJarName   = 128
	mostAgentPart = 255
)

func (w *web) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		rw.Header().Set("Allow", "GET, HEAD")
		http.Error(rw, "Method not allowed", http.StatusMethodNotAllowed)
		return
	case r.ContentLength != 0: // or of unknown length
		rw.Header().Set("Connection", "close")
		http.Error(rw, "No request here has a body", http.StatusRequestEntityTooLarge)
		return
	}
	if w.fromAhead(rw, r) {
		return
	}
	p, ok := w.find(r)
	if !ok {
		http.NotFound(rw, r)
		return
	}
	first, _, _ := strings.Cut(p.path, "/")
	if first == "login" && p.below == "/" {
		login(rw) // also asked for by load balancers: nothing to wait for
		return
	}
	if first == "wsagents" && p.below == "/" {
		w.webSocket(rw, r, p)
		return
	}
	d, err := w.door.describe(r.Context(), p.controller)
	switch {
	case err != nil:
		w.refuse(rw, r, err)
	case p.below != "/" && p.below != d.Jenkins.GetPath():
		http.NotFound(rw, r)
	case first == "tcpSlaveAgentListener":
		w.discovery(rw, r, p, d.Jenkins)
	case first == "login":
		login(rw)
	case first == "wsagents":
		w.webSocket(rw, r, p)
	case first == "jnlpJars":
		w.jar(rw, r, p, d.Jenkins)
	default:
		w.proxy.ServeHTTP(rw, r.WithContext(context.WithValue(r.Context(), pageKey{}, proxied{p, d.Jenkins, r})))
	}
}

// login answers what an agent asks before it opens a WebSocket. Its form is of
// no use here.
func login(rw http.ResponseWriter) {
	rw.Header().Set("Content-Type", "text/html;charset=UTF-8")
	_, _ = io.WriteString(rw, "<!DOCTYPE html><title>Moorage</title><p>Agents connect here. People log in at the controller itself.\n")
}

// find tells which page a request asks for, and of which controller. False:
// there is none.
func (w *web) find(r *http.Request) (page, bool) {
	var p page
	path := r.URL.EscapedPath()
	m := pages.FindStringSubmatch(path)
	if m == nil || len(m[3]) > mostJarName || len(m[4]) > mostAgentPart {
		return p, false
	}
	p.path = m[2]
	if m[4] != "" {
		agent, err := url.PathUnescape(m[4])
		if err != nil || agent == "." || agent == ".." || strings.ContainsAny(agent, "/\\\x00") {
			return p, false
		}
		p.agent = agent
	} else {
		p.agent = nodeName(r.Header, strings.HasPrefix(p.path, "wsagents"))
	}
	var port int
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		port = a.Port
	}
	sni := ""
	if r.TLS != nil {
		sni = r.TLS.ServerName
	}
	controller, rest, ok := w.door.route(r.Host, r.URL.Path, port, p.agent, sni)
	if !ok {
		return p, false
	}
	// The part that names the controller is cut off the escaped path too. It
	// needs no escapes, or else it is not this part.
	prefix := strings.TrimSuffix(strings.TrimSuffix(r.URL.Path, rest), "/")
	below, ok := strings.CutPrefix(m[1], prefix+"/")
	if !ok {
		return p, false
	}
	p.controller = controller
	p.below = "/" + strings.TrimLeft(below, "/")
	p.root = prefix + p.below
	return p, true
}

// nodeName returns the name in an agent's request. A WebSocket's is ISO-8859-1,
// a look-up's UTF-8.
func nodeName(h http.Header, latin1 bool) string {
	name := h.Get(remoting.HeaderNodeName)
	if !latin1 && utf8.ValidString(name) {
		return name
	}
	return remoting.FromLatin1(name)
}

// refuse answers a request that cannot be fulfilled, after it was held.
func (w *web) refuse(rw http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil || isAhead(r.Context()) {
		// The agent has left, or the door is being shut: no answer is better
		// than the one that the server makes of none, an empty 200.
		panic(http.ErrAbortHandler)
	}
	w.door.log.Info("request refused", "path", r.URL.Path, "remote", r.RemoteAddr, "err", err)
	if errors.Is(err, ErrUnknownController) {
		w.door.m.refused.WithLabelValues(refusedUnknown).Inc()
		http.Error(rw, "No such controller", http.StatusNotFound)
		return
	}
	reason := refusedHeld
	if refused(err) {
		reason = refusedController
	}
	w.door.m.refused.WithLabelValues(reason).Inc()
	rw.Header().Set("Retry-After", "10")
	http.Error(rw, "The controller is away", http.StatusServiceUnavailable)
}

// scheme tells how an agent reached this door. A balancer that ends TLS says so
// in a header; whoever invents it deceives only himself.
func scheme(r *http.Request) string {
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		return "https"
	}
	return "http"
}

// self returns the host and port at which agents reach the agent port, which
// is this very door: as configured, else what the request was sent to.
func (w *web) self(r *http.Request) (host string, port string) {
	host, port = splitHost(r.Host)
	if port == "" {
		port = "80"
		if scheme(r) == "https" {
			port = "443"
		}
	}
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok && host == "" {
		host, port = a.IP.String(), strconv.Itoa(a.Port)
	}
	h, p := splitHost(w.door.cfg.Advertise)
	if h != "" {
		host = h
	}
	if p != "" {
		port = p
	}
	return host, port
}

// splitHost splits host:port, where either may be missing.
func splitHost(s string) (host, port string) {
	if host, port, err := net.SplitHostPort(s); err == nil {
		return host, port
	}
	return strings.Trim(s, "[]"), ""
}

// root returns the address of a page's controller as its agents know it.
func (w *web) root(r *http.Request, p page) string {
	host := r.Host
	if host == "" {
		host = net.JoinHostPort(w.self(r))
	}
	return scheme(r) + "://" + host + p.root
}

type pageKey struct{}

// A proxied page is one that the controller itself answers.
type proxied struct {
	page
	jenkins *linkv1.Jenkins
	asked   *http.Request // as it came from the agent
}

// address turns an agent's request into one to the controller. Its Host stays:
// where a controller makes addresses from it they lead back to this door.
func (w *web) address(pr *httputil.ProxyRequest) {
	p := pr.In.Context().Value(pageKey{}).(proxied)
	path := rootPath(p.jenkins) + p.path
	pr.Out.URL.Scheme = "http"
	pr.Out.URL.Host = p.controller
	pr.Out.URL.RawPath = path
	pr.Out.URL.Path, _ = url.PathUnescape(path) // matched, so there is no bad escape in it
	pr.Out.Host = pr.In.Host
	pr.Out.Header.Del("Accept-Encoding") // what may be rewritten comes in clear
	pr.Out.Header.Del("Range")
	pr.Out.Header.Del("Upgrade") // nothing but requests and answers
	pr.Out.Header.Del("Connection")
}

func rootPath(j *linkv1.Jenkins) string {
	if p := j.GetPath(); strings.HasPrefix(p, "/") && strings.HasSuffix(p, "/") {
		return p
	}
	return "/"
}

// sessions returns a transport whose connections are sessions with the
// controller that the address names.
func (w *web) sessions() *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			controller, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			open := w.door.open
			if isAhead(ctx) {
				open = w.door.openAhead
			}
			s, err := open(ctx, Request{
				Controller: controller,
				Kind:       linkv1.ServiceKind_SERVICE_KIND_HTTP,
				Remoting:   &linkv1.Remoting{}, // shared by many agents
			})
			if err != nil {
				return nil, err
			}
			return sessionConn{s}, nil
		},
		MaxConnsPerHost:        httpConnections,
		MaxIdleConnsPerHost:    2,
		IdleConnTimeout:        idleTime,
		ResponseHeaderTimeout:  answerTime,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
		Protocols:              http1(),
	}
}

func http1() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	return p
}

// A sessionConn is a session as http.Transport wants it, which sets no
// deadlines on HTTP/1 connections.
type sessionConn struct{ Session }

func (sessionConn) LocalAddr() net.Addr              { return nowhere{} }
func (sessionConn) RemoteAddr() net.Addr             { return nowhere{} }
func (sessionConn) SetDeadline(time.Time) error      { return errors.ErrUnsupported }
func (sessionConn) SetReadDeadline(time.Time) error  { return errors.ErrUnsupported }
func (sessionConn) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

type nowhere struct{}

func (nowhere) Network() string { return "moorage" }
func (nowhere) String() string  { return "session" }

// A patient transport waits for a controller that is away or has only begun to
// start: a 503 at the first look ends an old agent's process. At the end of its
// patience the controller's own answer is given. A .jnlp file counts as
// answered when it is there whole.
type patient struct {
	http.RoundTripper
	hold time.Duration
}

func (p patient) RoundTrip(r *http.Request) (*http.Response, error) {
	patience := time.Now().Add(p.hold)
	if isAhead(r.Context()) {
		patience = time.Time{}
	}
	for {
		resp, err := p.RoundTripper.RoundTrip(r)
		if err == nil && !starting(resp) {
			if err = whole(resp); err == nil {
				return resp, nil
			}
			resp = nil // closed
		}
		if !again(r.Context(), err) || time.Now().Add(retryTime).After(patience) {
			return resp, err
		}
		if resp != nil {
			_ = resp.Body.Close() // of no use
		}
		sleep(r.Context(), retryTime)
	}
}

// starting reports whether a controller, or what stands in front of it, only
// says that it is not there yet.
func starting(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// again reports whether it is of any use to ask again.
func again(ctx context.Context, err error) bool {
	return ctx.Err() == nil && !errors.Is(err, ErrUnknownController) && !errors.Is(err, errHeld) && (err == nil || !refused(err))
}

// whole reads the body of a .jnlp file: all of it, or one byte more than may be.
func whole(resp *http.Response) error {
	if !strings.HasSuffix(resp.Request.URL.Path, ".jnlp") {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, largestJNLP+1))
	_ = resp.Body.Close() // read to its end, or useless
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return err
}

type copyBuffers struct{ pool sync.Pool }

func (b *copyBuffers) Get() []byte {
	if v := b.pool.Get(); v != nil {
		return v.(*[32 << 10]byte)[:]
	}
	return make([]byte, 32<<10)
}

func (b *copyBuffers) Put(buf []byte) { b.pool.Put((*[32 << 10]byte)(buf)) }
