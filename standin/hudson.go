package standin

import (
	"bufio"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/moorage-dev/moorage/remoting"
)

// What Hudson's two ends tell each other behind the log-in: capability, binary
// mode, and the beginning of the one Java stream in which all that follows
// stands. Here it is the stand-ins' chunks that follow: to whoever stands
// between, both are bytes without a border.
const (
	hudsonFront  = "<===[HUDSON REMOTING CAPACITY]===>"
	hudsonMask   = 6
	hudsonStream = "\x00\x00\x00\x00\xac\xed\x00\x05"
)

func hudsonPreamble() string {
	return hudsonFront + remoting.CapabilityText(hudsonMask) + hudsonStream
}

// exchangePreambles sends the preamble and reads the other end's to the byte.
func exchangePreambles(conn net.Conn) error {
	own := hudsonPreamble()
	if _, err := io.WriteString(conn, own); err != nil {
		return err
	}
	theirs := make([]byte, len(own))
	if _, err := io.ReadFull(conn, theirs); err != nil {
		return err
	}
	if string(theirs) != own {
		return errTooOld
	}
	return nil
}

// oldLogin is the controller's part of JNLP-connect and JNLP2-connect behind
// the greeting: a line of text is the whole answer.
func (c *Controller) oldLogin(raw *socket, protocol string) error {
	var name, secret, cookie string
	b, err := frame(raw)
	if err != nil {
		return err
	}
	if protocol == remoting.JNLP1 {
		second, err := frame(raw)
		if err != nil {
			return err
		}
		secret, name, _, err = remoting.ParseLogin1(append(b, second...))
		if err != nil {
			return err
		}
	} else if name, secret, cookie, _, err = remoting.ParseLogin2(b); err != nil {
		return err
	}
	if refusal := c.admitOld(name, secret, cookie); refusal != nil {
		_, err := io.WriteString(raw, refusal.Text+"\n")
		return errors.Join(refusal, err)
	}
	welcome, cookie := remoting.Welcome, ""
	if protocol == remoting.JNLP2 {
		cookie = newCookie()
		welcome += "Cookie: " + cookie + "\n\n"
	}
	if _, err := io.WriteString(raw, welcome); err != nil {
		return err
	}
	if err := exchangePreambles(raw); err != nil {
		return err
	}
	c.serve(name, newChannel(raw, protocol, cookie, raw.RemoteAddr().String(), c.cfg.Pings))
	return nil
}

// admitOld is admit with the words of a Hudson, and its order: the secret
// first.
func (c *Controller) admitOld(name, secret, cookie string) *Refusal {
	if subtle.ConstantTimeCompare([]byte(secret), []byte(c.Secret(name))) != 1 {
		c.count(func(s *Stats) { s.Refused["Authorization failure"]++ })
		return &Refusal{"Unauthorized access"}
	}
	if !c.knows(name) {
		c.count(func(s *Stats) { s.Refused["Unknown client name"]++ })
		return &Refusal{"No such slave: " + name}
	}
	if err := c.vacate(name, cookie); err != nil {
		return &Refusal{name + " is already connected to this master. Rejecting this connection."}
	}
	return nil
}

// agentOld is an agent's part: greeting and log-in at once, then a line.
func agentOld(raw *socket, protocol, name, secret, cookie string) (newCookie string, err error) {
	b := remoting.AppendGreeting(nil, protocol)
	if protocol == remoting.JNLP1 {
		b = remoting.AppendLogin1(b, secret, name)
	} else {
		b = remoting.AppendLogin2(b, name, secret, cookie)
	}
	if _, err := raw.Write(b); err != nil {
		return "", err
	}
	line, err := readLine(raw)
	if err != nil {
		return "", err
	}
	if line+"\n" != remoting.Welcome {
		return "", &Refusal{line}
	}
	for protocol == remoting.JNLP2 {
		if line, err = readLine(raw); err != nil {
			return "", err
		}
		if line == "" {
			break
		}
		if value, found := strings.CutPrefix(line, "Cookie: "); found {
			newCookie = value
		}
	}
	return newCookie, exchangePreambles(raw)
}

// readLine reads a line byte by byte: what follows belongs to the stream.
func readLine(r io.Reader) (string, error) {
	var line []byte
	for len(line) < bufio.MaxScanTokenSize {
		var b [1]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return strings.TrimSuffix(string(line), "\r"), nil
		}
		line = append(line, b[0])
	}
	return "", fmt.Errorf("%w: a line without end", remoting.ErrMalformed)
}
