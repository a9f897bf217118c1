package main

import (
	"fmt"
	"io"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

func newRollback(server *connection) *cobra.Command {
	var c change
	var trust bool
	cmd := &cobra.Command{
		Use:   "rollback REVISION",
		Short: "Go back to what an older revision held, all of it, in one new revision",
		Long: `Go back to what an older revision held, all of it, in one new revision.

What was created since is deleted, and what was changed or deleted is as it was,
if the rules of today admit it. Revocations and devices stay as they are. Whom to
trust is not brought back unless --restore-trust says so: IdentityProviders,
TrustDomains, Enrollments, Grants and secrets of ApiKeys that were taken away or
changed since.`,
		Example: `  sallyport rollback 12 --dry-run
  sallyport rollback 12 -m "orders were slow" --wait 30s`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := parseRevision(args[0], 1)
			if err != nil {
				return err
			}
			clients, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer clients.close()
			return c.rollback(cmd, clients, &adminv1.RollbackRequest{ToRevision: to, RestoreTrust: trust})
		},
	}
	c.common(cmd)
	cmd.Flags().BoolVar(&trust, "restore-trust", false, "bring back whom to trust as well")
	return cmd
}

// wentBack is a Rollback's answer as the other changes' answers are.
type wentBack struct{ *adminv1.RollbackResponse }

// GetSecuritySequence returns 0: going back makes no sequence.
func (wentBack) GetSecuritySequence() int64 { return 0 }

func (c *change) rollback(cmd *cobra.Command, clients *clients, req *adminv1.RollbackRequest) error {
	req.ExpectedRevision, req.DryRun, req.Message, req.AllowRemovals = c.expectedRevision(cmd), c.dryRun, c.message, c.removals
	res, err := clients.config.Rollback(cmd.Context(), connect.NewRequest(req))
	if err != nil {
		return refused(cmd.ErrOrStderr(), err, nil)
	}
	if done, err := c.out.message(cmd.OutOrStdout(), res.Msg); done && err != nil {
		return err
	} else if !done {
		if err := c.printRollback(cmd.OutOrStdout(), req.GetToRevision(), res.Msg); err != nil {
			return err
		}
	}
	if c.wait == 0 || c.dryRun {
		return nil
	}
	return c.await(cmd, clients, wentBack{res.Msg}, res.Msg.GetEnvironments())
}

// printRollback shows what was changed; of a dry run, field by field.
func (c *change) printRollback(w io.Writer, to int64, res *adminv1.RollbackResponse) error {
	if !c.dryRun {
		return c.print(w, wentBack{res})
	}
	if err := printDiffs(w, res.GetResources()); err != nil {
		return err
	}
	if more := len(res.GetChanges()) - len(res.GetResources()); more > 0 {
		if _, err := fmt.Fprintf(w, "and %s: sallyport diff %d %d\n", count(more, "more resource"), res.GetRevision(), to); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(w, c.conclusion(wentBack{res}))
	return err
}
