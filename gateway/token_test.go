package gateway

import "testing"

// The token that docs/protocol.md gives as an example.
func TestTokenOfTheProtocolsPage(t *testing.T) {
	const want = "zh9Se3aarXUe-oeuy_jKx5P1A34HvHe63DpsobXc_uw"
	if got := NewToken([]byte("0123456789abcdef"), "foobar"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
