// Package conn gives an application its end of a session: a [net.Conn] for
// bytes, and messages for those who want boundaries.
//
// A [Conn] stands over the [session.End] that both roles embed and owns the
// session's lock. The runtime around it (package link, package controller)
// gives the role its inputs under that lock and calls [Conn.Changed] after
// each; the Conn calls Kick when the role may have something to send.
//
// Bytes are joined into one frame while an earlier frame is on its way to
// Kafka, and cut at once when none is: so a lone keystroke waits for nobody,
// and a thousand small writes become a few frames. No timer is involved. What
// was once cut never changes, because it may be sent again.
//
// The package starts no goroutine; deadlines are timers.
package conn
