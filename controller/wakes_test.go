package controller

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever is asked for, nobody is woken late, early or twice.
func TestWakes(t *testing.T) {
	began := time.Unix(1e9, 0)
	rapid.Check(t, func(t *rapid.T) {
		var w wakes
		sessions := make([]*Session, 8)
		for i := range sessions {
			sessions[i] = new(Session)
		}
		want := make(map[*Session]time.Time) // the model
		now := began
		t.Repeat(map[string]func(*rapid.T){
			"at": func(t *rapid.T) {
				s := sessions[rapid.IntRange(0, len(sessions)-1).Draw(t, "session")]
				at := now.Add(time.Duration(rapid.IntRange(0, 50).Draw(t, "in")))
				if was, ok := want[s]; !ok || at.Before(was) {
					want[s] = at
				}
				first := w.at(at, s)
				for _, other := range want {
					if first && other.Before(want[s]) {
						t.Fatalf("said to be the first at %v, but %v comes before", want[s], other)
					}
				}
			},
			"remove": func(t *rapid.T) {
				s := sessions[rapid.IntRange(0, len(sessions)-1).Draw(t, "session")]
				w.remove(s)
				delete(want, s)
			},
			"pop": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "passes")))
				for {
					s, next := w.pop(now)
					if s == nil {
						for _, at := range want {
							if !at.After(now) || at.Before(next) {
								t.Fatalf("due at %v, forgotten at %v; next %v", at, now, next)
							}
						}
						return
					}
					if at, ok := want[s]; !ok || at.After(now) {
						t.Fatalf("woken at %v, asked for %v, %v", now, at, ok)
					}
					delete(want, s)
				}
			},
		})
	})
}
