package controller

import (
	"sync/atomic"
	"time"
)

// counts is what Stats reports.
type counts struct {
	records, unreadable, opened, rejected, ended, answered atomic.Uint64
	complained                                             atomic.Int64 // when an unreadable record was last logged, Unix nanoseconds
}

// Stats counts what happened since Start.
type Stats struct {
	Sessions   int    // held now
	Waiting    int    // of these, not yet handed out by Accept
	Records    uint64 // read from up partitions
	Unreadable uint64 // records that were foreign, corrupt or of another version: dropped; heartbeats, and the presence read at the start, too
	Opened     uint64 // sessions shown to the application
	Rejected   uint64 // sessions that a bound of this controller turned down
	Ended      uint64 // sessions whose ending is in Kafka
	Answered   uint64 // records of sessions that are not held, answered with ENDED
}

// Stats returns the counts now.
func (c *Controller) Stats() Stats {
	return Stats{
		Sessions: int(c.held.Load()), Waiting: len(c.opened), Records: c.counts.records.Load(),
		Unreadable: c.counts.unreadable.Load(), Opened: c.counts.opened.Load(), Rejected: c.counts.rejected.Load(),
		Ended: c.counts.ended.Load(), Answered: c.counts.answered.Load(),
	}
}

// complainEvery keeps a burst of unreadable records from filling the log.
const complainEvery = 10 * time.Second

// unreadable notes a record that is not to be delivered to anybody.
func (c *Controller) unreadable(topic string, partition int32, offset int64, err error) {
	n := c.counts.unreadable.Add(1)
	now, last := time.Now().UnixNano(), c.counts.complained.Load()
	if now-last < int64(complainEvery) || !c.counts.complained.CompareAndSwap(last, now) {
		return
	}
	c.log.Warn("unreadable record", "topic", topic, "partition", partition, "offset", offset, "so far", n, "err", err)
}
