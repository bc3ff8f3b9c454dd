package remoting

import (
	"crypto/rsa"
	"crypto/x509"
	"strings"
)

// Where an agent asks, behind the URL of its controller.
const (
	PathDiscovery = "tcpSlaveAgentListener/"
	PathReady     = "login"
	PathWebSocket = "wsagents/"
)

// Headers of the answer to an agent's look-up.
const (
	HeaderPort           = "X-Jenkins-JNLP-Port"
	HeaderHudsonPort     = "X-Hudson-JNLP-Port" // all that agents of Hudson's age know
	HeaderHost           = "X-Jenkins-JNLP-Host"
	HeaderIdentity       = "X-Instance-Identity"
	HeaderProtocols      = "X-Jenkins-Agent-Protocols"
	HeaderMinimumVersion = "X-Remoting-Minimum-Version"
)

// Headers of a WebSocket agent's request and of its answer.
const (
	HeaderNodeName   = "Node-Name" // in ISO-8859-1: see FromLatin1
	HeaderSecret     = "Secret-Key"
	HeaderCapability = "X-Remoting-Capability"
	HeaderCookie     = "Connection-Cookie"
)

// ParseIdentity reads an instance identity, base64 of an RSA public key's
// SubjectPublicKeyInfo, as strictly as an agent does: one character too many,
// be it a line break, ends a stock agent's process.
func ParseIdentity(text string) (spki []byte, err error) {
	spki, err = strictBase64(text)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, malformed("an identity that is no public key")
	}
	if _, isRSA := key.(*rsa.PublicKey); !isRSA {
		return nil, malformed("an identity that is no RSA key")
	}
	return spki, nil
}

// ParseProtocols reads the names in an X-Jenkins-Agent-Protocols header.
func ParseProtocols(header string) []string {
	var names []string
	for name := range strings.SplitSeq(header, ",") {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}
