// Command sallyport-proxy stands in front of APIs and lets through what the
// policy of its environment allows.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/sallyport/sallyport/dataplane"
	"github.com/sallyport/sallyport/internal/build"
)

// garbage is how much of it may gather before it is collected, in percent of what is
// in use: a large environment has hundreds of MiB in use, of which requests make no
// garbage. GOGC says otherwise.
const garbage = 50

func main() {
	relax()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "sallyport-proxy:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("sallyport-proxy", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, "usage: sallyport-proxy --settings FILE\n\n")
		flags.PrintDefaults()
	}
	path := flags.String("settings", "/etc/sallyport/proxy.yaml", "the settings `file`")
	check := flags.Bool("check", false, "check the settings file and end")
	debug := flags.Bool("debug", false, "log what only helps to find faults")
	version := flags.Bool("version", false, "print the version and end")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if *version {
		_, err := fmt.Fprintln(stdout, build.Version())
		return err
	}
	settings, err := dataplane.LoadSettings(*path)
	if err != nil || *check {
		return err
	}
	level := slog.LevelInfo
	if *debug {
		level = slog.LevelDebug
	}
	proxy, err := dataplane.New(settings, slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: level})))
	if err != nil {
		return err
	}
	return proxy.Run(ctx)
}
