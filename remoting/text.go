package remoting

import (
	"encoding/binary"
	"math"
	"unicode/utf16"
	"unicode/utf8"
)

// AppendString appends s behind its length in two bytes, the form of nearly
// everything that is said before the chunks. It panics if s does not fit in
// 65,535 bytes: whatever came through a parser of this package does.
func AppendString(b []byte, s string) []byte {
	if len(s) > math.MaxUint16 {
		panic("remoting: a string of more than 65535 bytes")
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// ParseString reads a string of at most limit bytes. Its bytes are not looked
// at: they need not be UTF-8.
func ParseString(b []byte, limit int) (s string, n int, err error) {
	text, n, err := parseBytes(b, limit)
	return string(text), n, err
}

// parseBytes is ParseString without a copy.
func parseBytes(b []byte, limit int) (text []byte, n int, err error) {
	if len(b) < 2 {
		return nil, 0, ErrShort
	}
	size := int(binary.BigEndian.Uint16(b))
	switch {
	case size > limit:
		return nil, 0, malformed("a string of %d bytes where %d are allowed", size, limit)
	case len(b) < 2+size:
		return nil, 0, ErrShort
	}
	return b[2 : 2+size], 2 + size, nil
}

// modified decodes what Java's writeUTF made of a string: UTF-8, but with
// characters beyond U+FFFF as two surrogates of three bytes each, and NUL as
// two bytes. Plain UTF-8 is understood too, for peers that are not Java.
func modified(b []byte) (string, error) {
	if utf8.Valid(b) {
		return string(b), nil
	}
	var out []byte
	for len(b) > 0 {
		r, size := utf8.DecodeRune(b)
		switch {
		case r != utf8.RuneError || size > 1:
		case len(b) >= 2 && b[0] == 0xc0 && b[1] == 0x80:
			r, size = 0, 2
		case len(b) >= 6 && surrogate(b) != 0 && surrogate(b[3:]) != 0:
			r, size = utf16.DecodeRune(surrogate(b), surrogate(b[3:])), 6
			if r == utf8.RuneError {
				return "", malformed("two surrogates that are no pair")
			}
		default:
			return "", malformed("text that is not UTF-8")
		}
		out, b = utf8.AppendRune(out, r), b[size:]
	}
	return string(out), nil
}

// surrogate is the half of a character in the three bytes at the front of b, or
// zero.
func surrogate(b []byte) rune {
	if b[0] != 0xed || b[1]&0xe0 != 0xa0 || b[2]&0xc0 != 0x80 {
		return 0
	}
	return rune(b[0]&0xf)<<12 | rune(b[1]&0x3f)<<6 | rune(b[2]&0x3f)
}

// FromLatin1 turns the value of a WebSocket agent's Node-Name header into
// UTF-8: there alone agents send it in ISO-8859-1.
func FromLatin1(s string) string {
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		out = utf8.AppendRune(out, rune(s[i]))
	}
	return string(out)
}

// ToLatin1 is what Java puts into a header: characters that ISO-8859-1 lacks
// become question marks.
func ToLatin1(s string) string {
	out := make([]byte, 0, len(s))
	for _, r := range s {
		if r > 0xff {
			r = '?'
		}
		out = append(out, byte(r))
	}
	return string(out)
}
