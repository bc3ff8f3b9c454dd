package gateway

import (
	"strings"
	"testing"
)

func TestNamesCanBeRead(t *testing.T) {
	for name, ok := range map[string]bool{
		"gw1": true, "Gateway 1 (Köln)": true, strings.Repeat("g", 255): true,
		"": false, "gw\x1b[2J": false, "gw1\n": false, "gw\xff": false, strings.Repeat("g", 256): false,
	} {
		err := ValidName(name)
		if (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
		if err != nil && (len(err.Error()) > 255 || strings.ContainsAny(err.Error(), "\x1b\n")) {
			t.Errorf("the error repeats what it refuses: %q", err)
		}
	}
}
