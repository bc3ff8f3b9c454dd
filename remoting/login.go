package remoting

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Limits of the log-ins of JNLP-connect and JNLP2-connect. A stock peer sends
// 32 to 64 digits, a name, and with JNLP2 a date and a cookie.
const (
	login1Limit = 1 << 10 // secret and name, each
	login2Limit = 8 << 10
)

// AppendLogin1 appends what follows the greeting of JNLP-connect.
func AppendLogin1(b []byte, secret, node string) []byte {
	return AppendString(AppendString(b, secret), node)
}

// ParseLogin1 reads what follows the greeting of JNLP-connect: secret and name.
func ParseLogin1(b []byte) (secret, node string, n int, err error) {
	secret, size, err := ParseString(b, login1Limit)
	if err != nil {
		return "", "", 0, err
	}
	name, n, err := parseBytes(b[size:], login1Limit)
	if err != nil {
		return "", "", 0, err
	}
	if node, err = modified(name); err != nil {
		return "", "", 0, err
	}
	return secret, node, size + n, nil
}

// AppendLogin2 appends what follows the greeting of JNLP2-connect; no cookie
// is an empty one.
func AppendLogin2(b []byte, node, secret, cookie string) []byte {
	var text strings.Builder
	appendProperty(&text, "Node-Name", node)
	appendProperty(&text, "Secret-Key", secret)
	if cookie != "" {
		appendProperty(&text, "Cookie", cookie)
	}
	return AppendString(b, text.String())
}

// ParseLogin2 reads what follows the greeting of JNLP2-connect: the text of a
// Java .properties file.
func ParseLogin2(b []byte) (node, secret, cookie string, n int, err error) {
	raw, n, err := parseBytes(b, login2Limit)
	if err != nil {
		return "", "", "", 0, err
	}
	text, err := modified(raw)
	if err != nil {
		return "", "", "", 0, err
	}
	properties, err := parseProperties(text)
	if err != nil {
		return "", "", "", 0, err
	}
	return properties["Node-Name"], properties["Secret-Key"], properties["Cookie"], n, nil
}

func appendProperty(text *strings.Builder, key, value string) {
	text.WriteString(key)
	text.WriteByte('=')
	for i, r := range value {
		switch {
		case r == ' ' && i == 0, strings.ContainsRune(`\=:#!`, r):
			text.WriteByte('\\')
			text.WriteRune(r)
		case r == '\t':
			text.WriteString(`\t`)
		case r == '\n':
			text.WriteString(`\n`)
		case r == '\r':
			text.WriteString(`\r`)
		case r == '\f':
			text.WriteString(`\f`)
		default:
			text.WriteRune(r)
		}
	}
	text.WriteByte('\n')
}

// parseProperties reads as java.util.Properties.load does: comments, blanks
// before and after keys, escapes, lines that go on behind a backslash.
func parseProperties(text string) (map[string]string, error) {
	properties := map[string]string{}
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n")
	for text != "" {
		line, rest, _ := strings.Cut(text, "\n")
		text = rest
		line = strings.TrimLeft(line, blanks)
		if line == "" || line[0] == '#' || line[0] == '!' {
			continue
		}
		for goesOn(line) {
			next, rest, _ := strings.Cut(text, "\n")
			line, text = line[:len(line)-1]+strings.TrimLeft(next, blanks), rest
		}
		key, value := cutProperty(line)
		k, err := unescapeProperty(key)
		if err != nil {
			return nil, err
		}
		if properties[k], err = unescapeProperty(value); err != nil {
			return nil, err
		}
	}
	return properties, nil
}

const blanks = " \t\f"

// goesOn reports whether a line ends in a backslash that escapes its end.
func goesOn(line string) bool {
	return (len(line)-len(strings.TrimRight(line, `\`)))%2 == 1
}

// cutProperty cuts at the first =, : or blank that no backslash escapes.
func cutProperty(line string) (key, value string) {
	for i := 0; i < len(line); i++ {
		switch {
		case line[i] == '\\':
			i++
		case strings.IndexByte("=: \t\f", line[i]) >= 0:
			key, value = line[:i], strings.TrimLeft(line[i:], blanks)
			if value != "" && (value[0] == '=' || value[0] == ':') {
				value = value[1:]
			}
			return key, strings.TrimLeft(value, blanks)
		}
	}
	return line, ""
}

func unescapeProperty(s string) (string, error) {
	if !strings.Contains(s, `\`) {
		return s, nil
	}
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			out = append(out, s[i])
			continue
		}
		i++
		if s[i] == 'u' {
			r, size, err := unicodeEscape(s[i+1:])
			if err != nil {
				return "", err
			}
			out = utf8.AppendRune(out, r)
			i += size
			continue
		}
		if at := strings.IndexByte("tnrf", s[i]); at >= 0 {
			out = append(out, "\t\n\r\f"[at])
			continue
		}
		out = append(out, s[i])
	}
	return string(out), nil
}

// unicodeEscape reads the four digits behind a \u, and a second escape if the
// first is half of a character.
func unicodeEscape(s string) (r rune, size int, err error) {
	first, err := fourDigits(s)
	if err != nil {
		return 0, 0, err
	}
	if !utf16.IsSurrogate(first) {
		return first, 4, nil
	}
	if rest, found := strings.CutPrefix(s[4:], `\u`); found {
		if second, err := fourDigits(rest); err == nil {
			if pair := utf16.DecodeRune(first, second); pair != utf8.RuneError {
				return pair, 10, nil
			}
		}
	}
	return utf8.RuneError, 4, nil
}

func fourDigits(s string) (rune, error) {
	if len(s) < 4 || strings.ContainsAny(s[:4], "+-_") {
		return 0, malformed("an escape without its digits")
	}
	v, err := strconv.ParseUint(s[:4], 16, 16)
	if err != nil {
		return 0, malformed("an escape without its digits")
	}
	return rune(v), nil
}
