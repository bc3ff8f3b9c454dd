package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// adminTimeout bounds one request of an Admin.
const adminTimeout = 15 * time.Second

// An Admin changes what a running cluster, ours or another, holds. Its zero
// value has no brokers, and fails. Its methods may be called concurrently.
type Admin struct {
	Seeds []string    // host:port of brokers to begin with
	TLS   *tls.Config // nil: plaintext
	// Mechanism is how to log in: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, as
	// User with Password. "": not at all.
	Mechanism, User, Password string
}

// options are those of a client.
func (a Admin) options() ([]kgo.Opt, error) {
	opts := []kgo.Opt{kgo.SeedBrokers(a.Seeds...)}
	if a.TLS != nil {
		opts = append(opts, kgo.DialTLSConfig(a.TLS))
	}
	login := scram.Auth{User: a.User, Pass: a.Password}
	switch a.Mechanism {
	case "":
	case "PLAIN":
		opts = append(opts, kgo.SASL(plain.Auth{User: a.User, Pass: a.Password}.AsMechanism()))
	case "SCRAM-SHA-256":
		opts = append(opts, kgo.SASL(login.AsSha256Mechanism()))
	case "SCRAM-SHA-512":
		opts = append(opts, kgo.SASL(login.AsSha512Mechanism()))
	default:
		return nil, fmt.Errorf("SASL mechanism %q: want PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", a.Mechanism)
	}
	return opts, nil
}

// do has f talk to the cluster for a bounded time.
func (a Admin) do(ctx context.Context, what string, f func(ctx context.Context, c *kgo.Client) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, adminTimeout, fmt.Errorf("no answer within %v", adminTimeout))
	defer cancel()
	opts, err := a.options()
	if err != nil {
		return fmt.Errorf("broker: %s: %w", what, err)
	}
	c, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("broker: %s: %w", what, err)
	}
	defer c.Close()
	if err := f(ctx, c); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("%w (%w)", cause, err)
		}
		return fmt.Errorf("broker: %s: %w", what, err)
	}
	return nil
}

// DeleteTopics deletes those of the topics that exist.
func (a Admin) DeleteTopics(ctx context.Context, topics ...string) error {
	return a.do(ctx, "delete topics", func(ctx context.Context, c *kgo.Client) error {
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.TimeoutMillis = int32(adminTimeout.Milliseconds())
		req.TopicNames = topics
		for _, name := range topics {
			t := kmsg.NewDeleteTopicsRequestTopic()
			t.Topic = &name
			req.Topics = append(req.Topics, t)
		}
		resp, err := req.RequestWith(ctx, c)
		if err != nil {
			return err
		}
		var failed []error
		for _, t := range resp.Topics {
			if err := kerr.ErrorForCode(t.ErrorCode); err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
				failed = append(failed, fmt.Errorf("%s: %w", *t.Topic, err))
			}
		}
		return errors.Join(failed...)
	})
}

// AddPartitions raises topics to n partitions each.
func (a Admin) AddPartitions(ctx context.Context, n int32, topics ...string) error {
	return a.do(ctx, "add partitions", func(ctx context.Context, c *kgo.Client) error {
		req := kmsg.NewPtrCreatePartitionsRequest()
		req.TimeoutMillis = int32(adminTimeout.Milliseconds())
		for _, name := range topics {
			t := kmsg.NewCreatePartitionsRequestTopic()
			t.Topic, t.Count = name, n
			req.Topics = append(req.Topics, t)
		}
		resp, err := req.RequestWith(ctx, c)
		if err != nil {
			return err
		}
		for _, t := range resp.Topics {
			if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
				return fmt.Errorf("%s: %w", t.Topic, err)
			}
		}
		return nil
	})
}

// Quota bounds what each broker takes from and gives to each client that has
// no quota of its own, in bytes per second; 0 takes the bound away.
func (a Admin) Quota(ctx context.Context, rate float64) error {
	return a.do(ctx, "set quota", func(ctx context.Context, c *kgo.Client) error {
		req := kmsg.NewPtrAlterClientQuotasRequest()
		entry := kmsg.NewAlterClientQuotasRequestEntry()
		everybody := kmsg.NewAlterClientQuotasRequestEntryEntity()
		everybody.Type = "client-id" // and no name: the default
		entry.Entity = append(entry.Entity, everybody)
		for _, key := range []string{"producer_byte_rate", "consumer_byte_rate"} {
			op := kmsg.NewAlterClientQuotasRequestEntryOp()
			op.Key, op.Value, op.Remove = key, rate, rate == 0
			entry.Ops = append(entry.Ops, op)
		}
		req.Entries = append(req.Entries, entry)
		resp, err := req.RequestWith(ctx, c)
		if err != nil {
			return err
		}
		for _, e := range resp.Entries {
			if err := kerr.ErrorForCode(e.ErrorCode); err != nil {
				return err
			}
		}
		return nil
	})
}
