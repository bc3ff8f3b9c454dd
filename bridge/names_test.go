package bridge

import (
	"strings"
	"testing"
)

// TestPrefixNamesTopics holds that a prefix is refused before Kafka refuses the
// topics that begin with it.
func TestPrefixNamesTopics(t *testing.T) {
	longest := strings.Repeat("p", mostPrefix)
	if n := len(longest + strings.Repeat("c", 63) + ".sessions"); n != 249 {
		t.Errorf("the longest topic name has %d bytes, want Kafka's 249", n)
	}
	for prefix, ok := range map[string]bool{
		"moorage.": true, "A_b-9.": true, longest: true,
		"": false, "bad prefix!": false, "a/b.": false, "ä.": false, "a\n": false, longest + "p": false,
	} {
		if err := ValidPrefix(prefix); (err == nil) != ok {
			t.Errorf("%q: %v", prefix, err)
		}
	}
	if _, err := (Config{Brokers: []string{"k1:9092"}, Prefix: "bad prefix!"}).resolve(); err == nil {
		t.Error("a client starts with a prefix that no topic can have")
	}
}
