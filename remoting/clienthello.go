package remoting

import (
	"encoding/binary"
	"strings"

	"golang.org/x/crypto/cryptobyte"
)

const (
	recordHandshake      = 22
	handshakeClientHello = 1
	recordLimit          = 16 << 10 // of a TLS record in clear

	// helloLimit bounds a ClientHello. With the largest key shares in use it has
	// about 2 KiB.
	helloLimit = 16 << 10

	extensionServerName = 0
	extensionALPN       = 16
)

// ParseClientHello reads which host and which protocols a TLS client asks for:
// a door tells gRPC ("h2") from HTTPS by them and routes by the name. In front
// of it may stand what an agent of JNLP4-connect says before TLS. Nothing is
// taken from b: the TLS server reads the same bytes again.
func ParseClientHello(b []byte) (sni string, alpn []string, err error) {
	if b, err = behindGreeting(b); err != nil {
		return "", nil, err
	}
	hello, err := handshakeMessage(b)
	if err != nil {
		return "", nil, err
	}
	return parseHello(hello)
}

// behindGreeting cuts off the greeting and ACK of JNLP4-connect.
func behindGreeting(b []byte) ([]byte, error) {
	if len(b) == 0 {
		return nil, ErrShort
	}
	if b[0] != 0 {
		return b, nil
	}
	protocol, n, err := ParseGreeting(b)
	if err != nil {
		return nil, err
	}
	rest := b[n:]
	head := rest[:min(len(rest), len(ACK))]
	switch {
	case protocol != JNLP4, string(head) != ACK[:len(head)]:
		return nil, malformed("no TLS behind a greeting")
	case len(head) < len(ACK):
		return nil, ErrShort
	}
	return rest[len(ACK):], nil
}

// handshakeMessage joins the body of the first handshake message, a
// ClientHello, out of the records it is spread over.
func handshakeMessage(b []byte) ([]byte, error) {
	var message []byte
	for {
		if len(message) >= 4 {
			size := int(binary.BigEndian.Uint32(message) & 0xffffff)
			switch {
			case message[0] != handshakeClientHello, size > helloLimit:
				return nil, malformed("no ClientHello")
			case len(message) >= 4+size:
				return message[4 : 4+size], nil
			}
		}
		if len(b) > 0 && b[0] != recordHandshake || len(b) > 1 && b[1] != 3 {
			return nil, malformed("no TLS handshake")
		}
		if len(b) < 5 {
			return nil, ErrShort
		}
		size := int(binary.BigEndian.Uint16(b[3:]))
		if size == 0 || size > recordLimit {
			return nil, malformed("a TLS record of %d bytes", size)
		}
		part := b[5:min(len(b), 5+size)]
		message = append(message, part...)
		if len(part) < size && (len(message) < 4 || len(message) < 4+int(binary.BigEndian.Uint32(message)&0xffffff)) {
			if len(message) >= 4 && (message[0] != handshakeClientHello || binary.BigEndian.Uint32(message)&0xffffff > helloLimit) {
				return nil, malformed("no ClientHello")
			}
			return nil, ErrShort
		}
		b = b[5+len(part):]
	}
}

func parseHello(hello []byte) (sni string, alpn []string, err error) {
	s := cryptobyte.String(hello)
	var session, suites, compressions, extensions cryptobyte.String
	if !s.Skip(2+32) || !s.ReadUint8LengthPrefixed(&session) || !s.ReadUint16LengthPrefixed(&suites) || !s.ReadUint8LengthPrefixed(&compressions) {
		return "", nil, malformed("a ClientHello that breaks off")
	}
	if s.Empty() { // older than extensions
		return "", nil, nil
	}
	if !s.ReadUint16LengthPrefixed(&extensions) || !s.Empty() {
		return "", nil, malformed("a ClientHello that breaks off")
	}
	for !extensions.Empty() {
		var kind uint16
		var body cryptobyte.String
		if !extensions.ReadUint16(&kind) || !extensions.ReadUint16LengthPrefixed(&body) {
			return "", nil, malformed("a ClientHello that breaks off")
		}
		ok := true
		switch kind {
		case extensionServerName:
			sni, ok = serverName(body)
		case extensionALPN:
			alpn, ok = protocolList(body)
		}
		if !ok {
			return "", nil, malformed("a ClientHello with a broken extension")
		}
	}
	return sni, alpn, nil
}

func serverName(body cryptobyte.String) (name string, ok bool) {
	var list cryptobyte.String
	if !body.ReadUint16LengthPrefixed(&list) || !body.Empty() {
		return "", false
	}
	for !list.Empty() {
		var kind uint8
		var host cryptobyte.String
		if !list.ReadUint8(&kind) || !list.ReadUint16LengthPrefixed(&host) {
			return "", false
		}
		if kind == 0 {
			name = strings.TrimSuffix(strings.ToLower(string(host)), ".")
		}
	}
	return name, true
}

func protocolList(body cryptobyte.String) (names []string, ok bool) {
	var list cryptobyte.String
	if !body.ReadUint16LengthPrefixed(&list) || !body.Empty() {
		return nil, false
	}
	for !list.Empty() {
		var name cryptobyte.String
		if !list.ReadUint8LengthPrefixed(&name) {
			return nil, false
		}
		names = append(names, string(name))
	}
	return names, true
}
