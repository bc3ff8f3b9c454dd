package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/moorage-dev/moorage/loadtest/baseline"
	"github.com/moorage-dev/moorage/loadtest/worker"
)

const usage = `usage: moorage-nats serve --listen HOST:PORT --dir DIR
       moorage-nats worker

The baseline "nats" of moorage loadtest, which starts it.
`

// errUsage is an error of who called it: exit code 2.
var errUsage = errors.New("moorage-nats: see moorage-nats --help")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, err)
	if errors.Is(err, errUsage) {
		os.Exit(2)
	}
	os.Exit(1)
}

func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	if len(args) == 0 {
		return fmt.Errorf("moorage-nats: want serve or worker\n%w", errUsage)
	}
	switch args[0] {
	case "-h", "--help", "help":
		_, err := io.WriteString(out, usage)
		return err
	case "serve":
		var cfg serverConfig
		flags := flag.NewFlagSet("serve", flag.ContinueOnError)
		flags.SetOutput(io.Discard)
		flags.StringVar(&cfg.listen, "listen", "127.0.0.1:4222", "")
		flags.StringVar(&cfg.dir, "dir", "", "")
		if err := flags.Parse(args[1:]); err != nil || flags.NArg() > 0 || cfg.dir == "" {
			if err == nil {
				err = errors.New("want --dir and nothing beside the flags")
			}
			return fmt.Errorf("moorage-nats: serve: %w\n%w", err, errUsage)
		}
		return serve(ctx, cfg, func(addr string) { fmt.Fprintln(out, "ready", addr) })
	case "worker":
		// A signal to the whole group is the coordinator's business: it tells its workers.
		transports := baseline.Transports()
		transports[baseline.NATS] = Transport{}
		return worker.Main(context.WithoutCancel(ctx), in, out, transports)
	}
	return fmt.Errorf("moorage-nats: no command %q\n%w", args[0], errUsage)
}
