package remoting

import (
	"bytes"
)

// A Sort is what a connection speaks, as far as its first bytes tell.
type Sort uint8

// The sorts of connections.
const (
	SortMore     Sort = iota // too few bytes to tell
	SortGreeting             // an agent: u16s("Protocol:…")
	SortHTTP1                // a request line of HTTP/1
	SortHTTP2                // HTTP/2 in clear, so gRPC
	SortTLS                  // a ClientHello, for HTTPS or for gRPC: ParseClientHello tells
	SortProxy                // a PROXY header, version 1 or 2; what it stands before comes behind it
	SortUnknown              // nothing a door knows
)

func (s Sort) String() string {
	if int(s) >= len(sortNames) {
		return "unknown"
	}
	return sortNames[s]
}

var sortNames = [...]string{"more", "greeting", "http1", "http2", "tls", "proxy", "unknown"}

// SniffLen is the most bytes that Sniff ever needs.
const SniffLen = 14

// greetingLimit bounds the text of a greeting. The longest known has 28 bytes;
// the limit also keeps the first byte zero, so that nothing else that a door
// knows can begin like a greeting.
const greetingLimit = 64

const greetingFront = "Protocol:"

// openings are the other sorts' first bytes.
var openings = []struct {
	sort  Sort
	first string
}{
	{SortHTTP2, "PRI * HTTP/2.0"},
	{SortProxy, "PROXY "},
	{SortProxy, "\r\n\r\n\x00\r\nQUIT\n"},
	{SortHTTP1, "GET "}, {SortHTTP1, "POST "}, {SortHTTP1, "HEAD "}, {SortHTTP1, "PUT "}, {SortHTTP1, "DELETE "},
	{SortHTTP1, "OPTIONS "}, {SortHTTP1, "PATCH "}, {SortHTTP1, "TRACE "}, {SortHTTP1, "CONNECT "},
}

// Sniff tells a connection's sort by its first bytes; SortMore asks for more,
// and never once SniffLen bytes are there.
func Sniff(first []byte) Sort {
	if len(first) == 0 {
		return SortMore
	}
	switch first[0] {
	case 0:
		return sniffGreeting(first)
	case recordHandshake:
		return sniffTLS(first)
	}
	sort := SortUnknown
	for _, o := range openings {
		switch n := min(len(first), len(o.first)); {
		case string(first[:n]) != o.first[:n]:
		case n == len(o.first):
			return o.sort
		default:
			sort = SortMore
		}
	}
	return sort
}

func sniffGreeting(first []byte) Sort {
	if len(first) >= 2 && (first[1] > greetingLimit || int(first[1]) < len(greetingFront)) {
		return SortUnknown
	}
	if len(first) <= 2 {
		return SortMore
	}
	text := first[2:min(len(first), 2+len(greetingFront))]
	switch {
	case !bytes.HasPrefix([]byte(greetingFront), text):
		return SortUnknown
	case len(text) < len(greetingFront):
		return SortMore
	}
	return SortGreeting
}

// sniffTLS looks at record type, version, length and the type of the handshake
// message: a stock Jenkins would take these bytes for a string's length.
func sniffTLS(first []byte) Sort {
	switch {
	case len(first) > 1 && first[1] != 3:
		return SortUnknown
	case len(first) < 6:
		return SortMore
	case first[5] != handshakeClientHello:
		return SortUnknown
	}
	return SortTLS
}
