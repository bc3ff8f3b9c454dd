package baseline

import (
	"context"
	"encoding/pem"
	"errors"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/moorage-dev/moorage/broker"
	"github.com/moorage-dev/moorage/loadtest/baseline/transporttest"
	"github.com/moorage-dev/moorage/loadtest/worker"
)

func plan(name string) func(*testing.T) *worker.Plan {
	return func(*testing.T) *worker.Plan {
		return &worker.Plan{Transport: name, Run: "test", Sources: []string{"127.0.0.2", "127.0.0.3"}}
	}
}

func TestTCP(t *testing.T) { transporttest.Run(t, tcpTransport{}, plan(TCP)) }

func TestGRPC(t *testing.T) { transporttest.Run(t, grpcTransport{}, plan(GRPC)) }

func TestRelay(t *testing.T) {
	transporttest.Run(t, relayTransport{}, func(t *testing.T) *worker.Plan { return startRelay(t, 2) })
}

// What P5 compares over TLS is over TLS on both sides, and checked.
func TestRelayOverTLS(t *testing.T) {
	authority := httptest.NewUnstartedServer(nil) // whose certificate is for 127.0.0.1
	authority.StartTLS()
	defer authority.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Certificate().Raw})
	if err := os.WriteFile(ca, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	p := startRelay(t, 1, grpc.Creds(credentials.NewServerTLSFromCert(&authority.TLS.Certificates[0])))
	app, err := relayTransport{}.Application(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close()
	for _, c := range []struct {
		desc, ca string
		in       bool
	}{{"who checks the gateway", ca, true}, {"who speaks in clear", "", false}} {
		p.CAFile, p.Limit = c.ca, 20*time.Second
		if !c.in {
			p.Limit = 300 * time.Millisecond
		}
		agents, err := relayTransport{}.Agents(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		_, err = agents.Open(t.Context(), "agents/1/0", "native")
		if (err == nil) != c.in {
			t.Errorf("%s: %v", c.desc, err)
		}
		if err := agents.Close(); err != nil {
			t.Error(err)
		}
	}
}

// startRelay starts an embedded broker and gateways, and returns a plan for them.
func startRelay(t testing.TB, gateways int, more ...grpc.ServerOption) *worker.Plan {
	t.Helper()
	embedded, err := broker.StartEmbedded(broker.EmbeddedConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(embedded.Close)
	p := &worker.Plan{Transport: Relay, Run: "test", Kafka: embedded.Addrs(), Prefix: "relay."}
	p.Scenario.Local.Partitions = 4
	for range gateways {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p.Gateways = append(p.Gateways, lis.Addr().String())
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			done <- RunGateway(ctx, GatewayConfig{Topics: Topics{Brokers: p.Kafka, Prefix: TopicPrefix(p)}, Listen: lis, Options: append(serverOptions(), more...)})
		}()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	return p
}

func TestPlansThatWouldMislead(t *testing.T) {
	for _, tt := range []struct {
		desc string
		plan worker.Plan
		want string
	}{
		{"nowhere to dial", worker.Plan{Transport: TCP}, "no address"},
		{"TLS, which only moorage would pay for", worker.Plan{Transport: TCP, App: "127.0.0.1:1", CAFile: "ca.pem"}, "plaintext"},
	} {
		if _, err := (tcpTransport{}).Agents(t.Context(), &tt.plan); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want an error with %q", tt.desc, err, tt.want)
		}
	}
}

func TestEverySystemSaysWhatItsAcknowledgementMeans(t *testing.T) {
	for _, system := range []string{"moorage", Relay, GRPC, TCP, NATS} {
		if Acks(system) == "" {
			t.Errorf("%s says nothing", system)
		}
	}
}
