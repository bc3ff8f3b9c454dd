package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// setWorld gives a script what it needs of the world: addresses nobody listens
// on, $ADDR1 to $ADDR4; an echo service, $ECHO; and a certificate for
// 127.0.0.1, cert.pem and key.pem.
func setWorld(env *testscript.Env) error {
	for i := range 4 {
		l, err := listenLow()
		if err != nil {
			return err
		}
		defer l.Close() // after all are chosen, so that they differ
		env.Setenv(fmt.Sprintf("ADDR%d", i+1), l.Addr().String())
	}
	echo, err := startEcho(env.Defer)
	if err != nil {
		return err
	}
	env.Setenv("ECHO", echo)
	conns := map[string]*net.TCPConn{}
	env.Values[held] = conns
	env.Values[legacies] = new(legacy)
	env.Defer(func() {
		for _, c := range conns {
			_ = c.Close() // whatever the script left
		}
	})
	return writeCertificate(env.WorkDir)
}

// listenLow listens on a port below those that the system gives to outgoing
// connections: one of these would sit there while nobody listens, for once a
// script is to start somebody there.
func listenLow() (l net.Listener, err error) {
	for range 100 {
		l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+mrand.IntN(8_000)))
		if err == nil {
			return l, nil
		}
	}
	return nil, err
}

// startEcho starts a service that sends back what it gets, and closes then.
func startEcho(atEnd func(func())) (address string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				_, _ = io.Copy(c, c) // the far end sees what is missing
				_ = c.Close()
			})
		}
	})
	atEnd(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String(), nil
}

func writeCertificate(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
}

// scriptCommands are what scripts can do beside running binaries.
var scriptCommands = map[string]func(*testscript.TestScript, bool, []string){
	"await": await,
	"until": until,
	"talk":  talk,
	"cut":   cut,
	"say":   say,
	"reset": reset,

	"jenkins": jenkins,
	"agent":   agent,
	"build":   build,
}

// await returns when somebody listens at each address: a background command has started.
func await(ts *testscript.TestScript, _ bool, addresses []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for _, address := range addresses {
		for {
			c, err := net.Dial("tcp", address)
			if err == nil {
				ts.Check(c.Close())
				break
			}
			select {
			case <-again.C:
			case <-ctx.Done():
				ts.Fatalf("nobody came to listen: %v", err)
			}
		}
	}
}

// until REGEXP COMMAND… runs a command again and again until its output matches.
func until(ts *testscript.TestScript, _ bool, args []string) {
	want := regexp.MustCompile(`(?m)` + args[0])
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && want.MatchString(ts.ReadFile("stdout")) {
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			ts.Fatalf("never matched %q; the last error: %v; the last output:\n%s", args[0], err, ts.ReadFile("stdout"))
		}
	}
}

// talk ADDRESS TEXT says TEXT, half-closes, and wants it back.
func talk(ts *testscript.TestScript, _ bool, args []string) {
	c := connect(ts, args[0])
	defer c.Close()
	_, err := io.WriteString(c, args[1])
	ts.Check(err)
	ts.Check(c.CloseWrite())
	got, err := io.ReadAll(c)
	ts.Check(err)
	if string(got) != args[1] {
		ts.Fatalf("said %q, heard %q", args[1], got)
	}
}

// cut ADDRESS connects and wants the connection to be reset without a word. On
// a busy machine that can come before the connecting is over.
func cut(ts *testscript.TestScript, _ bool, args []string) {
	c, err := net.Dial("tcp", args[0])
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	ts.Check(err)
	defer c.Close()
	ts.Check(c.SetDeadline(time.Now().Add(30 * time.Second)))
	if got, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) || len(got) > 0 {
		ts.Fatalf("got %q, %v; want a reset", got, err)
	}
}

// held names the connections that say keeps open, by address.
const held = "held connections"

// say ADDRESS TEXT says TEXT on a connection that stays open, and wants it back.
func say(ts *testscript.TestScript, _ bool, args []string) {
	conns := ts.Value(held).(map[string]*net.TCPConn)
	if conns[args[0]] == nil {
		conns[args[0]] = connect(ts, args[0])
	}
	c := conns[args[0]]
	_, err := io.WriteString(c, args[1])
	ts.Check(err)
	got := make([]byte, len(args[1]))
	_, err = io.ReadFull(c, got)
	ts.Check(err)
	if string(got) != args[1] {
		ts.Fatalf("said %q, heard %q", args[1], got)
	}
}

// reset ADDRESS wants the connection that say opened to be reset.
func reset(ts *testscript.TestScript, _ bool, args []string) {
	conns := ts.Value(held).(map[string]*net.TCPConn)
	if _, err := conns[args[0]].Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		ts.Fatalf("got %v, want a reset", err)
	}
}

func connect(ts *testscript.TestScript, address string) *net.TCPConn {
	c, err := net.Dial("tcp", address)
	ts.Check(err)
	ts.Check(c.SetDeadline(time.Now().Add(30 * time.Second)))
	return c.(*net.TCPConn)
}
