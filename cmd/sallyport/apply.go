package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// change is what apply, delete and rollback have in common.
type change struct {
	files    []string
	dryRun   bool
	expected int64
	message  string
	wait     time.Duration
	removals bool
	out      output
}

func (c *change) flags(cmd *cobra.Command) {
	cmd.Flags().StringSliceVarP(&c.files, "file", "f", nil, "read resources from this `file`, from the files below this folder, or from standard input (-)")
	c.common(cmd)
}

// common adds the flags of every change.
func (c *change) common(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&c.dryRun, "dry-run", false, "check and compare only")
	f.Int64Var(&c.expected, "expected-revision", 0, "change nothing unless the fleet is at this `revision`")
	f.StringVarP(&c.message, "message", "m", "", "why (`text`), for the history")
	f.DurationVar(&c.wait, "wait", 0, "then wait until every connected proxy proves that it enforces this, for at most so long")
	f.BoolVar(&c.removals, "allow-removals", false, "take it for meant, however much of an environment this removes")
	c.out.flag(cmd)
}

// expectedRevision returns nil when none was given.
func (c *change) expectedRevision(cmd *cobra.Command) *int64 {
	if !cmd.Flags().Changed("expected-revision") {
		return nil
	}
	return &c.expected
}

func newApply(server *connection) *cobra.Command {
	var c change
	cmd := &cobra.Command{
		Use:   "apply -f FILE|FOLDER|-",
		Short: "Create or replace resources, all of them or none, in one revision",
		Long: `Create or replace resources, all of them or none, in one revision.

A folder stands for the .yaml, .yml and .json files below it; what begins with
a dot is left out. What is as it should be already makes no revision. With
--wait the command ends when every connected proxy has proven that it enforces
the resources as they are now, also when nothing had to change; it names the
laggards and exits with 1 when that takes too long.

Revocations and devices are in force at once and make no revision: they are
applied apart from other resources, and reach every proxy of every environment.`,
		Example: `  sallyport apply -f resources/ -m "orders may be read" --wait 30s
  sallyport get all -o yaml --revision 12 | sallyport apply -f -`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 0:
				return fmt.Errorf("files are given with -f: apply -f %s", strings.Join(args, " -f "))
			case len(c.files) == 0:
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

func (c *change) apply(cmd *cobra.Command, clients *clients, files []located) error {
	resources := make([]*adminv1.Resource, len(files))
	for i, f := range files {
		resources[i] = f.Resource
	}
	return c.send(cmd, clients, resources, files)
}

// send applies resources. files are where they are from, none when they are
// from no file.
func (c *change) send(cmd *cobra.Command, clients *clients, resources []*adminv1.Resource, files []located) error {
	res, err := clients.config.Apply(cmd.Context(), connect.NewRequest(&adminv1.ApplyRequest{
		Resources: resources, ExpectedRevision: c.expectedRevision(cmd), DryRun: c.dryRun, Message: c.message, AllowRemovals: c.removals,
	}))
	if err != nil {
		return refused(cmd.ErrOrStderr(), err, files)
	}
	if err := c.print(cmd.OutOrStdout(), res.Msg); err != nil || c.wait == 0 || c.dryRun {
		return err
	}
	environments := res.Msg.GetEnvironments()
	if unchanged(res.Msg) && res.Msg.GetSecuritySequence() == 0 {
		// Whoever asks again wants the proof that he did not get before.
		if environments, err = clients.concerned(cmd.Context(), resources); err != nil {
			return err
		}
	}
	return c.await(cmd, clients, res.Msg, environments)
}

// concerned returns the environments that resources are in.
func (c *clients) concerned(ctx context.Context, resources []*adminv1.Resource) ([]string, error) {
	var names []string
	for _, r := range resources {
		switch resource.Kind(r.GetKind()) {
		case resource.KindEnrollment:
			continue // the control plane's own
		case resource.KindEnvironment:
			names = append(names, r.GetMetadata().GetName())
			continue
		}
		listed := r.GetSpec().GetFields()["environments"].GetListValue().GetValues()
		if len(listed) == 0 {
			return c.environments(ctx)
		}
		for _, name := range listed {
			names = append(names, name.GetStringValue())
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// environments returns the names of all environments.
func (c *clients) environments(ctx context.Context) ([]string, error) {
	all, err := c.list(ctx, &adminv1.ListRequest{Kind: string(resource.KindEnvironment)})
	names := make([]string, len(all))
	for i, s := range all {
		names[i] = s.GetResource().GetMetadata().GetName()
	}
	return names, err
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
		if _, err := fmt.Fprintf(w, "%s%s%s\n", place, describe(one), twin(one, resources)); err != nil {
			return err
		}
	}
	if more := int(p.GetTotal()) - len(p.GetProblems()); more > 0 {
		fmt.Fprintf(w, "and %s\n", count(more, "more problem"))
	}
	fmt.Fprintln(w, "nothing was changed")
	return &toldError{err}
}

// twin says where the other one of two resources with the same key is.
func twin(p *adminv1.Problem, resources []located) string {
	i := int(p.GetIndex())
	if p.GetReason() != "duplicate_resource" || i < 0 || i >= len(resources) {
		return ""
	}
	for _, other := range resources[:i] {
		if other.key() == resources[i].key() {
			return fmt.Sprintf(", first at %s", other.place(&adminv1.Problem{}))
		}
	}
	return ""
}

// changed is what the answers to Apply, Delete and Rollback have in common.
type changed interface {
	GetRevision() int64
	GetChanges() []*adminv1.Change
	GetEnvironments() []string
	GetSecuritySequence() int64
}

func unchanged(res changed) bool {
	return !slices.ContainsFunc(res.GetChanges(), func(c *adminv1.Change) bool {
		return c.GetType() != adminv1.ChangeType_CHANGE_TYPE_UNCHANGED
	})
}

// print shows what a change did, or would do.
func (c *change) print(w io.Writer, res changed) error {
	if done, err := c.out.message(w, res); done {
		return err
	}
	kept := 0
	for _, ch := range res.GetChanges() {
		if ch.GetType() == adminv1.ChangeType_CHANGE_TYPE_UNCHANGED {
			kept++
			continue
		}
		if _, err := fmt.Fprintf(w, "%-8s  %s\n", strings.ToLower(word(ch.GetType().String())), keyText(ch.GetKey())); err != nil {
			return err
		}
	}
	if kept > 0 {
		if _, err := fmt.Fprintf(w, "%d unchanged\n", kept); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(w, c.conclusion(res))
	return err
}

func (c *change) conclusion(res changed) string {
	made, whom := fmt.Sprintf("revision %d", res.GetRevision()), list(res.GetEnvironments())
	if n := res.GetSecuritySequence(); n > 0 {
		made, whom = fmt.Sprintf("security sequence %d", n), "every proxy"
	}
	switch {
	case c.dryRun:
		return fmt.Sprintf("dry run: compared with %s, nothing was changed", made)
	case unchanged(res):
		return made + " holds this already"
	case whom == "":
		return made + " is committed; it is sent to no environment"
	}
	return made + " is committed, for " + whom
}

// await waits for proof that what was changed is enforced in the environments;
// in all of them when that was the security lane. What it shows meanwhile is not
// the answer of the command when that is for a program.
func (c *change) await(cmd *cobra.Command, clients *clients, res changed, environments []string) error {
	if len(environments) == 0 && res.GetSecuritySequence() == 0 {
		return nil
	}
	w, out := cmd.OutOrStdout(), output("table")
	if c.out != "table" {
		w = cmd.ErrOrStderr()
	}
	return clients.wait(cmd.Context(), w, &out, &adminv1.WaitEnforcedRequest{
		Revision: res.GetRevision(), SecuritySequence: res.GetSecuritySequence(),
		Environments: environments, Timeout: durationpb.New(c.wait),
	})
}
