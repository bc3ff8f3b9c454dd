package standin

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/moorage-dev/moorage/remoting"
)

// handler is the HTTP port: what agents ask for, and 404 for the rest.
func (c *Controller) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /tcpSlaveAgentListener/", c.answerLookup)
	mux.HandleFunc("GET /login", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html;charset=utf-8")
		_, _ = io.WriteString(w, "<html>log in</html>\n") // an agent looks at the status alone
	})
	if !c.cfg.Hudson {
		mux.HandleFunc("/wsagents/", c.answerWebSocket)
	}
	mux.HandleFunc("GET /jnlpJars/{jar}", c.answerJar)
	mux.HandleFunc("GET /computer/{name}/{file}", c.answerJNLP)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		if name, found := strings.CutPrefix(path, c.cfg.Prefix+"/computer/"); found {
			_, file, _ := strings.Cut(name, "/")
			path = c.cfg.Prefix + "/computer/NAME/" + file
		}
		c.count(func(s *Stats) {
			if s.Requests[path] > 0 || len(s.Requests) < 100 {
				s.Requests[path]++
			}
		})
		w.Header().Set("X-Hudson", "1.395")
		if !c.cfg.Hudson {
			w.Header().Set("X-Jenkins", "2.528")
		}
		http.StripPrefix(c.cfg.Prefix, mux).ServeHTTP(w, r)
	})
}

// answerLookup tells where the agent port is.
func (c *Controller) answerLookup(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/plain;charset=UTF-8")
	h.Set(remoting.HeaderHudsonPort, c.port)
	if !c.cfg.Hudson {
		h.Set(remoting.HeaderPort, c.port)
		h.Set(remoting.HeaderIdentity, c.Identity)
		h.Set(remoting.HeaderProtocols, strings.Join(c.protocols(), ", "))
		h.Set(remoting.HeaderMinimumVersion, "3176.v207ec082a_8c0")
	}
	_, _ = io.WriteString(w, "Jenkins") // nobody reads the body
}

// answerJar serves the agent's program: the same bytes under each of its names.
func (c *Controller) answerJar(w http.ResponseWriter, r *http.Request) {
	switch jar := r.PathValue("jar"); jar {
	case "agent.jar", "remoting.jar", "slave.jar":
		w.Header().Set("Content-Type", "application/java-archive")
		http.ServeContent(w, r, jar, time.Time{}, bytes.NewReader(c.cfg.Jar))
	default:
		http.NotFound(w, r)
	}
}

// answerJNLP tells an agent how to start, in clear or under its secret.
func (c *Controller) answerJNLP(w http.ResponseWriter, r *http.Request) {
	name, file := r.PathValue("name"), r.PathValue("file")
	if file != "jenkins-agent.jnlp" && file != "slave-agent.jnlp" || !c.knows(name) {
		http.NotFound(w, r)
		return
	}
	var args bytes.Buffer
	for _, argument := range append(append([]string{c.Secret(name), name}, c.cfg.Options...), "-url", c.URL) {
		args.WriteString("<argument>")
		_ = xml.EscapeText(&args, []byte(argument)) // a buffer never fails
		args.WriteString("</argument>")
	}
	text := `<jnlp spec="1.0+"><application-desc main-class="hudson.remoting.jnlp.Main">` + args.String() + "</application-desc></jnlp>"
	if r.URL.Query().Get("encrypt") != "true" {
		w.Header().Set("Content-Type", "application/x-java-jnlp-file")
		_, _ = io.WriteString(w, text) // an agent that has gone needs none
		return
	}
	var iv [16]byte
	rand.Read(iv[:]) // never fails
	body, err := remoting.EncryptJNLP(c.Secret(name), iv, []byte(text))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(body)
}

// answerWebSocket lets an agent in by /wsagents/, or refuses it with the
// statuses of a stock controller.
func (c *Controller) answerWebSocket(w http.ResponseWriter, r *http.Request) {
	name, secret := r.Header.Get(remoting.HeaderNodeName), r.Header.Get(remoting.HeaderSecret)
	capability, cookie := r.Header.Get(remoting.HeaderCapability), r.Header.Get(remoting.HeaderCookie)
	if name == "" || secret == "" || capability == "" || !websocket.IsWebSocketUpgrade(r) {
		http.Error(w, "not an agent's upgrade request", http.StatusBadRequest)
		return
	}
	name = remoting.FromLatin1(name)
	if !c.knows(name) {
		_ = c.refuse("Unknown client name: " + name) // counted
		http.Error(w, "no such agent", http.StatusBadRequest)
		return
	}
	if subtle.ConstantTimeCompare([]byte(secret), []byte(c.Secret(name))) != 1 {
		_ = c.refuse("Authorization failure") // counted
		http.Error(w, "incorrect secret", http.StatusForbidden)
		return
	}
	if err := c.vacate(name, cookie); err != nil {
		text := err.Error()
		if refusal, ok := errors.AsType[*Refusal](err); ok {
			text = refusal.Text
		}
		http.Error(w, text, http.StatusBadRequest)
		return
	}
	if mask, err := remoting.ParseCapabilityText(capability); err != nil || mask != remoting.StockCapability {
		http.Error(w, "no capability that is known", http.StatusBadRequest)
		return
	}
	if cookie == "" {
		cookie = newCookie()
	} else if _, err := hex.DecodeString(cookie); err != nil {
		http.Error(w, "no cookie", http.StatusBadRequest)
		return
	}

	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return
	}
	c.wg.Add(1) // Run waits for what the server has given away
	c.mu.Unlock()
	defer c.wg.Done()
	upgrader := websocket.Upgrader{WriteBufferPool: &wsBuffers, ReadBufferSize: 1 << 10, WriteBufferSize: 16 << 10, CheckOrigin: func(*http.Request) bool { return true }}
	conn, err := upgrader.Upgrade(w, r, http.Header{
		remoting.HeaderCapability: {remoting.CapabilityText(remoting.StockCapability)},
		remoting.HeaderCookie:     {cookie},
	})
	if err != nil {
		c.cfg.Log.Info("refused", "remote", r.RemoteAddr, "err", err)
		return
	}
	answered := func() { c.count(func(s *Stats) { s.Pongs++ }) }
	c.serve(name, newChannel(newSocketLine(conn, c.cfg.SocketPing, answered), WebSocket, cookie, r.RemoteAddr, c.cfg.Pings))
}

// WebSocket is the protocol of a Connected that came by /wsagents/.
const WebSocket = "WebSocket"
