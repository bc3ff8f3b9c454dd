package bridge

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

func TestDialSaysWhatWhereAndHow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 1, nil)
		for _, tt := range []struct {
			desc string
			cfg  Config
			want []string
		}{
			{"no broker", Config{}, []string{"no Kafka broker", "host:port"}},
			{"no port", Config{Brokers: []string{"kafka"}}, []string{`"kafka"`, "host:port"}},
			{"mechanism", Config{Brokers: []string{"k:1"}, SASL: SASL{Mechanism: "GSSAPI", User: "u"}}, []string{`"GSSAPI"`, "SCRAM-SHA-512"}},
			{"no user", Config{Brokers: []string{"k:1"}, SASL: SASL{Mechanism: "PLAIN"}}, []string{"needs a user"}},
			{"nobody there", Config{Brokers: []string{"127.0.0.1:1"}, Dial: k.net.dial}, []string{"127.0.0.1:1", "refused", "check that the broker runs"}},
		} {
			begun := time.Now()
			_, err := Dial(t.Context(), tt.cfg)
			if err == nil {
				t.Errorf("%s: no error", tt.desc)
				continue
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%s: %q lacks %q", tt.desc, err, part)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: more than one line: %q", tt.desc, err)
			}
			if d := time.Since(begun); d > dialWithin {
				t.Errorf("%s: it took %v", tt.desc, d)
			}
		}
	})
}

func TestDeniedTopicsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 1, nil)
		for i := range 3 * mostDenied {
			if _, err := k.client.Topic(t.Context(), fmt.Sprintf("nobody-%d", i)); !errors.Is(err, ErrNoTopic) {
				t.Fatal(err)
			}
		}
		cl := k.client.cluster
		cl.mu.Lock()
		defer cl.mu.Unlock()
		if n := len(cl.topics); n > 2*mostDenied {
			t.Errorf("%d topics remembered, of which one exists", n)
		}
		if cl.topics[testTopic] == nil {
			t.Error("that one is forgotten")
		}
	})
}

func TestDialGivesUpOnAFrozenBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 1, nil)
		addr := k.leader(0)
		defer k.net.freeze(addr)()
		begun := time.Now()
		_, err := Dial(t.Context(), Config{Brokers: []string{addr}, Dial: k.net.dial})
		if err == nil || !strings.Contains(err.Error(), addr) {
			t.Errorf("error %v", err)
		}
		if d := time.Since(begun); d > dialWithin {
			t.Errorf("it took %v", d)
		}
	})
}

func TestDialFindsTheBrokerThatIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 3, 3, nil)
		addrs := k.cluster.ListenAddrs()
		defer k.net.freeze(addrs[1])()
		c, err := Dial(t.Context(), Config{Brokers: []string{"127.0.0.1:1", addrs[1], addrs[2]}, Dial: k.net.dial})
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if _, err := c.Topic(t.Context(), testTopic); !errors.Is(err, ErrClosed) {
			t.Errorf("a closed client: %v", err)
		}
		if _, err := c.NewProducer(); !errors.Is(err, ErrClosed) {
			t.Errorf("a closed client: %v", err)
		}
	})
}

// TestLogin runs over TCP: sarama holds a lock during the exchange, which a
// bubble cannot wait for.
func TestLogin(t *testing.T) {
	cert := selfSigned(t)
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1), kfake.EnableSASL(), kfake.SeedTopics(1, testTopic),
		kfake.Superuser("PLAIN", "plain", "secret"),
		kfake.Superuser("SCRAM-SHA-256", "s256", "secret"),
		kfake.Superuser("SCRAM-SHA-512", "s512", "secret"),
		kfake.TLS(&tls.Config{Certificates: []tls.Certificate{cert}}),
	)
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	ours := &tls.Config{RootCAs: roots}
	for _, tt := range []struct {
		desc string
		sasl SASL
		tls  *tls.Config
		want string
	}{
		{"plain", SASL{"PLAIN", "plain", "secret"}, ours, ""},
		{"SCRAM-SHA-256", SASL{"SCRAM-SHA-256", "s256", "secret"}, ours, ""},
		{"SCRAM-SHA-512", SASL{"SCRAM-SHA-512", "s512", "secret"}, ours, ""},
		{"wrong password", SASL{"SCRAM-SHA-512", "s512", "wrong"}, ours, `SASL SCRAM-SHA-512 login of user "s512"`},
		{"wrong plain password", SASL{"PLAIN", "plain", "wrong"}, ours, "check mechanism, user and password"},
		{"not trusted", SASL{"PLAIN", "plain", "secret"}, &tls.Config{}, "unknown authority (check the authority's certificate (--kafka-ca)"},
		{"no TLS", SASL{"PLAIN", "plain", "secret"}, nil, "agree on TLS"},
		{"no SASL", SASL{}, ours, "agree on TLS and SASL"},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			begun := time.Now()
			c, err := Dial(t.Context(), Config{Brokers: cluster.ListenAddrs(), TLS: tt.tls, SASL: tt.sasl})
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				p, err := c.NewProducer()
				if err != nil {
					t.Fatal(err)
				}
				if r := <-put(p.Queue(testTopic, 0), 1, 1, 10); r.err != nil {
					t.Error(r.err)
				}
				return
			}
			if err == nil {
				c.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q, want one line with %q", err, tt.want)
			}
			if strings.Contains(err.Error(), tt.sasl.Password) && tt.sasl.Password != "" {
				t.Errorf("the password stands in %q", err)
			}
			if d := time.Since(begun); d > dialWithin+time.Second {
				t.Errorf("it took %v", d)
			}
		})
	}
}

func selfSigned(t *testing.T) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func TestTopicAndBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 3, 4, nil)
		if k.topic.Partitions != 4 || k.topic.ID == (Topic{}).ID {
			t.Errorf("topic %+v", k.topic)
		}
		if _, err := k.client.Topic(t.Context(), "moorage.none.up"); !errors.Is(err, ErrNoTopic) {
			t.Errorf("a missing topic: %v", err)
		}
		if _, _, err := k.client.Bounds(t.Context(), testTopic, 4); !errors.Is(err, ErrNoTopic) {
			t.Errorf("a missing partition: %v", err)
		}
		k.fill(k.producer().Queue(testTopic, 2), 1, 1, 10)
		if err := k.client.DeleteRecords(t.Context(), testTopic, 2, 4); err != nil {
			t.Fatal(err)
		}
		if oldest, next, err := k.client.Bounds(t.Context(), testTopic, 2); oldest != 4 || next != 10 || err != nil {
			t.Errorf("bounds %d, %d, %v", oldest, next, err)
		}
	})
}

func TestNames(t *testing.T) {
	c := &Client{cfg: Config{Prefix: "moorage."}}
	want := Topics{"moorage.main.up", "moorage.main.down", "moorage.main.sessions", "moorage.main.meta"}
	if got := c.Topics("main"); got != want {
		t.Errorf("topics %+v, want %+v", got, want)
	}
	for name, ok := range map[string]bool{
		"main": true, "0": true, "a-b": true, strings.Repeat("a", 63): true,
		"": false, "-a": false, "A": false, "a.b": false, "a_b": false, "a b": false, strings.Repeat("a", 64): false, "a\n": false,
	} {
		if err := ValidController(name); (err == nil) != ok {
			t.Errorf("ValidController(%q): %v", name, err)
		}
	}
}
