package shim

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/moorage-dev/moorage/door"
	"github.com/moorage-dev/moorage/link"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// An agent's start is a look-up and a connection. Both go through a real door
// here, and over real sockets; a gateway is played.

func TestAgentFindsItsControllerWhileEveryGatewayIsAway(t *testing.T) {
	file, id := StateFile(t.TempDir(), "ci", "a1"), identity(t)
	known := &knowledge{&linkv1.Jenkins{Path: "/", AgentPort: 50000, InstanceIdentity: id, Protocols: []string{"JNLP4-connect"}, Reachable: true}, time.Now()}
	if err := (&store{file, "ci"}).write(known); err != nil {
		t.Fatal(err)
	}
	td := openDoor(t, "127.0.0.1:1", file) // nobody listens there
	answer, err := http.Get("http://" + td.address + "/tcpSlaveAgentListener/")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	_, port, err := net.SplitHostPort(td.address)
	if err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != http.StatusOK || answer.Header.Get("X-Instance-Identity") != id || answer.Header.Get("X-Jenkins-JNLP-Port") != port {
		t.Errorf("the look-up gives %s with identity %q and port %q", answer.Status, answer.Header.Get("X-Instance-Identity"), answer.Header.Get("X-Jenkins-JNLP-Port"))
	}
}

func TestAgentLearnsAtOnceThatItsSessionHasEnded(t *testing.T) {
	gateway := startGateway(t)
	gateway.knows(&linkv1.Jenkins{Path: "/", AgentPort: 50000, Protocols: []string{"JNLP4-connect"}, Reachable: true})
	td := openDoor(t, gateway.address, "")
	agent := td.connect(t)
	greeting := "Protocol:JNLP4-connect"
	hello := append(binary.BigEndian.AppendUint16(nil, uint16(len(greeting))), greeting...)
	if _, err := agent.Write(append(hello, 0, 3, 'A', 'C', 'K')); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "the door says ACK itself", agent, "\x00\x03ACK")
	if _, err := agent.Write([]byte("client hello")); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "the controller's answer", agent, "client hello")

	gateway.end(linkv1.Reason_REASON_CONTROLLER_GONE, "the connector is stopping")
	began := time.Now()
	if n, err := agent.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the agent reads %d bytes, %v; want its connection closed", n, err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("the agent learned it after %v", took)
	}
	td.waitLog(t, "reason=CONTROLLER_GONE")
	td.waitLog(t, "the connector is stopping")
}

// testDoor is a shim without a command.
type testDoor struct {
	address string
	log     lockedBuffer
}

func openDoor(t *testing.T, gateway, file string) *testDoor {
	t.Helper()
	td := new(testDoor)
	log := slog.New(slog.NewTextHandler(&td.log, nil))
	client, err := link.New(link.Config{Gateways: []string{gateway}, Controller: "ci", Agent: "a1", Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	l := NewLink(client, "ci", file, log)
	d, err := door.New(door.Config{Backend: l, Default: "ci", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	td.address = listener.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, Config{Door: d, DoorListener: listener, Link: l, Log: log}) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		l.Close()
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return td
}

// identity is one that an agent would take.
func identity(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

func (td *testDoor) connect(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", td.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // the test may have closed it
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func (td *testDoor) waitLog(t *testing.T, want string) {
	t.Helper()
	late := time.After(5 * time.Second)
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !strings.Contains(td.log.String(), want) {
		select {
		case <-again.C:
		case <-late:
			t.Fatalf("the log has no %q:\n%s", want, td.log.String())
		}
	}
}

func wantBytes(t *testing.T, why string, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("%s: got %q, %v; want %q", why, got, err, want)
	}
}

// startGateway is the fake gateway at a real socket.
func startGateway(t *testing.T) *fakeGateway {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &fakeGateway{address: lis.Addr().String(), ends: make(chan *linkv1.Close, 1)}
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	linkv1.RegisterLinkServiceServer(server, g)
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	t.Cleanup(func() {
		server.Stop()
		<-served // whatever it says, it was stopped
	})
	return g
}
