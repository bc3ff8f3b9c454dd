// Package broker starts the Kafka that something else talks to.
//
// An [Embedded] broker is franz-go's kfake: it lives in this process, keeps
// every record in memory and forgets all of it at the end. The demo and the
// fast tests use it, and it can be told to misbehave. An [Apache] cluster is
// the real thing: one or three Java processes, started for a test or a
// measurement, which can be killed, stopped and frozen one by one.
//
// Nothing here is for production, where Kafka is somebody else's to run.
package broker
