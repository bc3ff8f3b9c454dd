// Package envelope is the layout of a session record in Kafka.
//
// Every record of an up or a down topic is one envelope: a header of fixed
// layout, a payload, and behind it an appendix that only gateways write. The
// layout is fixed so that a reader can tell "not mine" from a few bytes,
// without allocating: see [Session].
//
//	off  size  field
//	0    1     magic, 0x4d
//	1    1     version, 1
//	2    1     kind
//	3    1     flags, 0
//	4    4     attempt
//	8    16    session
//	24   16    incarnation: meta topic id
//	40   8     incarnation: offset
//	48   8     seq
//	56   8     stable
//	64   8     delivered
//	72   4     payload length
//	76   4     CRC-32C of the payload
//	80         payload, then the appendix up to the record's end
//
// Integers are big-endian. The package does no I/O and keeps no state.
package envelope

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
)

const (
	magic   = 0x4d
	version = 1

	// HeaderSize is the length of an envelope without payload and appendix, in bytes.
	HeaderSize = 80
)

// What Parse refuses. A reader counts such a record and goes on; it is never delivered.
var (
	ErrForeign  = errors.New("envelope: not a moorage record")
	ErrVersion  = errors.New("envelope: unknown version")
	ErrCorrupt  = errors.New("envelope: corrupt record")
	ErrTooLarge = errors.New("envelope: payload too large")
)

// MaxPayload bounds what Parse accepts, far above what anyone may send.
const MaxPayload = 1 << 20

// A SessionID is the 128 random bits that name a session.
type SessionID [16]byte

