// Moorage-nats is the baseline nats of load tests, in a module of its own so
// that moorage does not depend on a NATS server:
//
//	moorage-nats serve --listen 127.0.0.1:4222 --dir DIR   the server: nats-server with JetStream, in this process
//	moorage-nats worker                                    agents or application, as "moorage loadtest-worker" over JetStream
//
// # What is compared
//
// Two streams, up and down, each with one replica and file storage, as the two
// topics of a single Kafka broker. Every session has a subject of its own in
// each. Messages are published without waiting; each is acknowledged when the
// server has written it to its file. The application has one ordered consumer
// for all that agents sent, and each agent one for what is meant for it, over
// a connection of its own. The words of what was taken are those of relay
// (package loadtest/baseline/flow), and so is a message's form.
//
// # What bounds it
//
// A process has at most 8,192 messages published and not acknowledged, as many
// as relay's producer has room for; who sends more waits. A session has at most
// its window sent and not delivered: relay's megabyte, but 16 MiB among all
// sessions of the run. JetStream pays for what many agents have waiting: a
// consumer of one subject looks at every message of the stream between two of
// its own, so that with 2,000 agents that are equally busy the server reads
// 2,000 messages for each that it delivers, and holds the file's lock, which
// publishers need, while it does.
//
// A message that the server refuses, or does not acknowledge within a minute,
// is never passed over: the application's ends the run with the reason, an
// agent's its session.
//
// The server syncs its files every two minutes, which is its default, and not
// before it acknowledges. Kafka's acknowledgement does not wait for the disk either.
package main
