package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

func newRevisions(server *connection) *cobra.Command {
	req := &adminv1.ListRevisionsRequest{}
	var out output
	var limit int
	var labels []string
	cmd := &cobra.Command{
		Use:   "revisions",
		Short: "Show who changed what and when, newest first",
		Example: `  sallyport revisions -l release=v4
  sallyport revisions label 12 release=v4 good=yes
  sallyport revisions note 12 "the last one before the sale"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return errors.New("--limit is at least 1")
			}
			var err error
			if req.Labels, _, err = parseLabels(labels, false); err != nil {
				return err
			}
			c, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.close()
			revisions, err := c.revisions(cmd.Context(), req, limit)
			if err != nil {
				return err
			}
			if done, err := out.message(cmd.OutOrStdout(), &adminv1.ListRevisionsResponse{Revisions: revisions}); done {
				return err
			}
			return printRevisions(cmd.OutOrStdout(), revisions)
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 20, "show at most so many")
	cmd.Flags().StringArrayVarP(&labels, "label", "l", nil, "only those that have this label, as `name=value`")
	out.flag(cmd)
	cmd.AddCommand(server.flags(newLabel(server)), server.flags(newNote(server)))
	return cmd
}

func printRevisions(w io.Writer, revisions []*adminv1.Revision) error {
	var rows [][]string
	for _, r := range revisions {
		rows = append(rows, []string{
			strconv.FormatInt(r.GetRevision(), 10), r.GetCommittedAt().AsTime().Format(time.RFC3339),
			strconv.Itoa(int(r.GetChanges())), list(r.GetEnvironments()), r.GetCaller(), labelled(r.GetLabels()), r.GetMessage(), r.GetNote(),
		})
	}
	return table(w, "REVISION COMMITTED CHANGES ENVIRONMENTS CALLER LABELS MESSAGE NOTE", rows)
}

// revisions returns the newest revisions of those that are asked for.
func (c *clients) revisions(ctx context.Context, req *adminv1.ListRevisionsRequest, limit int) ([]*adminv1.Revision, error) {
	var all []*adminv1.Revision
	for {
		req.PageSize = int32(min(limit-len(all), 1000)) //nolint:gosec // bounded
		res, err := c.config.ListRevisions(ctx, connect.NewRequest(req))
		if err != nil {
			return nil, err
		}
		all = append(all, res.Msg.GetRevisions()...)
		if req.PageToken = res.Msg.GetNextPageToken(); req.GetPageToken() == "" || len(all) >= limit {
			return all, nil
		}
	}
}

// parseLabels reads name=value, and name- of those to be removed where that can be.
func parseLabels(args []string, removable bool) (set map[string]string, remove []string, err error) {
	set = map[string]string{}
	for _, arg := range args {
		name, value, given := strings.Cut(arg, "=")
		gone, minus := strings.CutSuffix(arg, "-")
		switch {
		case given && name != "":
			set[name] = value
		case removable && minus && gone != "" && !given:
			remove = append(remove, gone)
		default:
			hint := "give name=value"
			if removable {
				hint += " to set one, name- to remove it"
			}
			return nil, nil, fmt.Errorf("%q is not a label: %s", arg, hint)
		}
	}
	return set, remove, nil
}

func newLabel(server *connection) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "label REVISION NAME=VALUE|NAME-...",
		Short: "Label a revision, or take labels away",
		Long: `Label a revision, or take labels away (NAME-).

A revision that has a label is kept: it can be gone back to however old it is.`,
		Example: `  sallyport revisions label 12 release=v4 old-`,
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, remove, err := parseLabels(args[1:], true)
			if err != nil {
				return err
			}
			return annotate(cmd, server, &out, args[0], &adminv1.AnnotateRevisionRequest{Labels: set, RemoveLabels: remove})
		},
	}
	out.flag(cmd)
	return cmd
}

func newNote(server *connection) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:     "note REVISION TEXT",
		Short:   "Write down what is to be known of a revision",
		Long:    `Write down what is to be known of a revision, instead of what was before. An empty text takes it away.`,
		Example: `  sallyport revisions note 12 "the last one before the sale"`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return annotate(cmd, server, &out, args[0], &adminv1.AnnotateRevisionRequest{Note: &args[1]})
		},
	}
	out.flag(cmd)
	return cmd
}

// annotate sends what is said of a revision, and shows the revision as it is then.
func annotate(cmd *cobra.Command, server *connection, out *output, at string, req *adminv1.AnnotateRevisionRequest) (err error) {
	if req.Revision, err = parseRevision(at, 1); err != nil {
		return err
	}
	c, err := server.open(cmd.Context())
	if err != nil {
		return err
	}
	defer c.close()
	res, err := c.config.AnnotateRevision(cmd.Context(), connect.NewRequest(req))
	if err != nil {
		return err
	}
	if done, err := out.message(cmd.OutOrStdout(), res.Msg); done {
		return err
	}
	return printRevisions(cmd.OutOrStdout(), []*adminv1.Revision{res.Msg.GetRevision()})
}
