package remoting

import (
	"encoding/base64"
	"encoding/binary"
	"strings"
)

// StockCapability is the mask of every agent and controller since 2018.
const StockCapability = 0x1fe

// capabilityFront is the Java serialization of a hudson.remoting.Capability up
// to its mask.
const capabilityFront = "\xac\xed\x00\x05sr\x00\x1ahudson.remoting.Capability\x00\x00\x00\x00\x00\x00\x00\x01\x02\x00\x01J\x00\x04maskxp"

const capabilityLimit = 4 << 10

// CapabilityText is a capability as it stands in a WebSocket's
// X-Remoting-Capability header.
func CapabilityText(mask uint64) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64([]byte(capabilityFront), mask))
}

// ParseCapabilityText reads a capability as it stands in a header. Only the one
// form that Java gives it is known: nothing is ever deserialized.
func ParseCapabilityText(text string) (mask uint64, err error) {
	if len(text) > capabilityLimit {
		return 0, malformed("a capability of %d characters", len(text))
	}
	raw, err := strictBase64(text)
	if err != nil {
		return 0, err
	}
	digits, found := strings.CutPrefix(string(raw), capabilityFront)
	if !found || len(digits) != 8 {
		return 0, malformed("no capability")
	}
	return binary.BigEndian.Uint64([]byte(digits)), nil
}

// AppendCapability appends a capability as JNLP4-connect sends it.
func AppendCapability(b []byte, mask uint64) []byte {
	return AppendString(b, CapabilityText(mask))
}

// ParseCapability reads a capability of JNLP4-connect, of at most 4 KiB.
func ParseCapability(b []byte) (mask uint64, n int, err error) {
	text, n, err := ParseString(b, capabilityLimit)
	if err != nil {
		return 0, 0, err
	}
	if mask, err = ParseCapabilityText(text); err != nil {
		return 0, 0, err
	}
	return mask, n, nil
}

// strictBase64 decodes as Java's decoder does. Go's passes over line breaks,
// which end a stock agent's process when they stand in an identity.
func strictBase64(text string) ([]byte, error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, malformed("text that is not base64")
	}
	return raw, nil
}
