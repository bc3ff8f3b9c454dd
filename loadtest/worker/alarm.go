package worker

import "time"

// An alarm is what a pacer sleeps by. sleep is one goroutine's; poke may be
// called by anybody, and ends the present sleep or the next one at once.
type alarm interface {
	sleep(d time.Duration)
	poke()
	close()
}

// A timerAlarm is the runtime's timer: the only one in fake time, and on
// systems without a finer one. It may wake a millisecond late, because an idle
// runtime waits in whole milliseconds.
type timerAlarm struct {
	timer *time.Timer
	poked chan struct{} // capacity 1
}

func newTimerAlarm() *timerAlarm {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &timerAlarm{timer: t, poked: make(chan struct{}, 1)}
}

func (a *timerAlarm) sleep(d time.Duration) {
	a.timer.Reset(d)
	defer a.timer.Stop()
	select {
	case <-a.timer.C:
	case <-a.poked:
	}
}

func (a *timerAlarm) poke() {
	select {
	case a.poked <- struct{}{}:
	default:
	}
}

func (a *timerAlarm) close() { a.timer.Stop() }
