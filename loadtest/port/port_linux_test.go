package port

import (
	"net"
	"net/netip"
	"testing"
)

func TestAHeldAddressIsItsHoldersAlone(t *testing.T) {
	address, release, err := Reserve("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	a := netip.MustParseAddrPort(address)
	if _, err := hold(a); err == nil {
		t.Error("held twice")
	}
	// The process for which it is held listens there, ends, and comes back.
	for range 2 {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := hold(a); err == nil {
			t.Error("held twice, while somebody listens")
		}
		s.Close() // first, so that its side waits in TIME_WAIT
		c.Close()
		l.Close()
		if _, err := hold(a); err == nil {
			t.Error("held twice, after somebody listened")
		}
	}
	release()
}

func TestAReleasedAddressIsFree(t *testing.T) {
	address, release, err := Reserve("::1")
	if err != nil {
		t.Fatal(err)
	}
	release()
	again, err := hold(netip.MustParseAddrPort(address))
	if err != nil {
		t.Fatalf("not free: %v", err)
	}
	again()
}

func TestNoAddressOfAnotherHost(t *testing.T) {
	if _, _, err := Reserve("192.0.2.1"); err == nil {
		t.Error("an address of another host is reserved")
	}
	if _, _, err := Reserve("localhost"); err == nil {
		t.Error("a name is taken for an address")
	}
}
