package remoting

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The protocols that a greeting may ask for.
const (
	JNLP4      = "JNLP4-connect"       // ACKs, then TLS end to end
	JNLP4Proxy = "JNLP4-connect-proxy" // the agent's name in clear, then JNLP4-connect from its greeting on
	JNLP2      = "JNLP2-connect"       // a log-in in clear that has a cookie, then one Java stream
	JNLP1      = "JNLP-connect"        // a log-in in clear, then one Java stream
	Ping       = "Ping"                // answered with Pong, then closed
)

// What is said around greetings.
const (
	ACK  = "\x00\x03ACK" // both ends of JNLP4-connect, each within 10 s
	Pong = "Ping\n"      // the answer to Protocol:Ping

	// Welcome begins the line that answers a log-in of JNLP-connect and
	// JNLP2-connect; any other line is a refusal.
	Welcome = "Welcome\n"
)

// The answers to headers. A refusal has a text behind its front.
const (
	OK         = "OK"
	BYE        = "BYE" // the refused end's last word
	ErrorFront = "ERROR: "
	FatalFront = "FATAL: "
)

// responseLimit bounds a response: the text of a refusal is for a log.
const responseLimit = 4 << 10

// proxyLimit bounds the block of JNLP4-connect-proxy.
const proxyLimit = 1 << 10

// AppendGreeting appends the greeting that asks for a protocol.
func AppendGreeting(b []byte, protocol string) []byte {
	return AppendString(b, greetingFront+protocol)
}

// ParseGreeting reads a greeting of at most 64 bytes and returns the protocol
// it asks for, known or not.
func ParseGreeting(b []byte) (protocol string, n int, err error) {
	text, n, err := parseBytes(b, greetingLimit)
	if err != nil {
		return "", 0, err
	}
	name, found := bytes.CutPrefix(text, []byte(greetingFront))
	if !found {
		return "", 0, malformed("no greeting")
	}
	return string(name), n, nil
}

// AppendProxyBlock appends what follows the greeting of JNLP4-connect-proxy.
func AppendProxyBlock(b []byte, node string) []byte {
	b = append(b, "Node-Name: "...)
	b = append(b, node...)
	return append(b, "\n\n"...)
}

// ParseProxyBlock reads the lines that follow the greeting of
// JNLP4-connect-proxy, up to the empty one, at most 1 KiB of them. They end in
// LF, or in CRLF on a Windows agent; lines other than Node-Name are passed
// over. The name is a claim that nobody has proven.
func ParseProxyBlock(b []byte) (node string, n int, err error) {
	named := false
	for {
		end := bytes.IndexByte(b[n:], '\n')
		switch {
		case end < 0 && len(b) >= proxyLimit, n+end >= proxyLimit:
			return "", 0, malformed("a proxy block of more than %d bytes", proxyLimit)
		case end < 0:
			return "", 0, ErrShort
		}
		line := string(bytes.TrimSuffix(b[n:n+end], []byte("\r")))
		n += end + 1
		if line == "" {
			break
		}
		key, value, _ := strings.Cut(line, ":")
		if strings.EqualFold(strings.TrimSpace(key), "Node-Name") {
			node, named = strings.TrimSpace(value), true
		}
	}
	if !named || !ValidName(node) {
		return "", 0, malformed("a proxy block without a name")
	}
	return node, n, nil
}

// ValidName reports whether s may be an agent's name: UTF-8 of at most 1 KiB
// that a log or a header can show.
func ValidName(s string) bool {
	return s != "" && len(s) <= proxyLimit && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// AppendRefusal appends the response that refuses a peer.
func AppendRefusal(b []byte, text string) []byte {
	const room = responseLimit - len(ErrorFront)
	return AppendString(b, ErrorFront+text[:min(len(text), room)])
}

// ParseResponse reads a response of at most 4 KiB.
func ParseResponse(b []byte) (response string, n int, err error) {
	return ParseString(b, responseLimit)
}

// Refusal returns the text of a response that refuses, and whether it does.
func Refusal(response string) (text string, refused bool) {
	for _, front := range []string{ErrorFront, FatalFront} {
		if text, refused = strings.CutPrefix(response, front); refused {
			return text, true
		}
	}
	return "", false
}
