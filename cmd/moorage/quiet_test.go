package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestMemoryIsGivenBackInQuietTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var made, freed atomic.Uint64
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go giveBack(ctx, made.Load, func() { freed.Add(1) })
		for range 10 { // busy: allocations call for collections
			time.Sleep(quiet / 2)
			synctest.Wait()
			made.Add(1)
		}
		if n := freed.Load(); n > 0 {
			t.Errorf("memory given back %d times in a busy time", n)
		}
		time.Sleep(3*quiet + quiet/4)
		synctest.Wait()
		if n := freed.Load(); n < 2 || n > 3 {
			t.Errorf("memory given back %d times in three quiet minutes", n)
		}
	})
}

// What gives memory back must not look like a reason not to.
func TestGivingBackIsNoActivity(t *testing.T) {
	before := collections()
	for range 3 {
		debug.FreeOSMemory()
		runtime.GC()
	}
	// Others' garbage may call for one at the same time, but not for each.
	if n := collections() - before; n >= 6 {
		t.Errorf("%d collections that nobody forced, beside six that were", n)
	}
}
