package door

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestWhoHasVanished(t *testing.T) {
	for _, tt := range []struct {
		desc string
		info unix.TCPInfo
		want bool
	}{
		{"idle", unix.TCPInfo{Last_ack_recv: 60_000, Last_data_recv: 60_000}, false},
		{"bytes on their way", unix.TCPInfo{Unacked: 3, Last_ack_recv: 2000, Last_data_recv: 60_000}, false},
		{"bytes that nobody acknowledges", unix.TCPInfo{Unacked: 3, Last_ack_recv: 12_000, Last_data_recv: 60_000}, true},
		{"it does not read, but is there", unix.TCPInfo{Notsent_bytes: 1 << 20, Last_ack_recv: 2900, Last_data_recv: 60_000, Backoff: 15}, false},
		{"an old kernel asks it rarely", unix.TCPInfo{Notsent_bytes: 1 << 20, Last_ack_recv: 50_000, Last_data_recv: 60_000, Probes: 1}, false},
		{"it neither reads nor answers", unix.TCPInfo{Notsent_bytes: 1 << 20, Last_ack_recv: 12_000, Last_data_recv: 60_000, Probes: 3}, true},
	} {
		if got := unanswered(&tt.info); got != tt.want {
			t.Errorf("%s: %v", tt.desc, got)
		}
	}
}
