package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/sallyport/sallyport/controlplane"
	"github.com/sallyport/sallyport/controlplane/rotation"
	"github.com/sallyport/sallyport/internal/snapshot"
)

const keysUsage = `usage: sallyport-controlplane keys COMMAND --settings FILE

  list               which keys sign for the fleet, and how many newest heads each signed
  public             the public half of the settings' signing key, PEM
  add FILE           have the key of a PEM file with a public key sign as well
  retire ID          have a key sign no more; the beginning of its ID will do
  adopt ID...        after the database was set back, take the key sets from etcd that it
                     lost; the IDs are those of all keys that sign then

add and retire sign the next key set with the settings' signing key.
`

// keysCommand is one of the commands, with how many arguments follow the flags.
type keysCommand struct {
	least, most int
	run         func(ctx context.Context, c keysCall) error
}

// keysCall is a command as it was called.
type keysCall struct {
	settings  controlplane.Settings
	arguments []string
	force     bool
	stdout    io.Writer
}

func runKeys(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	name := ""
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	command, known := map[string]keysCommand{
		"list": {0, 0, listKeys}, "public": {0, 0, showKey}, "add": {1, 1, addKey}, "retire": {1, 1, retireKey},
		"adopt": {1, snapshot.MaxKeys, adoptKeys},
	}[name]
	flags := flag.NewFlagSet("sallyport-controlplane keys", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, keysUsage)
		flags.PrintDefaults()
	}
	path := flags.String("settings", "/etc/sallyport/controlplane.yaml", "the settings `file`")
	force := flags.Bool("force", false, "retire a key though newest heads are signed with it; add one though proxies do not follow")
	if !known {
		flags.Usage()
		if name == "--help" || name == "-h" {
			return flag.ErrHelp
		}
		return fmt.Errorf("keys: no command %q", name)
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if n := flags.NArg(); n < command.least || n > command.most {
		return fmt.Errorf("keys %s: takes from %d to %d arguments after the flags, not %d", name, command.least, command.most, n)
	}
	settings, err := controlplane.LoadSettings(*path)
	if err != nil {
		return err
	}
	return command.run(ctx, keysCall{settings, flags.Args(), *force, stdout})
}

// rotate calls f with the keys of the settings, and then shows them.
func (c keysCall) rotate(ctx context.Context, f func(*rotation.Keys) error) error {
	keys, closed, err := controlplane.Rotation(ctx, c.settings)
	if err != nil {
		return err
	}
	defer closed()
	if err := f(keys); err != nil {
		return err
	}
	state, err := keys.State(ctx)
	if err != nil {
		return err
	}
	return show(c.stdout, state)
}

func show(w io.Writer, s rotation.State) error {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintf(table, "generation %d\n\nKEY\tTYPE\tNEWEST HEADS\t\n", s.Generation)
	for _, k := range s.Keys {
		note := ""
		if k.Ours {
			note = "signs here"
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\n", k.ID(), k.Type(), len(k.Heads), note)
	}
	return table.Flush()
}

func listKeys(ctx context.Context, c keysCall) error {
	return c.rotate(ctx, func(*rotation.Keys) error { return nil })
}

func showKey(_ context.Context, c keysCall) error {
	b, err := controlplane.PublicKey(c.settings)
	if err == nil {
		_, err = c.stdout.Write(b)
	}
	return err
}

func addKey(ctx context.Context, c keysCall) error {
	public, err := controlplane.ReadPublicKey(c.arguments[0])
	if err != nil {
		return fmt.Errorf("%s: %w", c.arguments[0], err)
	}
	return c.rotate(ctx, func(k *rotation.Keys) error {
		_, err := k.Add(ctx, public, c.force)
		return err
	})
}

func retireKey(ctx context.Context, c keysCall) error {
	return c.rotate(ctx, func(k *rotation.Keys) error {
		_, err := k.Retire(ctx, c.arguments[0], c.force)
		return err
	})
}

func adoptKeys(ctx context.Context, c keysCall) error {
	return c.rotate(ctx, func(k *rotation.Keys) error { return k.Adopt(ctx, c.arguments) })
}
