package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os/user"

	"github.com/sallyport/sallyport/controlplane"
)

const recoverUsage = `usage: sallyport-controlplane recover --settings FILE [--new-epoch ...]

Tells what was seen by somebody and is not in the database, which was set back. With
--new-epoch it goes on from what the database has. Revocations and devices that are
published are brought back in any case.

`

// recoverEpoch tells what was lost, and begins a new epoch if it is to.
func recoverEpoch(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("sallyport-controlplane recover", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, recoverUsage)
		flags.PrintDefaults()
	}
	var o controlplane.RecoverOptions
	path := flags.String("settings", defaultSettings, "the settings `file`")
	flags.BoolVar(&o.NewEpoch, "new-epoch", false, "begin a new epoch")
	flags.BoolVar(&o.KeepPublished, "keep-published", false, "bring back all that is published and the database lacks")
	flags.BoolVar(&o.ForgetRevocations, "forget-revocations", false, "go on although revocations are lost for good")
	flags.BoolVar(&o.Force, "force", false, "begin a new epoch although nothing is known to be lost")
	flags.StringVar(&o.Message, "message", "", "`why`, for the audit")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if !o.NewEpoch && (o.KeepPublished || o.ForgetRevocations || o.Force) {
		return errors.New("--keep-published, --forget-revocations and --force go with --new-epoch")
	}
	settings, err := controlplane.LoadSettings(*path)
	if err != nil {
		return err
	}
	who, err := user.Current()
	if err != nil {
		return fmt.Errorf("find out who calls: %w", err)
	}
	o.Caller, o.SettingsFile = "local user "+who.Username, *path
	return controlplane.Recover(ctx, settings, o, stdout)
}
