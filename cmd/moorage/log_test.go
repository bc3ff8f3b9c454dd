package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/proto/envelope"
)

func TestLogIsReadable(t *testing.T) {
	var b bytes.Buffer
	log, err := logFlags{Level: "info", Format: "auto"}.logger(&b)
	if err != nil {
		t.Fatal(err)
	}
	log.Info("attached", "session", envelope.SessionID{0xab}, "after", 1500*time.Millisecond, "err", errors.New("broken"))
	log.Debug("not shown")
	for _, want := range []string{`"level":"INFO"`, `"session":"ab00`, `"after":"1.5s"`, `"err":"broken"`, `"time":"20`} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s in %s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "not shown") {
		t.Error("a level below the asked one was logged")
	}
}