func (id SessionID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether the id is unset: a record that concerns no single session.
func (id SessionID) IsZero() bool { return id == SessionID{} }

// ParseSessionID reads the 32 hex digits that String writes.
func ParseSessionID(s string) (SessionID, error) {
	var id SessionID
	if len(s) != 2*len(id) {
		return id, fmt.Errorf("session id %q: want %d hex digits", s, 2*len(id))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return id, fmt.Errorf("session id %q: %v", s, err)
	}
	return id, nil
}

// A TopicID is Kafka's own id of a topic; a topic created again under the
// same name has another.
type TopicID [16]byte

func (id TopicID) String() string { return hex.EncodeToString(id[:]) }

// An Incarnation names one life of a controller-side process: the place of
// its first heartbeat in the controller's meta topic. The zero Incarnation
// means none.
type Incarnation struct {
	Topic  TopicID
	Offset int64
}

// IsZero reports whether no incarnation is named. Offset 0 is a valid place,
// a zero topic id is not.
func (i Incarnation) IsZero() bool { return i.Topic == TopicID{} }

func (i Incarnation) String() string {
	if i.IsZero() {
		return "none"
	}
	return fmt.Sprintf("%x-%d", i.Topic[:4], i.Offset)
}

// NewerThan reports whether i replaces j, when i is what the current meta
// topic says. Within one topic the offset decides; another topic id, being
// the current one, is newer.
func (i Incarnation) NewerThan(j Incarnation) bool {
	if i.Topic == j.Topic {
		return i.Offset > j.Offset
	}
	return !i.IsZero()
}

// A Position is a place in the down log: the next record to read.
type Position struct {
	Topic     TopicID
	Partition int32
	Offset    int64
}

// A Kind says what a record is. Kinds below 16 are frames: they carry a seq
// and equal the numbers of moorage.link.v1.FrameKind.
type Kind uint8

// Frames, in either direction.
const (
	Open   Kind = 1 // up, seq 1
	Accept Kind = 2 // down, seq 1
	Reject Kind = 3 // down, seq 1: the session ends with it
	Data   Kind = 4
	Fin    Kind = 5 // half-close: no Data follows
	Close  Kind = 6 // the last frame of its direction
)

// Records without a seq.
const (
	Attached  Kind = 16 // up: a stream of the session begins; payload: Gateway
	Detached  Kind = 17 // up: it ended; a hint, true only for the highest attempt
	Lease     Kind = 18 // up: what is attached to one gateway; payload: LeaseHead and entries; no session
	Delivered Kind = 19 // either way: delivered (and, down, the newest attempt) with nothing else to carry it
	Probe     Kind = 20 // either way: asks for Delivered
	Lost      Kind = 21 // up: a gateway found a gap in the down log for this attempt
	End       Kind = 22 // up: an operator ends the session; payload: text
	Ended     Kind = 23 // down: this incarnation says the session is over; payload: linkv1.Close
)

// IsFrame reports whether records of the kind carry a seq.
func (k Kind) IsFrame() bool { return k < 16 }

var kindNames = [...]string{
	Open: "OPEN", Accept: "ACCEPT", Reject: "REJECT", Data: "DATA", Fin: "FIN", Close: "CLOSE",
	Attached: "ATTACHED", Detached: "DETACHED", Lease: "LEASE", Delivered: "DELIVERED",
	Probe: "PROBE", Lost: "LOST", End: "END", Ended: "ENDED",
}

func (k Kind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return fmt.Sprintf("KIND(%d)", uint8(k))
}

// A Record is one envelope. Payload and Appendix alias what Parse was given.
type Record struct {
	Kind        Kind
	Attempt     uint32 // up: the stream's; down: the newest the controller side knows
	Session     SessionID
	Incarnation Incarnation
	Seq         uint64 // frames only
	Stable      uint64 // highest contiguous seq of this direction the producer knew persisted
	Delivered   uint64 // highest seq of the other direction delivered to this side's application
	Payload     []byte
	Appendix    []byte // what a gateway adds to OPEN: linkv1.Verified; outside the CRC
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Size returns the length of r's envelope in bytes.
func (r *Record) Size() int { return HeaderSize + len(r.Payload) + len(r.Appendix) }

// Append appends r's envelope to b and returns the extended slice.
func Append(b []byte, r *Record) []byte {
	b = append(b, magic, version, byte(r.Kind), 0)
	b = binary.BigEndian.AppendUint32(b, r.Attempt)
	b = append(b, r.Session[:]...)
	b = append(b, r.Incarnation.Topic[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Incarnation.Offset))
	b = binary.BigEndian.AppendUint64(b, r.Seq)
	b = binary.BigEndian.AppendUint64(b, r.Stable)
	b = binary.BigEndian.AppendUint64(b, r.Delivered)
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.Payload)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(r.Payload, castagnoli))
	b = append(b, r.Payload...)
	return append(b, r.Appendix...)
}

// Session returns the session that b concerns, without checking more than it
// must. It is the cheap "is this mine?"; ok is false for what Parse would
// refuse as foreign or of another version.
func Session(b []byte) (id SessionID, kind Kind, ok bool) {
	if len(b) < HeaderSize || b[0] != magic || b[1] != version {
		return id, 0, false
	}
	copy(id[:], b[8:24])
	return id, Kind(b[2]), true
}

// Attempt returns the attempt in b and the incarnation it counts for, as
// cheaply as Session: a newer stream must be noticed before what waits in
// front of the record is worked off. Both are zero for what Session refuses.
func Attempt(b []byte) (inc Incarnation, attempt uint32) {
	if len(b) < HeaderSize || b[0] != magic || b[1] != version {
		return inc, 0
	}
	copy(inc.Topic[:], b[24:40])
	inc.Offset = int64(binary.BigEndian.Uint64(b[40:]))
	return inc, binary.BigEndian.Uint32(b[4:])
}

