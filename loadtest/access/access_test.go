package access_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/loadtest/access"
)

var secured = access.Kafka{TLS: true, Mechanism: "SCRAM-SHA-512", User: "load", Password: "hunter2"}

func TestPasswordIsNotPrinted(t *testing.T) {
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		for _, v := range []any{secured, &secured, secured.Password, []any{secured}, struct{ Access access.Kafka }{secured}} {
			if got := fmt.Sprintf(format, v); strings.Contains(got, "hunter2") {
				t.Errorf("%s of a %T: %s", format, v, got)
			}
		}
	}
	for _, text := range append(secured.Flags(), secured.Words()) {
		if strings.Contains(text, "hunter2") {
			t.Errorf("the password stands in %q", text)
		}
	}
}

func TestWorkerGetsThePassword(t *testing.T) {
	line, err := json.Marshal(secured)
	if err != nil {
		t.Fatal(err)
	}
	var got access.Kafka
	if err := json.Unmarshal(line, &got); err != nil || got != secured {
		t.Errorf("%#v, %v", got, err)
	}
	cfg, err := got.Bridge(bridge.Config{Prefix: "fleet."})
	if err != nil || cfg.TLS == nil || cfg.Prefix != "fleet." || cfg.SASL != (bridge.SASL{Mechanism: "SCRAM-SHA-512", User: "load", Password: "hunter2"}) {
		t.Errorf("bridge: %v, TLS %v", err, cfg.TLS)
	}
	if got := secured.Environment(); !slices.Equal(got, []string{"MOORAGE_KAFKA_PASSWORD=hunter2"}) {
		t.Errorf("environment: %d variables", len(got))
	}
}

func TestZeroIsPlaintext(t *testing.T) {
	var none access.Kafka
	cfg, err := none.Bridge(bridge.Config{})
	if err != nil || cfg.TLS != nil || cfg.SASL.Mechanism != "" || len(none.Flags())+len(none.Environment()) != 0 || none.Words() != "" {
		t.Errorf("%v, %v, %q, %v", cfg, err, none.Words(), none.Flags())
	}
	if line, err := json.Marshal(none); err != nil || string(line) != "{}" {
		t.Errorf("%s, %v", line, err)
	}
}

func TestFilesAreNamed(t *testing.T) {
	for _, c := range []struct {
		access access.Kafka
		want   string
	}{
		{access.Kafka{TLS: true, CA: "nowhere.pem"}, "--kafka-ca: open nowhere.pem"},
		{access.Kafka{TLS: true, CA: "access.go"}, "access.go holds no PEM certificate"},
		{access.Kafka{TLS: true, Cert: "nowhere.pem", Key: "nowhere.key"}, "--kafka-cert nowhere.pem"},
	} {
		if _, err := c.access.TLSConfig(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}
