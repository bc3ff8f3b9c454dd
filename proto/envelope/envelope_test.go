package envelope

import (
	"bytes"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"strings"
	"testing"
)

var whole = Record{
	Kind:        Data,
	Attempt:     0x01020304,
	Session:     SessionID{0xa0, 0xa1, 15: 0xaf},
	Incarnation: Incarnation{Topic: TopicID{0xb0, 15: 0xbf}, Offset: 0x1112131415161718},
	Seq:         0x2122232425262728,
	Stable:      0x3132333435363738,
	Delivered:   0x4142434445464748,
	Payload:     []byte("payload"),
	Appendix:    []byte("appendix"),
}

// golden is whole as it stands in Kafka. It may never change: other versions read it.
const golden = `
	4d 01 04 00  01020304
	a0a100000000000000000000000000af
	b00000000000000000000000000000bf
	1112131415161718  2122232425262728  3132333435363738  4142434445464748
	00000007  f4e36970
	7061796c6f6164  617070656e646978`

func TestLayout(t *testing.T) {
	want, err := hex.DecodeString(strings.Join(strings.Fields(golden), ""))
	if err != nil {
		t.Fatal(err)
	}
	got := Append(nil, &whole)
	if !bytes.Equal(got, want) {
		t.Errorf("layout changed:\n got %x\nwant %x", got, want)
	}
	if len(got) != whole.Size() {
		t.Errorf("Size %d, length %d", whole.Size(), len(got))
	}
	back, err := Parse(want)
	if err != nil {
		t.Fatal(err)
	}
	same(t, back, whole)
	if id, kind, ok := Session(want); id != whole.Session || kind != Data || !ok {
		t.Errorf("Session: %v %v %v", id, kind, ok)
	}
}

func TestKindsAreThoseOfTheLink(t *testing.T) {
	for k := range Kind(24) {
		if got, frame := k.IsFrame(), k < 16; got != frame {
			t.Errorf("%v: IsFrame %v", k, got)
		}
	}
	if got := Kind(200).String(); got != "KIND(200)" {
		t.Error(got)
	}
}

func TestEveryTruncationIsRefused(t *testing.T) {
	b := Append(nil, &Record{Kind: Data, Seq: 1, Payload: []byte("payload")})
	for n := range len(b) {
		if _, err := Parse(b[:n]); err == nil {
			t.Errorf("accepted %d of %d bytes", n, len(b))
		}
	}
}

func TestWhatParseRefuses(t *testing.T) {
	for _, test := range []struct {
		desc  string
		spoil func([]byte) []byte
		want  error
	}{
		{"a foreign record", func(b []byte) []byte { b[0] = '{'; return b }, ErrForeign},
		{"a short one", func([]byte) []byte { return []byte("hello") }, ErrForeign},
		{"none", func([]byte) []byte { return nil }, ErrForeign},
		{"a later version", func(b []byte) []byte { b[1] = 2; return b }, ErrVersion},
		{"unknown flags", func(b []byte) []byte { b[3] = 1; return b }, ErrCorrupt},
		{"no kind", func(b []byte) []byte { b[2] = 0; return b }, ErrCorrupt},
		{"a frame without seq", func(b []byte) []byte { clear(b[48:56]); return b }, ErrCorrupt},
		{"a seq without frame", func(b []byte) []byte { b[2] = byte(Attached); return b }, ErrCorrupt},
		{"a payload longer than the record", func(b []byte) []byte { b[74] = 1; return b }, ErrCorrupt},
		{"a payload above the limit", func(b []byte) []byte { b[72] = 1; return b }, ErrTooLarge},
		{"a flipped bit in the payload", func(b []byte) []byte { b[HeaderSize] ^= 1; return b }, ErrCorrupt},
	} {
		if _, err := Parse(test.spoil(Append(nil, &whole))); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.desc, err, test.want)
		}
	}
}

func TestIncarnationsAreTotallyOrdered(t *testing.T) {
	a, b := TopicID{1}, TopicID{2}
	for _, test := range []struct {
		desc string
		i, j Incarnation
		want bool
	}{
		{"a later heartbeat", Incarnation{a, 7}, Incarnation{a, 3}, true},
		{"an earlier one", Incarnation{a, 3}, Incarnation{a, 7}, false},
		{"itself", Incarnation{a, 3}, Incarnation{a, 3}, false},
		{"of the topic that is there now", Incarnation{b, 0}, Incarnation{a, 900}, true},
		{"none", Incarnation{}, Incarnation{a, 3}, false},
		{"some after none", Incarnation{a, 0}, Incarnation{}, true},
	} {
		if got := test.i.NewerThan(test.j); got != test.want {
			t.Errorf("%s: %v newer than %v: %v", test.desc, test.i, test.j, got)
		}
	}
}

func TestSessionIDReadsWhatItWrites(t *testing.T) {
	id := whole.Session
	got, err := ParseSessionID(id.String())
	if err != nil || got != id {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "a0", strings.Repeat("x", 32), strings.Repeat("a", 33)} {
		if _, err := ParseSessionID(bad); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Append(nil, &whole))
	f.Add(Append(nil, &Record{Kind: Lease, Payload: AppendLeaseEntry(AppendGateway(nil, Gateway{1, "g"}), LeaseEntry{})}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil {
			return
		}
		if id, kind, ok := Session(b); !ok || id != r.Session || kind != r.Kind {
			t.Errorf("Session says %v %v %v, Parse %v %v", id, kind, ok, r.Session, r.Kind)
		}
		if again := Append(nil, &r); !bytes.Equal(again, b) {
			t.Errorf("read and written again: %x, was %x", again, b)
		}
	})
}

func FuzzLease(f *testing.F) {
	f.Add(AppendLeaseEntry(AppendGateway(nil, Gateway{7, "gw"}), LeaseEntry{Attempt: 3, Stable: 5}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		g, entries, err := ParseLease(b)
		if err != nil {
			return
		}
		again := AppendGateway(nil, g)
		for _, e := range entries {
			again = AppendLeaseEntry(again, e)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("read and written again: %x, was %x", again, b)
		}
	})
}

func BenchmarkNotMine(b *testing.B) {
	rec := Append(nil, &whole)
	mine := SessionID{1}
	b.ReportAllocs()
	for b.Loop() {
		if id, _, ok := Session(rec); ok && id == mine {
			b.Fatal("mine")
		}
	}
}

func BenchmarkParse(b *testing.B) {
	rec := Append(nil, &Record{Kind: Data, Seq: 1, Payload: make([]byte, 256)})
	b.SetBytes(int64(len(rec)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(rec); err != nil {
			b.Fatal(err)
		}
	}
}

func same(t *testing.T, got, want Record) {
	t.Helper()
	if got.Kind != want.Kind || got.Attempt != want.Attempt || got.Session != want.Session ||
		got.Incarnation != want.Incarnation || got.Seq != want.Seq || got.Stable != want.Stable ||
		got.Delivered != want.Delivered || !bytes.Equal(got.Payload, want.Payload) || !bytes.Equal(got.Appendix, want.Appendix) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestChecksumIsCastagnoli(t *testing.T) {
	// The check value of CRC-32C: its published value for "123456789".
	if got := crc32.Checksum([]byte("123456789"), castagnoli); got != 0xe3069283 {
		t.Errorf("%08x", got)
	}
}