// Parse reads one envelope. The result aliases b and is valid as long as b is.
// Errors: ErrForeign, ErrVersion, ErrCorrupt, ErrTooLarge.
func Parse(b []byte) (Record, error) {
	var r Record
	if len(b) < HeaderSize || b[0] != magic {
		return r, ErrForeign
	}
	if b[1] != version {
		return r, ErrVersion
	}
	r.Kind = Kind(b[2])
	r.Attempt = binary.BigEndian.Uint32(b[4:])
	copy(r.Session[:], b[8:24])
	copy(r.Incarnation.Topic[:], b[24:40])
	r.Incarnation.Offset = int64(binary.BigEndian.Uint64(b[40:]))
	r.Seq = binary.BigEndian.Uint64(b[48:])
	r.Stable = binary.BigEndian.Uint64(b[56:])
	r.Delivered = binary.BigEndian.Uint64(b[64:])
	n := binary.BigEndian.Uint32(b[72:])
	if n > MaxPayload {
		return Record{}, ErrTooLarge
	}
	rest := b[HeaderSize:]
	if uint64(n) > uint64(len(rest)) || b[3] != 0 {
		return Record{}, ErrCorrupt
	}
	r.Payload, r.Appendix = rest[:n:n], rest[n:]
	if crc32.Checksum(r.Payload, castagnoli) != binary.BigEndian.Uint32(b[76:]) {
		return Record{}, ErrCorrupt
	}
	if r.Kind.IsFrame() != (r.Seq != 0) || r.Kind == 0 {
		return Record{}, ErrCorrupt
	}
	return r, nil
}

// A Gateway names one life of a gateway process: the payload of ATTACHED and
// the head of LEASE.
type Gateway struct {
	Boot uint64 // random, of the process
	Name string
}

// AppendGateway appends g: 8 bytes of Boot, 1 byte length of Name, Name.
func AppendGateway(b []byte, g Gateway) []byte {
	name := g.Name[:min(len(g.Name), 255)]
	b = binary.BigEndian.AppendUint64(b, g.Boot)
	b = append(b, byte(len(name)))
	return append(b, name...)
}

// ParseGateway reads what AppendGateway wrote and returns what follows it.
func ParseGateway(b []byte) (g Gateway, rest []byte, err error) {
	if len(b) < 9 || len(b) < 9+int(b[8]) {
		return g, nil, ErrCorrupt
	}
	g.Boot = binary.BigEndian.Uint64(b)
	n := 9 + int(b[8])
	g.Name = string(b[9:n])
	return g, b[n:], nil
}

// A LeaseEntry says that one session is attached to the gateway that wrote the lease.
type LeaseEntry struct {
	Session     SessionID
	Incarnation Incarnation
	Attempt     uint32
	Stable      uint64
	Delivered   uint64
}

// LeaseEntrySize is the length of one entry in bytes.
const LeaseEntrySize = 16 + 24 + 4 + 8 + 8

// AppendLeaseEntry appends e in fixed layout, fields in the order of the type.
func AppendLeaseEntry(b []byte, e LeaseEntry) []byte {
	b = append(b, e.Session[:]...)
	b = append(b, e.Incarnation.Topic[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Incarnation.Offset))
	b = binary.BigEndian.AppendUint32(b, e.Attempt)
	b = binary.BigEndian.AppendUint64(b, e.Stable)
	return binary.BigEndian.AppendUint64(b, e.Delivered)
}

// ParseLease reads a LEASE payload: a Gateway, then entries.
func ParseLease(b []byte) (Gateway, []LeaseEntry, error) {
	g, rest, err := ParseGateway(b)
	if err != nil || len(rest)%LeaseEntrySize != 0 {
		return g, nil, ErrCorrupt
	}
	entries := make([]LeaseEntry, 0, len(rest)/LeaseEntrySize)
	for ; len(rest) > 0; rest = rest[LeaseEntrySize:] {
		var e LeaseEntry
		copy(e.Session[:], rest)
		copy(e.Incarnation.Topic[:], rest[16:])
		e.Incarnation.Offset = int64(binary.BigEndian.Uint64(rest[32:]))
		e.Attempt = binary.BigEndian.Uint32(rest[40:])
		e.Stable = binary.BigEndian.Uint64(rest[44:])
		e.Delivered = binary.BigEndian.Uint64(rest[52:])
		entries = append(entries, e)
	}
	return g, entries, nil
}

// Compare orders session ids, for deterministic iteration.
func (id SessionID) Compare(other SessionID) int { return bytes.Compare(id[:], other[:]) }
