package door

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

func TestOnePortServesEverybody(t *testing.T) {
	for _, tt := range []struct {
		desc   string
		tls    bool
		client credentials.TransportCredentials
	}{
		{"in clear", false, insecure.NewCredentials()},
		{"TLS", true, credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			cert := certificate(t)
			cfg := Config{Tier0: true, TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}
			r := newRig(t, cfg)
			var opts []grpc.ServerOption
			if tt.tls {
				opts = append(opts, grpc.Creds(credentials.NewTLS(cfg.TLS)))
			}
			bare := make(chan bool, 1)
			srv := grpc.NewServer(opts...)
			healthv1.RegisterHealthServer(srv, health.NewServer())
			served := make(chan error, 1)
			go func() { served <- srv.Serve(spy{r.d.GRPC(), bare}) }()
			defer func() {
				srv.Stop()
				must(t, <-served)
			}()

			c, err := grpc.NewClient(r.addr, grpc.WithTransportCredentials(tt.client))
			must(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			_, err = healthv1.NewHealthClient(c).Check(ctx, new(healthv1.HealthCheckRequest))
			must(t, err)
			if !<-bare {
				t.Error("gRPC did not get the bare socket")
			}
			must(t, c.Close())
			r.wantCame(sortGRPC, 1)
			r.wantCount("connections", r.d.m.connections, 0)

			for _, url := range []string{"http://" + r.addr, "https://" + r.addr} {
				client := &http.Client{Transport: &http.Transport{
					TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
				}}
				resp, err := client.Get(url + "/login")
				must(t, err)
				_, _ = io.Copy(io.Discard, resp.Body) // the status says enough
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 1 {
					t.Errorf("%s: %s %s", url, resp.Proto, resp.Status)
				}
			}
			r.wantCame(sortHTTP, 1)
			r.wantCame(sortHTTPS, 1)

			r.jnlp4()
			r.accepted()
			r.wantCame(sortJNLP4, 1)
		})
	}
}

func TestGRPCBehindABalancer(t *testing.T) {
	r := newRig(t, Config{Tier0: true, ProxyProtocol: true})
	a := r.dial()
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	a.say(header(t, 2, "203.0.113.9:4711", "192.0.2.1:443") + preface)
	c, err := r.d.GRPC().Accept()
	must(t, err)
	defer c.Close()
	if got := c.RemoteAddr().String(); got != "203.0.113.9:4711" {
		t.Errorf("it comes from %s", got)
	}
	wantText(t, c, "the header is the door's alone", preface)
}

func TestFailedTLSHandshakeIsRefused(t *testing.T) {
	cert := certificate(t)
	r := newRig(t, Config{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}, ACK: 300 * time.Millisecond})
	a := r.dial()
	a.say(clientHello(t, "example.test")) // and then nothing
	_ = a.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, a); isTimeout(err) {
		t.Error("the connection stays open")
	}
	r.wantRefused(refusedTLS, 1)
}

// spy tells whether it hands out bare sockets.
type spy struct {
	net.Listener
	bare chan bool
}

func (s spy) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err == nil {
		_, ok := c.(*net.TCPConn)
		s.bare <- ok
	}
	return c, err
}

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "door"},
		NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
