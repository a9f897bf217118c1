package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// change is what apply and delete have in common.
type change struct {
	files    []string
	dryRun   bool
	expected int64
	message  string
	wait     time.Duration
	out      output
}

func (c *change) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVarP(&c.files, "file", "f", nil, "read resources from this `file`, from the files of this folder, or from standard input (-)")
	f.BoolVar(&c.dryRun, "dry-run", false, "check and compare only")
	f.Int64Var(&c.expected, "expected-revision", -1, "change nothing unless the fleet is at this `revision`")
	f.StringVarP(&c.message, "message", "m", "", "why, for the history")
	f.DurationVar(&c.wait, "wait", 0, "then wait until every connected proxy enforces it, for at most this time")
	c.out.flag(cmd)
}

// expectedRevision returns nil when none was given.
func (c *change) expectedRevision() *int64 {
	if c.expected < 0 {
		return nil
	}
	return &c.expected
}

func newApply(server *connection) *cobra.Command {
	var c change
	cmd := &cobra.Command{
		Use:   "apply -f FILE|FOLDER|-",
		Short: "Create or replace resources, all of them or none, in one revision",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(c.files) == 0 {
				return errors.New("apply what? give -f FILE, -f FOLDER or -f -")
			}
			resources, err := readResources(c.files, cmd.InOrStdin())
			if err != nil {
				return err
			}
			clients, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer clients.close()
			return c.apply(cmd, clients, resources)
		},
	}
	c.flags(cmd)
	return cmd
}

func (c *change) apply(cmd *cobra.Command, clients *clients, resources []located) error {
	req := &adminv1.ApplyRequest{ExpectedRevision: c.expectedRevision(), DryRun: c.dryRun, Message: c.message}
	for _, r := range resources {
		req.Resources = append(req.Resources, r.Resource)
	}
	res, err := clients.config.Apply(cmd.Context(), connect.NewRequest(req))
	if err != nil {
		return refused(cmd.ErrOrStderr(), err, resources)
	}
	if done, err := c.out.message(cmd.OutOrStdout(), res.Msg); done && err != nil {
		return err
	} else if !done {
		if err := c.print(cmd.OutOrStdout(), res.Msg); err != nil {
			return err
		}
	}
	return c.await(cmd.Context(), cmd.OutOrStdout(), clients, res.Msg)
}

// refused prints each problem with the file and line that it is about.
func refused(w io.Writer, err error, resources []located) error {
	p := problems(err)
	if p == nil {
		return err
	}
	for _, one := range p.GetProblems() {
		place := ""
		if i := int(one.GetIndex()); one.GetResource() != "" && i >= 0 && i < len(resources) {
			place = resources[i].place(one) + ": "
		}
		if _, err := fmt.Fprintf(w, "%s%s\n", place, describe(one)); err != nil {
			return err
		}
	}
	if more := int(p.GetTotal()) - len(p.GetProblems()); more > 0 {
		fmt.Fprintf(w, "and %d more problems\n", more)
	}
	fmt.Fprintln(w, "nothing was changed")
	return &toldError{err}
}

// changed is what the answers to Apply and Delete have in common.
type changed interface {
	GetRevision() int64
	GetChanges() []*adminv1.Change
	GetEnvironments() []string
}

func (c *change) print(w io.Writer, res changed) error {
	made := 0
	for _, ch := range res.GetChanges() {
		if ch.GetType() != adminv1.ChangeType_CHANGE_TYPE_UNCHANGED {
			made++
		}
		if _, err := fmt.Fprintf(w, "%-10s %s\n", lower(ch.GetType()), keyText(ch.GetKey())); err != nil {
			return err
		}
	}
	switch {
	case c.dryRun:
		_, err := fmt.Fprintf(w, "dry run: compared with revision %d, nothing was changed\n", res.GetRevision())
		return err
	case made == 0:
		_, err := fmt.Fprintf(w, "revision %d holds this already\n", res.GetRevision())
		return err
	}
	_, err := fmt.Fprintf(w, "revision %d is committed, for %s\n", res.GetRevision(), list(res.GetEnvironments()))
	return err
}

// await waits for proof if that was asked for.
func (c *change) await(ctx context.Context, w io.Writer, clients *clients, res changed) error {
	if c.wait == 0 || c.dryRun || len(res.GetEnvironments()) == 0 {
		return nil
	}
	out := output("table")
	return clients.wait(ctx, w, &out, &adminv1.WaitEnforcedRequest{
		Revision: res.GetRevision(), Timeout: durationpb.New(c.wait),
	})
}

func newDelete(server *connection) *cobra.Command {
	var c change
	var namespace string
	cmd := &cobra.Command{
		Use:   "delete KIND NAME...",
		Short: "Delete resources, all of them or none, in one revision",
		Long: `Delete resources, all of them or none, in one revision.

Name them by kind and name, or with -f by the files that declare them.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := c.keys(cmd.InOrStdin(), namespace, args)
			if err != nil {
				return err
			}
			clients, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer clients.close()
			return c.delete(cmd, clients, keys)
		},
	}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "the namespace of the resources")
	c.flags(cmd)
	return cmd
}

// keys returns what to delete: what the arguments name, or the files declare.
func (c *change) keys(stdin io.Reader, namespace string, args []string) ([]*adminv1.Key, error) {
	if (len(args) >= 2) == (len(c.files) > 0) || len(args) == 1 {
		return nil, errors.New("delete what? give KIND NAME... or -f FILE")
	}
	var keys []*adminv1.Key
	if len(args) > 0 {
		kind, err := kindOf(args[0])
		if err != nil {
			return nil, err
		}
		for _, name := range args[1:] {
			keys = append(keys, &adminv1.Key{Kind: kind, Namespace: namespace, Name: name})
		}
		return keys, nil
	}
	resources, err := readResources(c.files, stdin)
	for _, r := range resources {
		m := r.Resource.GetMetadata()
		keys = append(keys, &adminv1.Key{Kind: r.Resource.GetKind(), Namespace: m.GetNamespace(), Name: m.GetName()})
	}
	return keys, err
}

func (c *change) delete(cmd *cobra.Command, clients *clients, keys []*adminv1.Key) error {
	res, err := clients.config.Delete(cmd.Context(), connect.NewRequest(&adminv1.DeleteRequest{
		Keys: keys, ExpectedRevision: c.expectedRevision(), DryRun: c.dryRun, Message: c.message,
	}))
	if err != nil {
		return refused(cmd.ErrOrStderr(), err, nil)
	}
	if done, err := c.out.message(cmd.OutOrStdout(), res.Msg); done && err != nil {
		return err
	} else if !done {
		if err := c.print(cmd.OutOrStdout(), res.Msg); err != nil {
			return err
		}
	}
	return c.await(cmd.Context(), cmd.OutOrStdout(), clients, res.Msg)
}
