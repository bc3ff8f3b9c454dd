//go:build !linux

package worker

// newAlarm returns the finest alarm there is.
func newAlarm() alarm { return newTimerAlarm() }
