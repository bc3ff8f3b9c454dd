package door

import (
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
)

// discovery answers an agent's look-up for the agent port: with the
// controller's identity and protocols, and with this door's address.
//
// It is answered from the last that was heard, whatever has become of the
// controller: the agent is held when it comes.
func (w *web) discovery(rw http.ResponseWriter, r *http.Request, p page, j *linkv1.Jenkins) {
	if j.GetAgentPort() == 0 {
		http.NotFound(rw, r) // as the controller itself does while the port is switched off
		return
	}
	host, port := w.agentPort(r, p, j)
	h := rw.Header()
	h[remoting.HeaderHudsonPort] = []string{port}
	if j.GetHudson() {
		h.Set("Content-Type", "text/html;charset=UTF-8")
		if v := j.GetVersion(); v != "" {
			h.Set("X-Hudson", v)
		}
		_, _ = io.WriteString(rw, "\n\n  Hudson\n")
		return
	}
	h[remoting.HeaderPort] = []string{port}
	h[remoting.HeaderHost] = []string{host}
	if id := j.GetInstanceIdentity(); id != "" {
		// One bad character ends an agent's process; without an identity it asks again.
		if _, err := remoting.ParseIdentity(id); err != nil {
			w.door.log.Warn("instance identity left out", "err", err)
		} else {
			h.Set(remoting.HeaderIdentity, id)
		}
	}
	cleartext := w.door.cfg.AllowCleartext || fromLoopback(r)
	if names := offered(j.GetProtocols(), cleartext); len(names) > 0 {
		h.Set(remoting.HeaderProtocols, strings.Join(names, ", "))
	}
	if v := j.GetMinimumVersion(); v != "" {
		h.Set(remoting.HeaderMinimumVersion, v)
	}
	if v := j.GetVersion(); v != "" {
		h.Set("X-Hudson", "1.395") // as every Jenkins says
		h.Set("X-Jenkins", v)
	}
	h.Set("Content-Type", "text/plain;charset=UTF-8")
	_, _ = io.WriteString(rw, "Jenkins")
}

// agentPort returns the host and port at which an agent that asked for a
// controller reaches it by TCP. There its connection says no more which
// controller is meant than its TLS and its name do. Where that would lead to
// another one, the agent is sent to a port that leads to its own, if a route
// says that there is one.
func (w *web) agentPort(r *http.Request, p page, j *linkv1.Jenkins) (host, port string) {
	host, port = w.self(r)
	sni := host
	if j.GetHudson() || !strings.Contains(host, ".") || net.ParseIP(host) != nil {
		sni = "" // as agents have it
	}
	leads := func(port int) bool {
		controller, _, ok := w.door.route("", "", port, p.agent, sni)
		return ok && controller == p.controller
	}
	told, _ := strconv.Atoi(port) // one that is none leads where no port does
	if leads(told) {
		return host, port
	}
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok && leads(a.Port) {
		return host, port // what is told is another name for it
	}
	for _, route := range w.door.cfg.Routes {
		if route.Port != 0 && leads(route.Port) {
			return host, strconv.Itoa(route.Port)
		}
	}
	w.door.log.Debug("an agent's TCP connection may lead to another controller than its look-up; a route by port would help",
		"controller", p.controller, "remote", r.RemoteAddr)
	return host, port
}

// offered returns those of a controller's protocols that this door speaks, and
// the one of its own that shows an agent's name, in front of what it is a
// front for. Protocols whose secret travels in clear are named only to agents
// that would be let in with them.
func offered(protocols []string, cleartext bool) []string {
	var names []string
	for _, p := range protocols {
		switch p {
		case remoting.JNLP4:
			names = append(names, remoting.JNLP4Proxy, p)
		case remoting.JNLP2, remoting.JNLP1:
			if cleartext {
				names = append(names, p)
			}
		case remoting.Ping:
			names = append(names, p)
		}
	}
	// An agent tries them in its own order; the list is for people too.
	if i := slices.Index(names, remoting.JNLP4Proxy); i > 0 {
		names = slices.Insert(slices.Delete(names, i, i+2), 0, remoting.JNLP4Proxy, remoting.JNLP4)
	}
	return names
}

func fromLoopback(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
