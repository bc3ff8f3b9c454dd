package bridge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/rcrowley/go-metrics"
	"github.com/xdg-go/scram"
)

// How long a broker may take. A broker that is frozen, not dead, is noticed
// by these alone, or earlier by a change of leaders: see Producer.tend and
// Reader.tend.
const (
	dialTimeout  = 3 * time.Second
	adminTimeout = 2 * time.Second  // metadata and offsets: small answers from memory
	fetchGrace   = 3 * time.Second  // beyond the long poll
	ackTimeout   = 10 * time.Second // the broker's wait for its replicas
	ackGrace     = 5 * time.Second  // beyond ackTimeout
)

// A conn is one connection to one broker. One goroutine uses it; any other
// may cut it.
type conn struct {
	*sarama.Broker
	raw net.Conn
}

// cut makes the request under way, if any, fail at once.
func (c *conn) cut() { c.raw.Close() }

// close cuts the connection and waits for sarama to let go of it.
func (c *conn) close() {
	c.raw.Close()
	c.Broker.Close() // errors only because the connection is closed
}

// quiet turns sarama's metrics off for the process: nobody reads them, they
// cost CPU per request, and their ticker goroutine never ends.
var quiet = sync.OnceFunc(func() { metrics.UseNilMetrics = true })

// dial connects to a broker and proves who we are. An answer to a request may
// take up to timeout.
//
// The connection is dialled here, not by sarama, so that cut works at any
// time and so that nobody waits on sarama's locks while a dial is under way.
func (c *Client) dial(ctx context.Context, addr string, timeout time.Duration) (*conn, error) {
	quiet()
	dialCtx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := c.cfg.Dial(dialCtx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	b := sarama.NewBroker(addr)
	if err := b.Open(c.saramaConfig(raw, timeout)); err != nil {
		raw.Close()
		return nil, err
	}
	// Connected waits for the SASL exchange, the only thing Open still does.
	if ok, err := b.Connected(); !ok {
		raw.Close()
		if distrusts(err) {
			return nil, err // long before a login
		}
		_, silent := errors.AsType[net.Error](err)
		silent = silent || errors.Is(err, io.EOF)
		return nil, &authError{user: c.cfg.SASL.User, mechanism: c.cfg.SASL.Mechanism, silent: silent, err: err}
	}
	return &conn{Broker: b, raw: raw}, nil
}

// distrusts reports whether err is about the broker's certificate.
func distrusts(err error) bool {
	_, ok := errors.AsType[*tls.CertificateVerificationError](err)
	return ok
}

// An authError says that a broker was reached but did not let us in.
type authError struct {
	user, mechanism string
	silent          bool // the connection ended without a word: perhaps not for the login
	err             error
}

func (e *authError) Error() string {
	what := "refused"
	if e.silent {
		what = "cut off"
	}
	return fmt.Sprintf("SASL %s login of user %q %s: %v", e.mechanism, e.user, what, e.err)
}

func (e *authError) Unwrap() error { return e.err }

// saramaConfig makes sarama speak over raw, without a request for the
// versions the broker supports: all the versions we use are known since Kafka
// 3.0 and still are in 4.4.
func (c *Client) saramaConfig(raw net.Conn, timeout time.Duration) *sarama.Config {
	conf := sarama.NewConfig()
	conf.ClientID = c.cfg.ClientID
	conf.Version = sarama.MaxVersion
	conf.ApiVersionsRequest = false
	conf.Net.MaxOpenRequests = 1
	conf.Net.ReadTimeout = timeout
	conf.Net.WriteTimeout = timeout
	conf.Net.Proxy.Enable = true
	conf.Net.Proxy.Dialer = dialled{raw}
	if c.cfg.TLS != nil {
		conf.Net.TLS.Enable = true
		conf.Net.TLS.Config = c.cfg.TLS.Clone()
	}
	if s := c.cfg.SASL; s.Mechanism != "" {
		conf.Net.SASL.Enable = true
		conf.Net.SASL.Mechanism = sarama.SASLMechanism(s.Mechanism)
		conf.Net.SASL.User = s.User
		conf.Net.SASL.Password = s.Password
		conf.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient {
			return &scramClient{hash: scramHashes[s.Mechanism]}
		}
	}
	return conf
}

// dialled is a dialer that has dialled already.
type dialled struct{ net.Conn }

func (d dialled) Dial(network, addr string) (net.Conn, error) { return d.Conn, nil }

var scramHashes = map[string]scram.HashGeneratorFcn{
	"SCRAM-SHA-256": scram.SHA256,
	"SCRAM-SHA-512": scram.SHA512,
}

// scramClient is the conversation sarama asks for.
type scramClient struct {
	hash scram.HashGeneratorFcn
	conv *scram.ClientConversation
}

func (s *scramClient) Begin(user, password, authzID string) error {
	client, err := s.hash.NewClient(user, password, authzID)
	if err != nil {
		return err
	}
	s.conv = client.NewConversation()
	return nil
}

func (s *scramClient) Step(challenge string) (string, error) { return s.conv.Step(challenge) }
func (s *scramClient) Done() bool                            { return s.conv.Done() }

// hint says how to mend what kept us from a broker.
func hint(err error) string {
	if auth, ok := errors.AsType[*authError](err); ok {
		if auth.silent {
			return "check mechanism, user and password, and that both sides agree on TLS"
		}
		return "check mechanism, user and password"
	}
	if distrusts(err) {
		return "check the authority's certificate (--kafka-ca), and that the broker's own names this address"
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return "check that the address is right, that no firewall drops packets, and that both sides agree on TLS"
	}
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return "check that the broker runs and that its address is right"
	}
	return "check that both sides agree on TLS and SASL"
}
