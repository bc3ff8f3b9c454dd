//go:build unix && !linux

package tunnel

import "time"

// restComes does not wait: only on Linux there is a call that waits for
// microseconds.
func restComes(uintptr, time.Duration) bool { return false }
