package main

import (
	"context"
	"crypto/tls"
	"os"
	"strings"

	"github.com/moorage-dev/moorage/bridge"
)

// kafkaFlags say how to reach Kafka; every command that talks to it embeds them.
type kafkaFlags struct {
	Kafka       []address   `required:"" placeholder:"HOST:PORT" group:"kafka" help:"Brokers to begin with; any of the cluster will do."`
	TopicPrefix topicPrefix `default:"moorage." group:"kafka" help:"What the names of all topics begin with."`
	kafkaAccess
}

// kafkaAccess says how the brokers are spoken to, and as whom.
type kafkaAccess struct {
	KafkaTLS           bool   `group:"kafka" help:"Speak TLS to the brokers."`
	KafkaCA            string `placeholder:"FILE" group:"kafka" help:"Certificates (PEM) that the brokers' are checked against instead of the system's. Implies --kafka-tls."`
	KafkaCert          string `placeholder:"FILE" group:"kafka" help:"Own certificate (PEM) to show to the brokers. Implies --kafka-tls."`
	KafkaKey           string `placeholder:"FILE" group:"kafka" help:"Key (PEM) of --kafka-cert."`
	KafkaSASLMechanism string `name:"kafka-sasl-mechanism" enum:"none,PLAIN,SCRAM-SHA-256,SCRAM-SHA-512" default:"none" group:"kafka" help:"How to log in to Kafka (${enum})."`
	KafkaUser          string `placeholder:"NAME" group:"kafka" help:"Who to log in as."`
	KafkaPasswordFile  string `placeholder:"FILE" group:"kafka" help:"File with the password on its first line. Without it the environment variable MOORAGE_KAFKA_PASSWORD is used; there is no flag for the password itself, for the process list shows flags."`
}

// config puts together what the bridge needs. Errors are the caller's to mend.
func (f *kafkaFlags) config(p *process) (bridge.Config, error) {
	cfg := bridge.Config{
		Brokers:  texts(f.Kafka),
		ClientID: "moorage",
		Prefix:   string(f.TopicPrefix),
		Logger:   p.log,
	}
	var err error
	if cfg.TLS, err = f.tls(); err != nil {
		return cfg, err
	}
	cfg.SASL, err = f.sasl(cfg.TLS != nil)
	return cfg, err
}

func (f *kafkaAccess) tls() (*tls.Config, error) {
	if !f.KafkaTLS && f.KafkaCA == "" && f.KafkaCert == "" && f.KafkaKey == "" {
		return nil, nil
	}
	pool, err := loadPool("--kafka-ca", f.KafkaCA)
	if err != nil {
		return nil, err
	}
	pair, err := loadPair("--kafka-cert", f.KafkaCert, "--kafka-key", f.KafkaKey)
	return &tls.Config{RootCAs: pool, Certificates: pair, MinVersion: tls.VersionTLS12}, err
}

func (f *kafkaAccess) sasl(encrypted bool) (bridge.SASL, error) {
	if f.KafkaSASLMechanism == "none" {
		if f.KafkaUser != "" || f.KafkaPasswordFile != "" {
			return bridge.SASL{}, usagef("--kafka-user and --kafka-password-file need --kafka-sasl-mechanism, such as SCRAM-SHA-512")
		}
		return bridge.SASL{}, nil
	}
	if f.KafkaUser == "" {
		return bridge.SASL{}, usagef("--kafka-sasl-mechanism %s needs --kafka-user", f.KafkaSASLMechanism)
	}
	if f.KafkaSASLMechanism == "PLAIN" && !encrypted {
		return bridge.SASL{}, usagef("--kafka-sasl-mechanism PLAIN would send the password in clear; add --kafka-tls, or take SCRAM-SHA-512")
	}
	password, err := f.password()
	if err != nil {
		return bridge.SASL{}, err
	}
	if password == "" {
		return bridge.SASL{}, usagef("--kafka-sasl-mechanism %s needs a password; name its file with --kafka-password-file or set %s", f.KafkaSASLMechanism, passwordVariable)
	}
	return bridge.SASL{Mechanism: f.KafkaSASLMechanism, User: f.KafkaUser, Password: password}, nil
}

// given tells whether any of them is; a password in the environment alone is none.
func (f *kafkaAccess) given() bool {
	return *f != kafkaAccess{KafkaSASLMechanism: "none"}
}

// dial connects for as long as a command runs.
func (f *kafkaFlags) dial(ctx context.Context, p *process) (*bridge.Client, error) {
	cfg, err := f.config(p)
	if err != nil {
		return nil, err
	}
	return bridge.Dial(ctx, cfg)
}

// passwordVariable holds the Kafka password when no file does.
const passwordVariable = "MOORAGE_KAFKA_PASSWORD"

func (f *kafkaAccess) password() (string, error) {
	if f.KafkaPasswordFile == "" {
		return os.Getenv(passwordVariable), nil
	}
	return readSecret("--kafka-password-file", f.KafkaPasswordFile)
}

// readSecret returns the first line of a file. Errors name the file, never its content.
func readSecret(flag, name string) (string, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return "", usagef("%s: %w", flag, err)
	}
	line, _, _ := strings.Cut(string(data), "\n")
	line = strings.TrimRight(line, "\r")
	if line == "" {
		return "", usagef("%s: %s is empty; put the secret on its first line", flag, name)
	}
	return line, nil
}
