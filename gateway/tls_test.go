package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

func TestCertificateNamesTheAgent(t *testing.T) {
	story(t, func(r *rig) {
		ca := newAuthority(t)
		g := r.gateway(func(cfg *Config) {
			cfg.TLS = &tls.Config{
				Certificates: []tls.Certificate{ca.issue(t, "gw.example")}, MinVersion: tls.VersionTLS13,
				ClientCAs: ca.pool, ClientAuth: tls.VerifyClientCertIfGiven,
			}
		})
		defer g.shut()
		secure := func(cert ...tls.Certificate) *gate {
			conn, err := grpc.NewClient("passthrough:///"+g.lis.Addr().String(),
				grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: ca.pool, ServerName: "gw.example", Certificates: cert})),
				grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return r.net.DialContext(ctx, "tcp", addr) }))
			if err != nil {
				t.Fatal(err)
			}
			other := *g
			other.conn = conn
			return &other
		}
		mine, none := secure(ca.issue(t, "a1")), secure()
		defer mine.conn.Close()
		defer none.conn.Close()

		a := r.agent("a1")
		a.hello.Credential = ""
		a.attach(mine)
		open, _ := proto.Marshal(&linkv1.Open{Agent: "a1"})
		a.frame(envelope.Open, open)
		var v linkv1.Verified
		if err := proto.Unmarshal(a.want("OPEN", envelope.Open).Appendix, &v); err != nil || v.GetIdentity() != "a1" {
			t.Errorf("verified %v, %v", &v, err)
		}

		b := r.agent("a2")
		b.hello.Credential = ""
		b.dial(mine)
		b.wantEnd(codes.Unauthenticated)
		b.dial(none)
		b.wantEnd(codes.Unauthenticated)

		c := r.agent("a3") // a token does without a certificate
		c.attach(none)
	})
}

// An authority issues certificates for names.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, pool: x509.NewCertPool()}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.key}
}
