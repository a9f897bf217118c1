// Command sallyport-controlplane runs one replica of the control plane.
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

	"github.com/sallyport/sallyport/controlplane"
	"github.com/sallyport/sallyport/internal/build"
)

const usage = `usage: sallyport-controlplane [migrate] --settings FILE
       sallyport-controlplane keys ...
       sallyport-controlplane recover --settings FILE [...]

  migrate            bring the database to the schema of this build, and end
  keys               show and change which keys sign for the fleet: see keys --help
  recover            go on after the database was set back: recover --help
`

const defaultSettings = "/etc/sallyport/controlplane.yaml"

// garbage is how much of it may gather before it is collected, in percent of what is
// in use: half of what Go would let, since a replica of many proxies, or of a large
// environment, has hundreds of MiB in use. GOGC says otherwise.
const garbage = 50

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "sallyport-controlplane:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == "keys" {
		return runKeys(ctx, args[1:], stdout, stderr)
	}
	if len(args) > 0 && args[0] == "recover" {
		return recoverEpoch(ctx, args[1:], stdout, stderr)
	}
	migrate := len(args) > 0 && args[0] == "migrate"
	if migrate {
		args = args[1:]
	}
	flags := flag.NewFlagSet("sallyport-controlplane", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	path := flags.String("settings", defaultSettings, "the settings `file`")
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
	settings, err := controlplane.LoadSettings(*path)
	if err != nil || *check {
		return err
	}
	if migrate {
		if err := controlplane.Migrate(ctx, settings); err != nil {
			return err
		}
		_, err := fmt.Fprintln(stdout, "the database has the schema of this build")
		return err
	}
	level := slog.LevelInfo
	if *debug {
		level = slog.LevelDebug
	}
	server, err := controlplane.New(settings, slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: level})))
	if err != nil {
		return err
	}
	return server.Run(ctx)
}
