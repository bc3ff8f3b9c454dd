//go:build unix

package broker

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// superUser is whom ACLs don't bind, and as whom the nodes know each other.
const superUser = "admin"

// secrets are what a secure cluster and its clients know.
type secrets struct {
	users   map[string]string // name to password, the super user among them
	pool    *x509.CertPool
	caFile  string // PEM
	keyFile string // PEM: the server's key and certificate
}

// newSecrets makes a certificate authority and a server certificate, both good
// for the life of a test.
func newSecrets(dir string, users map[string]string) (*secrets, error) {
	s := &secrets{
		users:   map[string]string{superUser: "admin-secret"},
		pool:    x509.NewCertPool(),
		caFile:  filepath.Join(dir, "ca.pem"),
		keyFile: filepath.Join(dir, "server.pem"),
	}
	maps.Copy(s.users, users)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	if err := s.writeCertificates(); err != nil {
		return nil, fmt.Errorf("broker: certificates: %w", err)
	}
	return s, nil
}

func (s *secrets) writeCertificates() error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	validFrom := time.Now().Add(-time.Hour)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "moorage test authority"},
		NotBefore: validFrom, NotAfter: validFrom.AddDate(0, 0, 7),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return err
	}
	if ca, err = x509.ParseCertificate(caDER); err != nil {
		return err
	}
	s.pool.AddCert(ca)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "127.0.0.1"},
		NotBefore: validFrom, NotAfter: validFrom.AddDate(0, 0, 7),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key) // the one form that Kafka reads
	if err != nil {
		return err
	}
	caPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	server := slices.Concat(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leafDER}), caPEM)
	if err := os.WriteFile(s.caFile, caPEM, 0o600); err != nil {
		return err
	}
	return os.WriteFile(s.keyFile, server, 0o600)
}

// serverProperties turn a plain node into a secure one.
func (s *secrets) serverProperties(n *node) map[string]string {
	login := func(module string) string {
		return "org.apache.kafka.common.security." + module + " required username=\"" + superUser +
			"\" password=\"" + s.users[superUser] + "\""
	}
	return map[string]string{
		"listeners":                                             "SASL_SSL://" + n.client + ",CONTROLLER://" + n.controller,
		"advertised.listeners":                                  "SASL_SSL://" + n.client,
		"listener.security.protocol.map":                        "SASL_SSL:SASL_SSL,CONTROLLER:SASL_PLAINTEXT",
		"inter.broker.listener.name":                            "SASL_SSL",
		"sasl.enabled.mechanisms":                               "SCRAM-SHA-512",
		"sasl.mechanism.inter.broker.protocol":                  "SCRAM-SHA-512",
		"sasl.mechanism.controller.protocol":                    "PLAIN",
		"listener.name.controller.sasl.enabled.mechanisms":      "PLAIN",
		"listener.name.controller.plain.sasl.jaas.config":       login("plain.PlainLoginModule") + " user_" + superUser + "=\"" + s.users[superUser] + "\";",
		"listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": login("scram.ScramLoginModule") + ";",
		"ssl.keystore.type":                                     "PEM",
		"ssl.keystore.location":                                 s.keyFile,
		"ssl.truststore.type":                                   "PEM",
		"ssl.truststore.location":                               s.caFile,
		"ssl.client.auth":                                       "none",
		"authorizer.class.name":                                 "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
		"super.users":                                           "User:" + superUser,
		"allow.everyone.if.no.acl.found":                        "false",
	}
}

// formatArgs give the storage tool the users, who must exist from the start.
func (s *secrets) formatArgs() []string {
	var args []string
	for _, name := range slices.Sorted(maps.Keys(s.users)) {
		args = append(args, "--add-scram", fmt.Sprintf("SCRAM-SHA-512=[name=%s,password=%s]", name, s.users[name]))
	}
	return args
}

// CAs verify a secure cluster's certificates. nil if it isn't secure.
func (a *Apache) CAs() *x509.CertPool {
	if a.secrets == nil {
		return nil
	}
	return a.secrets.pool
}

// CAFile is the PEM file of the same, for programs that take a file.
func (a *Apache) CAFile() string {
	if a.secrets == nil {
		return ""
	}
	return a.secrets.caFile
}

// Password is a user's in a secure cluster.
func (a *Apache) Password(user string) string {
	if a.secrets == nil {
		return ""
	}
	return a.secrets.users[user]
}

// ClientOpts let a franz-go client in as user; in a cluster that isn't secure
// the user doesn't matter.
func (a *Apache) ClientOpts(user string) []kgo.Opt {
	opts := []kgo.Opt{kgo.SeedBrokers(a.Addrs()...), kgo.ProducerLinger(0)}
	if a.secrets == nil {
		return opts
	}
	return append(opts,
		kgo.DialTLSConfig(&tls.Config{RootCAs: a.secrets.pool, MinVersion: tls.VersionTLS13}),
		kgo.SASL(scram.Auth{User: user, Pass: a.secrets.users[user]}.AsSha512Mechanism()))
}
