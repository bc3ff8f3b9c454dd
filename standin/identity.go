package standin

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"time"
)

// errIdentity is what an agent finds out in the TLS handshake; the other end
// sees it hang up.
var errIdentity = errors.New("standin: the public key of the first certificate is not the identity that was told")

// An identity is a controller's RSA key with the certificate it shows.
type identity struct {
	text        string // base64 of the public key's SubjectPublicKeyInfo
	certificate tls.Certificate
}

// newIdentity makes what stock controllers show: self-signed, for a year.
func newIdentity(key *rsa.PrivateKey) (identity, error) {
	var err error
	if key == nil {
		if key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			return identity{}, err
		}
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return identity{}, err
	}
	digest := sha256.Sum256(spki)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: fmt.Sprintf("%x", digest[:16])},
		NotBefore:    time.Now().Add(-24 * time.Hour),
		NotAfter:     time.Now().Add(366 * 24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return identity{}, err
	}
	return identity{
		text:        base64.StdEncoding.EncodeToString(spki),
		certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
	}, nil
}

// serverTLS is a controller's TLS: no request for a client's certificate, no
// session tickets, and a record per chunk.
func (id identity) serverTLS() *tls.Config {
	return &tls.Config{
		Certificates:                []tls.Certificate{id.certificate},
		MinVersion:                  tls.VersionTLS12,
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
	}
}

// clientTLS is an agent's TLS: all that counts is the public key. The host is
// named only where Java names it, when it has a dot and is no address.
func clientTLS(spki []byte, host string, maxVersion uint16) *tls.Config {
	config := &tls.Config{
		InsecureSkipVerify:          true, // the public key is compared instead
		MinVersion:                  tls.VersionTLS12,
		MaxVersion:                  maxVersion,
		DynamicRecordSizingDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if !bytes.Equal(s.PeerCertificates[0].RawSubjectPublicKeyInfo, spki) {
				return errIdentity
			}
			return nil
		},
	}
	if strings.Contains(host, ".") && net.ParseIP(host) == nil {
		config.ServerName = host
	}
	return config
}
