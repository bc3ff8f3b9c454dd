package standin

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/moorage-dev/moorage/remoting"
)

// Waits of the JNLP4 handshake; nothing else in it has a limit.
const (
	ackWait     = 10 * time.Second
	refusalWait = 10 * time.Second
)

// ErrNoACK reports that the other end did not say ACK within ten seconds.
var ErrNoACK = errors.New("standin: timeout waiting for ACK")

// A Refusal is the text with which a controller turned an agent away.
type Refusal struct{ Text string }

func (r *Refusal) Error() string { return "standin: refused: " + r.Text }

// exchangeACK says ACK and waits for the other end's.
func exchangeACK(conn net.Conn, first []byte) error {
	if _, err := conn.Write(append(first, remoting.ACK...)); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(ackWait)); err != nil {
		return err
	}
	var ack [len(remoting.ACK)]byte
	if _, err := io.ReadFull(conn, ack[:]); err != nil {
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			return ErrNoACK
		}
		return fmt.Errorf("standin: no ACK: %w", err)
	}
	if string(ack[:]) != remoting.ACK {
		return fmt.Errorf("standin: incorrect acknowledgement %x", ack)
	}
	return conn.SetReadDeadline(time.Time{})
}

// frame reads one string and gives it to a parser with its length in front.
func frame(r io.Reader) ([]byte, error) {
	b := make([]byte, 2, 256)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	b = append(b, make([]byte, binary.BigEndian.Uint16(b))...)
	_, err := io.ReadFull(r, b[2:])
	return b, err
}

// peerHeaders sends this end's headers and reads the other's.
func peerHeaders(conn io.ReadWriter, own remoting.Headers) (remoting.Headers, error) {
	if _, err := conn.Write(remoting.AppendHeaders(nil, own)); err != nil {
		return nil, err
	}
	b, err := frame(conn)
	if err != nil {
		return nil, err
	}
	h, _, err := remoting.ParseHeaders(b)
	return h, err
}

// peerResponse reads what the other end made of our headers.
func peerResponse(r io.Reader) error {
	b, err := frame(r)
	if err != nil {
		return err
	}
	response, _, err := remoting.ParseResponse(b)
	if err != nil {
		return err
	}
	if text, refused := remoting.Refusal(response); refused {
		return &Refusal{text}
	}
	if response != remoting.OK {
		return fmt.Errorf("%w: a response that is neither yes nor no", remoting.ErrMalformed)
	}
	return nil
}

// capabilities exchanges capabilities; other masks than the stock one are for
// Java ends that these two are not.
func capabilities(conn io.ReadWriter) error {
	if _, err := conn.Write(remoting.AppendCapability(nil, remoting.StockCapability)); err != nil {
		return err
	}
	b, err := frame(conn)
	if err != nil {
		return err
	}
	mask, _, err := remoting.ParseCapability(b)
	if err != nil || mask != remoting.StockCapability {
		return errors.Join(errTooOld, err)
	}
	return nil
}

// agentJNLP4 is an agent's part of JNLP4-connect, on a connection that is its
// alone. It returns the controller's cookie.
func agentJNLP4(ctx context.Context, raw *socket, first []byte, config *tls.Config, own remoting.Headers) (l line, cookie string, err error) {
	if err := exchangeACK(raw, remoting.AppendGreeting(first, remoting.JNLP4)); err != nil {
		return nil, "", err
	}
	secure := tls.Client(raw, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, "", err
	}
	theirs, err := peerHeaders(secure, own)
	if err != nil {
		return nil, "", err
	}
	if _, err := secure.Write(remoting.AppendString(nil, remoting.OK)); err != nil {
		return nil, "", err
	}
	if err := peerResponse(secure); err != nil {
		if _, refused := errors.AsType[*Refusal](err); refused {
			confirmRefusal(secure, raw)
		}
		return nil, "", err
	}
	if err := capabilities(secure); err != nil {
		return nil, "", err
	}
	return secureLine{secure, raw}, theirs.Value(remoting.KeyCookie), nil
}

// confirmRefusal is the refused end's: it says BYE and waits, not for ever, for
// the other to close.
func confirmRefusal(secure *tls.Conn, raw *socket) {
	if _, err := secure.Write(remoting.AppendString(nil, remoting.BYE)); err != nil {
		return
	}
	if raw.SetReadDeadline(time.Now().Add(refusalWait)) == nil {
		_, _ = io.Copy(io.Discard, raw) // until it is closed or the time is up
	}
}

// controllerJNLP4 is a controller's part, behind the greeting. admit decides on
// the agent's headers; its error's text is the refusal.
func controllerJNLP4(ctx context.Context, raw *socket, config *tls.Config, cookie string, admit func(remoting.Headers) error) (line, error) {
	if err := exchangeACK(raw, nil); err != nil {
		return nil, err
	}
	secure := tls.Server(raw, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	theirs, err := peerHeaders(secure, remoting.Headers{remoting.KeyCookie: &cookie})
	if err != nil && !errors.Is(err, remoting.ErrMalformed) {
		return nil, err
	}
	if err != nil {
		err = &Refusal{"Malformed connection header"}
	} else {
		err = admit(theirs)
	}
	if refusal, refused := errors.AsType[*Refusal](err); refused {
		return nil, refuse(secure, raw, refusal)
	} else if err != nil {
		return nil, err
	}
	if _, err := secure.Write(remoting.AppendString(nil, remoting.OK)); err != nil {
		return nil, err
	}
	if err := peerResponse(secure); err != nil {
		if _, refused := errors.AsType[*Refusal](err); refused {
			_, _ = secure.Write(remoting.AppendString(nil, remoting.BYE)) // out of politeness
		}
		return nil, err
	}
	if err := capabilities(secure); err != nil {
		return nil, err
	}
	return secureLine{secure, raw}, nil
}

// refuse sends a refusal and waits for the agent's OK and BYE.
func refuse(secure *tls.Conn, raw *socket, refusal *Refusal) error {
	if _, err := secure.Write(remoting.AppendRefusal(nil, refusal.Text)); err != nil {
		return err
	}
	if err := raw.SetReadDeadline(time.Now().Add(refusalWait)); err != nil {
		return err
	}
	for range 2 {
		if _, err := frame(secure); err != nil {
			break // it has hung up, or does not in time: the refusal stands
		}
	}
	return refusal
}

// newCookie is 32 random bytes in hex.
func newCookie() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
