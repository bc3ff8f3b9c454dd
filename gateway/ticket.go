package gateway

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/moorage-dev/moorage/proto/envelope"
	"github.com/moorage-dev/moorage/seeded"
)

// A Ring is the fleet's keys. What Current or Previous made is believed; new
// things are made with Current. So a key is changed in two steps, each rolled
// out to every gateway before the next: the new one as Previous of all, then
// as Current with the old one as Previous.
type Ring struct {
	Current, Previous []byte
}

// mac returns the MAC of the parts, each preceded by its length.
func mac(key []byte, purpose string, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(purpose))
	for _, p := range parts {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	return h.Sum(nil)
}

// valid reports whether sum is the MAC of the parts under a key of the ring.
func (r Ring) valid(sum []byte, purpose string, parts ...[]byte) bool {
	ok := hmac.Equal(sum, mac(r.Current, purpose, parts...))
	if len(r.Previous) > 0 {
		ok = hmac.Equal(sum, mac(r.Previous, purpose, parts...)) || ok
	}
	return ok
}

const (
	forToken  = "moorage token\x00"
	forTicket = "moorage ticket\x00"
)

// NewToken returns the credential that proves an agent's name to every gateway
// that has the key.
func NewToken(key []byte, agent string) string {
	return base64.RawURLEncoding.EncodeToString(mac(key, forToken, []byte(agent)))
}

// authenticate returns the identity that the caller has proved: the agent's
// name, or, at an insecure gateway, nothing. Errors: errUnauthenticated.
func (g *Gateway) authenticate(p *peer.Peer, agent, credential string) (identity string, err error) {
	if agent != "" {
		if p != nil {
			if t, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(t.State.VerifiedChains) > 0 &&
				slices.Contains(t.State.PeerCertificates[0].DNSNames, agent) {
				return agent, nil
			}
		}
		sum, err := base64.RawURLEncoding.DecodeString(credential)
		if err == nil && len(g.cfg.Keys.Current) > 0 && g.cfg.Keys.valid(sum, forToken, []byte(agent)) {
			return agent, nil
		}
	}
	if g.cfg.Insecure {
		return "", nil
	}
	return "", errUnauthenticated
}

// A claim is what a ticket vouches for.
type claim struct {
	session     envelope.SessionID
	identity    string
	controller  string
	partition   int32
	incarnation envelope.Incarnation
}

func (c *claim) parts(expiry []byte) [][]byte {
	where := binary.BigEndian.AppendUint32(nil, uint32(c.partition))
	where = append(where, c.incarnation.Topic[:]...)
	where = binary.BigEndian.AppendUint64(where, uint64(c.incarnation.Offset))
	return [][]byte{c.session[:], []byte(c.identity), []byte(c.controller), where, expiry}
}

// ticket returns a resume ticket: 8 bytes of expiry in Unix seconds, and the MAC.
func (r Ring) ticket(c *claim, now time.Time) []byte {
	expiry := binary.BigEndian.AppendUint64(nil, uint64(now.Add(ticketFor).Unix()))
	return append(expiry, mac(r.Current, forTicket, c.parts(expiry)...)...)
}

// check refuses a ticket that no gateway of the fleet made for the claim, or
// that has expired. An insecure fleet without keys makes tickets under the
// empty key: they prove as little as its credentials.
func (r Ring) check(ticket []byte, c *claim, now time.Time) error {
	if seeded.On(seeded.TicketUnchecked) {
		return nil
	}
	if len(ticket) != 8+sha256.Size || !r.valid(ticket[8:], forTicket, c.parts(ticket[:8])...) {
		return errTicketForged
	}
	if now.Unix() > int64(binary.BigEndian.Uint64(ticket)) {
		return errTicketExpired
	}
	return nil
}
