package remoting

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Headers are what the two ends of JNLP4-connect tell each other once TLS is
// up. A value may be null.
type Headers map[string]*string

// Keys of headers.
const (
	KeyNodeName = "Node-Name"
	KeySecret   = "Secret-Key"
	KeyCookie   = "JnlpAgentProtocol.cookie"
)

// Limits of headers. A stock agent sends three keys in about 200 bytes.
const (
	headersLimit = 8 << 10
	headersKeys  = 16
)

// Value is the value of a key, "" if it is absent or null.
func (h Headers) Value(key string) string {
	if v := h[key]; v != nil {
		return *v
	}
	return ""
}

// AppendHeaders appends headers as one string, a flat JSON object, escaped as
// Java does it and in the order of their keys.
func AppendHeaders(b []byte, h Headers) []byte {
	var text strings.Builder
	text.WriteByte('{')
	for i, key := range slices.Sorted(maps.Keys(h)) {
		if i > 0 {
			text.WriteByte(',')
		}
		quoteJSON(&text, key)
		text.WriteByte(':')
		if v := h[key]; v == nil {
			text.WriteString("null")
		} else {
			quoteJSON(&text, *v)
		}
	}
	text.WriteByte('}')
	return AppendString(b, text.String())
}

// escapes are the characters that have an escape of their own, and its letter.
const escapes, letters = "\"\\\b\f\n\r\t", `"\bfnrt`

func quoteJSON(text *strings.Builder, s string) {
	text.WriteByte('"')
	for i := range len(s) {
		switch at := strings.IndexByte(escapes, s[i]); {
		case at >= 0:
			text.WriteByte('\\')
			text.WriteByte(letters[at])
		case s[i] < 0x20:
			fmt.Fprintf(text, `\u%04x`, s[i])
		default:
			text.WriteByte(s[i])
		}
	}
	text.WriteByte('"')
}

// ParseHeaders reads headers of at most 8 KiB and 16 keys, as Java does: of
// two equal keys the last wins, and an object that breaks off counts as far as
// it was whole. Numbers, booleans, nesting, a comma before the brace and text
// behind it are refused.
func ParseHeaders(b []byte) (h Headers, n int, err error) {
	text, n, err := parseBytes(b, headersLimit)
	if err != nil {
		return nil, 0, err
	}
	if !utf8.Valid(text) {
		return nil, 0, malformed("headers that are not UTF-8")
	}
	p := headerParser{rest: string(text)}
	if h, err = p.object(); err != nil {
		return nil, 0, err
	}
	return h, n, nil
}

// A headerParser walks through the text of headers. Its end may come anywhere.
type headerParser struct {
	rest string
}

// next takes the next byte that is no blank; false: the text is over.
func (p *headerParser) next() (byte, bool) {
	p.rest = strings.TrimLeft(p.rest, " \t\n\r\f\b")
	if p.rest == "" {
		return 0, false
	}
	c := p.rest[0]
	p.rest = p.rest[1:]
	return c, true
}

// want takes the next byte that is no blank, which must be c.
func (p *headerParser) want(c byte) (more bool, err error) {
	got, more := p.next()
	if more && got != c {
		return false, malformed("headers that are no flat object of strings")
	}
	return more, nil
}

func (p *headerParser) object() (Headers, error) {
	h := Headers{}
	if more, err := p.want('{'); !more {
		return h, err
	}
	for first := true; ; first = false {
		c, more := p.next()
		switch {
		case !more:
			return h, nil
		case c == '}' && first:
			return h, p.end()
		case c != '"':
			return nil, malformed("headers that are no flat object of strings")
		}
		if more, err := p.entry(h); !more {
			return h, err
		}
		switch c, more := p.next(); {
		case !more:
			return h, nil
		case c == '}':
			return h, p.end()
		case c != ',':
			return nil, malformed("headers that are no flat object of strings")
		}
	}
}

// entry reads a key, whose quote is taken, and its value.
func (p *headerParser) entry(h Headers) (more bool, err error) {
	key, more, err := p.quoted()
	if !more {
		return false, err
	}
	if more, err := p.want(':'); !more {
		return false, err
	}
	p.rest = strings.TrimLeft(p.rest, " \t\n\r\f\b")
	rest, null := strings.CutPrefix(p.rest, "null")
	var value *string
	if null {
		p.rest = rest
	} else {
		if more, err := p.want('"'); !more {
			return false, err
		}
		s, more, err := p.quoted()
		if !more {
			return false, err
		}
		value = &s
	}
	h[key] = value
	if len(h) > headersKeys {
		return false, malformed("headers of more than %d keys", headersKeys)
	}
	return true, nil
}

// quoted reads up to the closing quote.
func (p *headerParser) quoted() (s string, more bool, err error) {
	var out []byte
	for i := 0; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '"':
			p.rest = p.rest[i+1:]
			return string(out), true, nil
		case c != '\\':
			out = append(out, c)
		case i+1 == len(p.rest): // the text is over
		default:
			i++
			if at := strings.IndexByte(letters+"/", p.rest[i]); at >= 0 {
				out = append(out, (escapes + "/")[at])
				continue
			}
			if p.rest[i] != 'u' {
				return "", false, malformed("headers with an unknown escape")
			}
			r, size, err := unicodeEscape(p.rest[i+1:])
			if err != nil {
				return "", false, err
			}
			out = utf8.AppendRune(out, r)
			i += size
		}
	}
	p.rest = ""
	return "", false, nil
}

// end makes sure that nothing follows the object.
func (p *headerParser) end() error {
	if _, more := p.next(); more {
		return malformed("headers with text behind them")
	}
	return nil
}
