package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// quiet is how long no allocation may have called for a garbage collection
// before memory is given back. Go collects every two minutes at the latest, so
// one collection a minute costs a quiet process next to nothing.
const quiet = time.Minute

// giveBackMemory returns free memory to the system while the process has little
// to do, until ctx ends.
//
// Go keeps as much again as is in use for what will be allocated until the next
// collection. Idle agents allocate next to nothing, and it is half of what they
// seem to need.
func giveBackMemory(ctx context.Context) { giveBack(ctx, collections, debug.FreeOSMemory) }

func giveBack(ctx context.Context, collections func() uint64, free func()) {
	t := time.NewTicker(quiet)
	defer t.Stop()
	seen := collections()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		now := collections()
		if now == seen {
			free()
		}
		seen = now
	}
}

// collections counts those that nobody forced. Time calls for one after two
// minutes without, which giveBack's own forestall.
func collections() uint64 {
	s := []metrics.Sample{{Name: "/gc/cycles/automatic:gc-cycles"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
