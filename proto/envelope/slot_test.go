package envelope

import "testing"

func TestSlotMatchesJava(t *testing.T) {
	// Vectors from Kafka's Java client.
	for name, want := range map[string]int32{"foobar": 958, "21": 236} {
		if got := SlotOf(name, SessionID{}); got != want {
			t.Errorf("SlotOf(%q) = %d, want %d", name, got, want)
		}
	}
	id := SessionID{1, 2, 3}
	if got, want := SlotOf("", id), SlotOf(id.String(), SessionID{}); got != want {
		t.Errorf("unnamed session: slot %d, want that of its id in hex, %d", got, want)
	}
}
