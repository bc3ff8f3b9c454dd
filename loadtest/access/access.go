// Package access says how a load test gets into a Kafka that is not its own:
// over TLS or not, and as whom.
package access

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"

	"github.com/moorage-dev/moorage/bridge"
)

// A Kafka says how its brokers are spoken to. The zero value is plaintext
// without a login, as it is with brokers that the harness starts itself.
//
// It goes to a worker within its plan, over a pipe, with the password; to
// other processes as flags, with the password in their environment.
type Kafka struct {
	TLS  bool   `json:"tls,omitempty"`
	CA   string `json:"ca,omitempty"`   // file of certificates (PEM); "": the system's
	Cert string `json:"cert,omitempty"` // file of our own; "": none is shown
	Key  string `json:"key,omitempty"`  // file of its key

	Mechanism string `json:"mechanism,omitempty"` // PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; "": no login
	User      string `json:"user,omitempty"`
	Password  Secret `json:"password,omitempty"`
}

// A Secret is text that nothing prints. Only JSON has it as it is.
type Secret string

const hidden = "(hidden)"

// String hides it, and so from %v, %s and %q.
func (Secret) String() string { return hidden }

// GoString hides it from %#v.
func (Secret) GoString() string { return hidden }

// PasswordVariable is where processes of moorage look for the password.
const PasswordVariable = "MOORAGE_KAFKA_PASSWORD"

// Bridge is cfg with the way in.
func (k Kafka) Bridge(cfg bridge.Config) (bridge.Config, error) {
	var err error
	if cfg.TLS, err = k.TLSConfig(); err != nil {
		return cfg, err
	}
	cfg.SASL = bridge.SASL{Mechanism: k.Mechanism, User: k.User, Password: string(k.Password)}
	return cfg, nil
}

// Flags are those of "moorage gateway" and "moorage connector". The password
// is not among them, for the process list shows flags: Environment has it.
func (k Kafka) Flags() []string {
	var all []string
	if k.TLS {
		all = append(all, "--kafka-tls")
	}
	for _, f := range [][2]string{
		{"--kafka-ca", k.CA}, {"--kafka-cert", k.Cert}, {"--kafka-key", k.Key},
		{"--kafka-sasl-mechanism", k.Mechanism}, {"--kafka-user", k.User},
	} {
		if f[1] != "" {
			all = append(all, f[0], f[1])
		}
	}
	return all
}

// Environment is what processes with these flags need besides.
func (k Kafka) Environment() []string {
	if k.Mechanism == "" {
		return nil
	}
	return []string{PasswordVariable + "=" + string(k.Password)}
}

// Words say what it costs time for; "": nothing.
func (k Kafka) Words() string {
	var parts []string
	if k.TLS {
		parts = append(parts, "over TLS")
	}
	if k.Mechanism != "" {
		parts = append(parts, "with a login by "+k.Mechanism)
	}
	return strings.Join(parts, ", ")
}

// TLSConfig reads the files; nil: plaintext.
func (k Kafka) TLSConfig() (*tls.Config, error) {
	if !k.TLS {
		return nil, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if k.CA != "" {
		pem, err := os.ReadFile(k.CA)
		if err != nil {
			return nil, fmt.Errorf("access: --kafka-ca: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("access: --kafka-ca: %s holds no PEM certificate", k.CA)
		}
	}
	if k.Cert != "" {
		pair, err := tls.LoadX509KeyPair(k.Cert, k.Key)
		if err != nil {
			return nil, fmt.Errorf("access: --kafka-cert %s, --kafka-key %s: %w", k.Cert, k.Key, err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}
