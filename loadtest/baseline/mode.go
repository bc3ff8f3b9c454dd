package baseline

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"time"
)

// A Mode says what the application does with a session; the agent asks for it
// by labels in its OPEN, so that one generator drives any application.
type Mode struct {
	Do    string  // "echo" sends every message back, "sink" takes all, "source" sends
	Size  int     // source: bytes per message, at least 8
	Count int     // source: messages; 0: until the agent's FIN
	Rate  float64 // source: messages per second; 0: as the window allows
	Wait  time.Duration
}

// Labels is the Mode as ParseMode reads it.
func (m Mode) Labels() map[string]string {
	return map[string]string{
		"do": m.Do, "size": strconv.Itoa(m.Size), "count": strconv.Itoa(m.Count),
		"rate": strconv.FormatFloat(m.Rate, 'g', -1, 64), "wait": m.Wait.String(),
	}
}

// ParseMode reads Labels' form; what is absent is zero.
func ParseMode(labels map[string]string) (m Mode, err error) {
	m.Do = labels["do"]
	parse := func(key string, f func(string) error) {
		if s := labels[key]; s != "" && err == nil {
			if e := f(s); e != nil {
				err = fmt.Errorf("baseline: label %s: %w", key, e)
			}
		}
	}
	parse("size", func(s string) (e error) { m.Size, e = strconv.Atoi(s); return })
	parse("count", func(s string) (e error) { m.Count, e = strconv.Atoi(s); return })
	parse("rate", func(s string) (e error) { m.Rate, e = strconv.ParseFloat(s, 64); return })
	parse("wait", func(s string) (e error) { m.Wait, e = time.ParseDuration(s); return })
	m.Size = max(m.Size, 8)
	return m, err
}

// Source calls send as the Mode's size, count, rate and wait say, until ctx or
// send ends it. Each message begins with the wall clock at which it was due, in
// nanoseconds: a late sender is late, not excused.
func (m Mode) Source(ctx context.Context, send func(payload []byte) error) error {
	timer := time.NewTimer(m.Wait)
	defer timer.Stop()
	var start time.Time
	for n := 0; m.Count == 0 || n < m.Count; n++ {
		due := time.Now()
		if n == 0 || m.Rate > 0 {
			if n > 0 {
				due = start.Add(time.Duration(float64(n) / m.Rate * float64(time.Second)))
				timer.Reset(time.Until(due))
			}
			select {
			case <-timer.C:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if n == 0 {
				start = time.Now()
				due = start
			}
		}
		payload := make([]byte, m.Size)
		binary.BigEndian.PutUint64(payload, uint64(due.UnixNano()))
		if err := send(payload); err != nil {
			return err
		}
	}
	return nil
}
