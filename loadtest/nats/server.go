package main

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// syncEvery is nats-server's own default, said aloud.
const syncEvery = 2 * time.Minute

// startWait bounds the start, which reads what is in the directory.
const startWait = 30 * time.Second

type serverConfig struct {
	listen string // host:port
	dir    string // of JetStream's files; it is made, and kept
}

// serve runs a server until ctx ends, and calls ready when it can be reached.
func serve(ctx context.Context, cfg serverConfig, ready func(addr string)) error {
	host, portText, err := net.SplitHostPort(cfg.listen)
	if err != nil {
		return fmt.Errorf("moorage-nats: --listen: %w", err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return fmt.Errorf("moorage-nats: --listen: port %q: want a number up to 65535", portText)
	}
	opts := &server.Options{
		ServerName: "moorage-nats",
		Host:       host, Port: int(port),
		JetStream: true, StoreDir: cfg.dir, SyncInterval: syncEvery,
		JetStreamMaxStore: 1 << 40, // the disk is the bound, as it is Kafka's
		NoSigs:            true, NoLog: true,
		// The server's default is 1,000 consumers of a stream, and every agent has one.
		JetStreamLimits: server.JSLimitOpts{DefaultMaxConsumers: -1},
	}
	if port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("moorage-nats: %w", err)
	}
	s.Start()
	defer s.WaitForShutdown()
	defer s.Shutdown()
	if !s.ReadyForConnections(startWait) {
		return fmt.Errorf("moorage-nats: no connection to %s within %v: is the port free, and %s writable?", cfg.listen, startWait, cfg.dir)
	}
	ready(s.Addr().String())
	<-ctx.Done()
	return nil
}
