package site

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// secretsLife is longer than any run.
const secretsLife = 30 * 24 * time.Hour

// secret is the path of a file that is for this run alone.
func (s *site) secret(name string) string { return filepath.Join(s.cfg.Dir, "secrets", name) }

// makeSecrets makes an authority, a certificate for all gateways and the
// shared key of the agents' tokens.
func (s *site) makeSecrets() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("site: certificates: %w", err)
		}
	}()
	if err := os.MkdirAll(s.secret(""), 0o700); err != nil {
		return err
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "moorage loadtest " + s.cfg.Run},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(secretsLife),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "gateway"},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP(s.ownHost())}, DNSNames: []string{"localhost"},
	}
	if s.net != nil {
		leaf.IPAddresses = append(leaf.IPAddresses, s.net.all()...)
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return err
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	shared := make([]byte, 32)
	rand.Read(shared) // it never fails
	for name, content := range map[string][]byte{
		"ca.pem":      pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}),
		"gateway.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leafDER}),
		"gateway.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		"token-key":   []byte(base64.StdEncoding.EncodeToString(shared) + "\n"),
	} {
		if err := os.WriteFile(s.secret(name), content, 0o600); err != nil {
			return err
		}
	}
	s.caFile, s.tokenFile = s.secret("ca.pem"), s.secret("token-key")
	return nil
}

// token makes the file that proves an agent's name.
func (s *site) token(ctx context.Context, agent string) (file string, err error) {
	out, err := exec.CommandContext(ctx, s.cfg.Binary, "token", "--agent", agent, "--token-key-file", s.tokenFile).Output()
	if err != nil {
		return "", fmt.Errorf("site: token of %s: %w", agent, err)
	}
	if err := os.MkdirAll(s.secret(""), 0o700); err != nil {
		return "", fmt.Errorf("site: token of %s: %w", agent, err)
	}
	file = s.secret(agent + ".token")
	if err := os.WriteFile(file, out, 0o600); err != nil {
		return "", fmt.Errorf("site: token of %s: %w", agent, err)
	}
	return file, nil
}
