package standin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/moorage-dev/moorage/remoting"
)

// accept serves the agent port: like the stock one, a goroutine for each
// connection, without a limit to their number or to the time of a greeting.
func (c *Controller) accept() {
	for {
		conn, err := c.tcp.Accept()
		if err != nil {
			return // Run closes the port
		}
		c.mu.Lock()
		if c.stopped {
			c.mu.Unlock()
			conn.Close()
			return
		}
		c.open[conn] = true
		c.wg.Add(1)
		c.mu.Unlock()
		go func() {
			defer c.wg.Done()
			raw := &socket{Conn: conn}
			defer raw.Close()
			err := c.agentPort(raw)
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.open, conn)
			if errors.Is(err, ErrNoACK) {
				c.stats.NoACK++
			}
			if err != nil {
				c.cfg.Log.Info("refused", "remote", conn.RemoteAddr(), "err", err)
			}
		}()
	}
}

// agentPort looks at ten bytes, as the stock listener does, and answers what
// they begin.
func (c *Controller) agentPort(raw *socket) error {
	first := make([]byte, 10)
	if n, err := io.ReadFull(raw, first); err != nil {
		if n == 0 {
			c.count(func(s *Stats) { s.Probes++ })
			return nil
		}
		return err
	}
	c.count(func(s *Stats) { s.Connections++ })
	if bytes.HasPrefix(first, []byte("GET ")) {
		return c.answerBrowser(raw, first)
	}
	// Whatever it is counts as a string's length: a ClientHello asks for 5,635
	// bytes, and is waited for.
	greeting := append(first, make([]byte, max(0, 2+int(binary.BigEndian.Uint16(first))-len(first)))...)
	if _, err := io.ReadFull(raw, greeting[10:]); err != nil {
		return err
	}
	protocol, _, err := remoting.ParseGreeting(greeting)
	switch {
	case err != nil:
		_, err := fmt.Fprint(raw, "Unrecognized protocol: ", string(greeting[2:]), "\n")
		return errors.Join(errors.New("standin: no greeting"), err)
	case protocol == remoting.Ping:
		_, err := io.WriteString(raw, remoting.Pong)
		return err
	case slices.Contains(c.protocols(), protocol):
	default:
		_, err := fmt.Fprintf(raw, "Unknown protocol:%s\n", protocol)
		return errors.Join(errors.New("standin: unknown protocol"), err)
	}
	switch protocol {
	case remoting.JNLP4:
		return c.jnlp4(raw)
	default:
		return c.oldLogin(raw, protocol)
	}
}

func (c *Controller) protocols() []string {
	switch {
	case c.cfg.Protocols != nil:
		return c.cfg.Protocols
	case c.cfg.Hudson:
		return []string{remoting.JNLP1, remoting.JNLP2, remoting.Ping}
	}
	return []string{remoting.JNLP4, remoting.Ping}
}

// answerBrowser answers somebody who took the agent port for a web server, and
// then drains what they send.
func (c *Controller) answerBrowser(raw *socket, first []byte) error {
	request, err := http.ReadRequest(bufio.NewReader(io.MultiReader(bytes.NewReader(first), raw)))
	if err != nil {
		return err
	}
	answer := "HTTP/1.0 404 Not Found\nContent-Type: text/plain;charset=UTF-8\n\nNot Found\n"
	if request.URL.Path == "/" {
		answer = "HTTP/1.0 200 OK\r\nContent-Type: text/plain;charset=UTF-8\r\nX-Content-Type-Options: nosniff\r\n\r\n" +
			"Jenkins-Agent-Protocols: " + strings.Join(c.protocols(), ", ") + "\r\nJenkins-Version: 2.528\r\n"
	}
	if _, err := io.WriteString(raw, answer); err != nil {
		return err
	}
	if tcp, ok := raw.Conn.(*net.TCPConn); ok {
		if err := tcp.CloseWrite(); err != nil {
			return err
		}
	}
	_, err = io.Copy(io.Discard, raw)
	return err
}

func (c *Controller) jnlp4(raw *socket) error {
	var name string
	cookie := newCookie()
	config := c.identity.serverTLS()
	config.MaxVersion = c.cfg.MaxTLS
	l, err := controllerJNLP4(context.Background(), raw, config, cookie, func(h remoting.Headers) error {
		name = h.Value(remoting.KeyNodeName)
		if h[remoting.KeySecret] == nil && c.knows(name) {
			return errors.New("standin: no Secret-Key: an internal error of stock controllers, who close without a word")
		}
		return c.admit(name, h.Value(remoting.KeySecret), h.Value(remoting.KeyCookie))
	})
	if err != nil {
		return err
	}
	c.serve(name, newChannel(l, remoting.JNLP4, cookie, raw.RemoteAddr().String(), c.cfg.Pings))
	return nil
}
