package controlplane

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/sallyport/sallyport/controlplane/recovery"
	"github.com/sallyport/sallyport/internal/snapshot"
)

// enrollments says what nobody but the operator can bring back.
const enrollments = "Enrollments are published nowhere, and are those of the database: apply again what was lost of them. Until then\n" +
	"proxies that none admits wait as PENDING, with what they have, and those that a lost change had kept out are let in."

// RecoverOptions say what Recover does.
type RecoverOptions struct {
	recovery.Options
	// SettingsFile is what the settings were read from, for what it says.
	SettingsFile string
	// NewEpoch begins one. Without it, what was lost is told and nothing is done.
	NewEpoch bool
}

// Recover tells what somebody has seen that the database of the settings does not
// hold, and begins a new epoch if it is to. It needs the database and etcd, and
// no replica; those that run go on by themselves.
func Recover(ctx context.Context, s Settings, o RecoverOptions, out io.Writer) (err error) {
	if err := s.full(); err != nil {
		return err
	}
	srv := &Server{settings: s, log: slog.New(slog.DiscardHandler)}
	if err := srv.openStores(); err != nil {
		return errors.Join(err, srv.close())
	}
	defer func() { err = errors.Join(err, srv.close()) }()
	if err := srv.database.CheckSchema(ctx); err != nil {
		return err
	}
	sign, err := s.signing()
	if err != nil {
		return err
	}
	c := recovery.Config{
		Store: srv.database, Verifier: sign.verifier,
	}
	for _, t := range srv.targets.all {
		c.Targets = append(c.Targets, recovery.Place{Name: t.name, Target: t.Store})
	}
	loss, err := c.Look(ctx)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(out)
	tell(w, loss, o)
	err = begin(ctx, c, loss, o, w)
	return errors.Join(err, w.Flush())
}

// begin begins an epoch, if it is to.
func begin(ctx context.Context, c recovery.Config, loss *recovery.Loss, o RecoverOptions, w io.Writer) error {
	if !o.NewEpoch {
		fmt.Fprintln(w, "Nothing was changed.")
		return nil
	}
	plan, err := loss.Recovery(o.Options)
	switch {
	case errors.Is(err, recovery.ErrKeySets):
		return fmt.Errorf("%w, by `%s`", err, adoption(o))
	case errors.Is(err, recovery.ErrNothingLost):
		return fmt.Errorf("%w: with --force a new epoch begins nevertheless", err)
	case errors.Is(err, recovery.ErrRevocations):
		return fmt.Errorf("%w: with --forget-revocations whatever the database does not hold is let in again", err)
	case err != nil:
		return err
	}
	if err := c.Begin(ctx, plan); err != nil {
		return err
	}
	fmt.Fprintf(w, "Epoch %d has begun, with revision %d (%d resources brought back) and security sequence %d (%d).\n",
		plan.Epoch, plan.Fleet.Revision, len(plan.Fleet.Changes), plan.Security.Revision, len(plan.Security.Changes))
	fmt.Fprintln(w, enrollments)
	return nil
}

// adoption is the command that has an operator name the keys that sign. It does not
// name them: those that etcd has may be a stranger's.
func adoption(o RecoverOptions) string {
	return "sallyport-controlplane keys adopt --settings " + o.SettingsFile + " ID..."
}

// tell writes what was lost.
func tell(w io.Writer, l *recovery.Loss, o RecoverOptions) {
	fmt.Fprintf(w, "The database is at epoch %d, revision %d, security sequence %d.\n", l.At.Epoch, l.At.Revision, l.Sequence)
	if l.Nothing() {
		fmt.Fprintln(w, "Nobody is known to have seen more.")
		return
	}
	fmt.Fprintln(w, "It does not hold what was seen:")
	if len(l.KeySets) > 0 {
		tellKeySets(w, l.KeySets, o)
		return
	}
	for _, s := range l.Seen {
		at := ""
		if !s.SeenAt.IsZero() {
			at = ", as told at " + s.SeenAt.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "  %s%s\n", s, at)
	}
	for _, e := range l.Environments {
		tellEnvironment(w, e)
	}
	fmt.Fprintln(w, enrollments)
}

// tellKeySets writes which key sets were found, and that they are to be judged first.
func tellKeySets(w io.Writer, sets []snapshot.KeySet, o RecoverOptions) {
	for _, set := range sets {
		fmt.Fprintf(w, "  etcd has the key set of generation %d:", set.Generation)
		for _, k := range set.Keys() {
			fmt.Fprintf(w, " %s", k.ID())
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, "Who has a key that was retired since can have put them there. If the last keys are those that your last `keys list` showed,")
	fmt.Fprintf(w, "say so with their IDs, by `%s`, and come again: what else was lost is looked for then.\n", adoption(o))
}

func tellEnvironment(w io.Writer, e recovery.Environment) {
	name := "Environment " + e.Name
	if e.Name == snapshot.SecurityLane {
		name = "The security lane"
	}
	switch {
	case e.Err != nil:
		fmt.Fprintf(w, "%s cannot be brought back from what is published: %v\n", name, e.Err)
		return
	case len(e.Differences) == 0:
		fmt.Fprintf(w, "%s is published with the same content.\n", name)
		return
	}
	fmt.Fprintf(w, "%s as published at revision %d (+ the database lacks it, ~ it has it otherwise, - it alone has it):\n", name, e.Head.Revision)
	for _, d := range e.Differences {
		sign := "~"
		switch {
		case !d.Held:
			sign = "+"
		case !d.Published:
			sign = "-"
		}
		fmt.Fprintf(w, "  %s %s\n", sign, d.Key)
	}
}
