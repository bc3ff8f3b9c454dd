package check

import (
	"slices"
	"time"
)

const (
	// rests is how long a session's page stays in its Book after an end in order:
	// what arrives then is found to be revived. Whatever comes later has a page
	// of its own, and no other side.
	rests = 10 * time.Second
	// mostHanded bounds what HandOver returns.
	mostHanded = 4096
)

// A resting session ended in order at a time, in Unix nanoseconds.
type resting struct {
	*Leaf
	at int64
}

// ended notes a session that ended in order. l.mu is held.
func (b *Book) ended(l *Leaf, at int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = append(b.over, resting{l, at})
}

// HandOver gives the Entries of sessions away that ended in order a while ago
// and miss nothing, so that a Book does not grow with all sessions there ever
// were: it knows them no more, and they are missing in its Account. A [Ledger]
// takes them. What they counted, their silences and recoveries stay. At most
// 4,096 are returned; nil: there are none.
func (b *Book) HandOver() map[string]*Entry {
	before := b.cfg.Now().Add(-rests).UnixNano()
	b.mu.Lock()
	n := 0
	for n < min(len(b.over), mostHanded) && b.over[n].at <= before {
		n++
	}
	rested := slices.Clone(b.over[:n])
	if b.over = b.over[n:]; len(b.over) == 0 {
		b.over = nil
	}
	b.mu.Unlock()
	if n == 0 {
		return nil
	}
	entries := make(map[string]*Entry, n)
	for _, l := range rested {
		l.recovered(-1)
		if e := l.hand(); e != nil {
			entries[l.Key] = e
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.quiet == nil {
		b.quiet = newHistogram()
	}
	for key, e := range entries {
		delete(b.leaves, key)
		if e.Received > 0 {
			record(b.quiet, e.Silence)
		}
	}
	// To copy the rest only when half of it is stale costs each session O(1).
	if b.handed += len(entries); 2*b.handed > len(b.opened) {
		rest := make([]*Leaf, 0, len(b.leaves))
		for _, l := range b.opened {
			if b.leaves[l.Key] == l {
				rest = append(rest, l)
			}
		}
		b.opened, b.handed = rest, 0
	}
	return entries
}

// hand returns the session's Entry and marks it as given away; nil: something
// is not in order, and it stays.
func (l *Leaf) hand() *Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone || l.bad != nil || l.handed {
		return nil
	}
	l.handed = true
	return l.page()
}

// A Ledger lays the Entries that Books hand over side by side while a run goes
// on, and keeps only what does not fit together.
//
// It holds a session from when one side hands it over until the other does:
// as many as end within some seconds, and those of which the two sides will
// never agree, for Settle. It is not safe for concurrent use. Its zero value is
// empty.
type Ledger struct {
	Sessions int // that ended in order, and of which both sides got all that the other sent

	waiting, twice [2]map[string]*Entry
}

// Add takes what a Book of one side handed over.
func (l *Ledger) Add(side Side, entries map[string]*Entry) {
	for key, e := range entries {
		far := l.waiting[side.other()]
		switch f := far[key]; {
		case l.waiting[side][key] != nil:
			put(&l.twice[side], key, e)
		case f != nil && f.Sent == e.Received && f.Received == e.Sent:
			delete(far, key)
			l.Sessions++
		default:
			put(&l.waiting[side], key, e)
		}
	}
}

func put(into *map[string]*Entry, key string, e *Entry) {
	if *into == nil {
		*into = map[string]*Entry{}
	}
	(*into)[key] = e
}

// Rest is what does not fit together yet, as Accounts of one side for Settle,
// to be put beside what its Books have kept. A session that was handed over twice
// stands in two, as if two processes had had it.
func (l *Ledger) Rest(side Side) (rest []Account) {
	for _, entries := range []map[string]*Entry{l.waiting[side], l.twice[side]} {
		if len(entries) > 0 {
			rest = append(rest, Account{Side: side, Made: time.Now(), Sessions: entries})
		}
	}
	return rest
}
