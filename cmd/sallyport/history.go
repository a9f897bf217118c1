package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/structpb"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

func newHistory(server *connection) *cobra.Command {
	var namespace string
	var limit int
	var fields bool
	var out output
	cmd := &cobra.Command{
		Use:   "history KIND NAME",
		Short: "Show who changed a resource and when, newest first",
		Example: `  sallyport history policy reads-orders -n shop
  sallyport history route orders -n shop --diff`,
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := oneKey(namespace, args)
			if err != nil {
				return err
			}
			if limit < 1 {
				return errors.New("--limit is at least 1")
			}
			c, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.close()
			versions, err := c.versions(cmd.Context(), key, limit)
			if err != nil {
				return err
			}
			if done, err := out.message(cmd.OutOrStdout(), &adminv1.ListVersionsResponse{Versions: versions}); done {
				return err
			}
			return printVersions(cmd.OutOrStdout(), versions, fields)
		},
	}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "the namespace of the resource")
	cmd.Flags().IntVar(&limit, "limit", 20, "show at most so many")
	cmd.Flags().BoolVar(&fields, "diff", false, "show what each of them changed")
	out.flag(cmd)
	return cmd
}

// oneKey returns the key that KIND NAME names.
func oneKey(namespace string, args []string) (*adminv1.Key, error) {
	if len(args) != 2 {
		return nil, errors.New("the history of what? give KIND NAME")
	}
	kind, err := kindOf(args[0])
	if err == nil {
		err = checkNamespace(kind, namespace)
	}
	return &adminv1.Key{Kind: string(kind), Namespace: namespace, Name: args[1]}, err
}

// versions returns the newest versions of a resource.
func (c *clients) versions(ctx context.Context, key *adminv1.Key, limit int) ([]*adminv1.ResourceVersion, error) {
	var all []*adminv1.ResourceVersion
	req := &adminv1.ListVersionsRequest{Key: key}
	for {
		req.PageSize = int32(min(limit-len(all), 1000)) //nolint:gosec // bounded
		res, err := c.config.ListVersions(ctx, connect.NewRequest(req))
		if err != nil {
			return nil, err
		}
		all = append(all, res.Msg.GetVersions()...)
		if req.PageToken = res.Msg.GetNextPageToken(); req.GetPageToken() == "" || len(all) >= limit {
			return all, nil
		}
	}
}

func printVersions(w io.Writer, versions []*adminv1.ResourceVersion, fields bool) error {
	row := func(v *adminv1.ResourceVersion) []string {
		return []string{
			strconv.FormatInt(v.GetRevision(), 10), v.GetCommittedAt().AsTime().Format(time.RFC3339),
			typeText(v.GetType()), v.GetCaller(), v.GetMessage(),
		}
	}
	if !fields {
		var rows [][]string
		for _, v := range versions {
			rows = append(rows, row(v))
		}
		return table(w, "REVISION COMMITTED CHANGE CALLER MESSAGE", rows)
	}
	for _, v := range versions {
		if _, err := fmt.Fprintln(w, printable(strings.TrimSpace(strings.Join(row(v), "  ")))); err != nil {
			return err
		}
		if err := printFields(w, v.GetFields(), v.GetMoreFields()); err != nil {
			return err
		}
	}
	return nil
}

func typeText(t adminv1.ChangeType) string {
	if t == adminv1.ChangeType_CHANGE_TYPE_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(word(t.String()))
}

func newDiff(server *connection) *cobra.Command {
	req := &adminv1.DiffRequest{}
	var kind string
	var out output
	cmd := &cobra.Command{
		Use:   "diff [REVISION [REVISION]]",
		Short: "Show what is different between two revisions",
		Long: `Show what is different between two revisions: what the newest one changed, what
has changed since the one that is given, or what made the second of the first.
The first may be the later one.`,
		Example: `  sallyport diff
  sallyport diff 12
  sallyport diff 11 12 -n shop`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := compare(req, kind, args); err != nil {
				return err
			}
			c, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.close()
			res, err := c.diff(cmd.Context(), req)
			if err != nil {
				return err
			}
			if done, err := out.message(cmd.OutOrStdout(), res); done {
				return err
			}
			if len(res.GetResources()) == 0 {
				_, err := fmt.Fprintf(cmd.ErrOrStderr(), "revisions %d and %d hold the same\n", res.GetFrom(), res.GetTo())
				return err
			}
			return printDiffs(cmd.OutOrStdout(), res.GetResources())
		},
	}
	cmd.Flags().StringVar(&kind, "kind", "", "only resources of this `kind`")
	cmd.Flags().StringVarP(&req.Namespace, "namespace", "n", "", "only this namespace")
	out.flag(cmd)
	return cmd
}

// compare takes what to compare from the arguments.
func compare(req *adminv1.DiffRequest, kind string, args []string) error {
	if kind != "" {
		k, err := kindOf(kind)
		if err != nil {
			return err
		}
		req.Kind = string(k)
	}
	for i, arg := range args {
		revision, err := parseRevision(arg, int64(i)) // nothing is before the first revision
		if err != nil {
			return err
		}
		if i == 0 {
			req.From = &revision
			continue
		}
		req.To = revision
	}
	return nil
}

// parseRevision reads the number of a revision, which is not below least.
func parseRevision(arg string, least int64) (int64, error) {
	revision, err := strconv.ParseInt(arg, 10, 64)
	if err != nil || revision < least {
		return 0, fmt.Errorf("%q is not a revision", arg)
	}
	return revision, nil
}

// diff returns all pages of a comparison as one.
func (c *clients) diff(ctx context.Context, req *adminv1.DiffRequest) (*adminv1.DiffResponse, error) {
	all := &adminv1.DiffResponse{}
	req.PageSize = 1000
	for {
		res, err := c.config.Diff(ctx, connect.NewRequest(req))
		if err != nil {
			return nil, err
		}
		all.From, all.To = res.Msg.GetFrom(), res.Msg.GetTo()
		all.Resources = append(all.Resources, res.Msg.GetResources()...)
		if req.PageToken = res.Msg.GetNextPageToken(); req.GetPageToken() == "" {
			return all, nil
		}
		if req.From == nil {
			req.From = &all.From
		}
	}
}

func printDiffs(w io.Writer, all []*adminv1.ResourceDiff) error {
	for _, d := range all {
		if _, err := fmt.Fprintf(w, "%-8s  %s\n", typeText(d.GetType()), keyText(d.GetKey())); err != nil {
			return err
		}
		if err := printFields(w, d.GetFields(), d.GetMoreFields()); err != nil {
			return err
		}
	}
	return nil
}

// printFields shows what was before with a minus, and what is after with a plus.
func printFields(w io.Writer, fields []*adminv1.FieldChange, more int32) error {
	for _, f := range fields {
		for _, side := range []struct {
			sign  string
			value *structpb.Value
		}{{"-", f.GetBefore()}, {"+", f.GetAfter()}} {
			if side.value == nil {
				continue
			}
			text, err := compact(side.value)
			if err != nil {
				return err
			}
			if f.GetShortened() {
				text += " ..."
			}
			if _, err := fmt.Fprintf(w, "  %s %s: %s\n", side.sign, printable(f.GetField()), printable(text)); err != nil {
				return err
			}
		}
	}
	if more > 0 {
		if _, err := fmt.Fprintf(w, "    and %s\n", count(int(more), "more change")); err != nil {
			return err
		}
	}
	return nil
}

// compact returns a value as JSON on one line.
func compact(v *structpb.Value) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v.AsInterface())
	return strings.TrimSuffix(b.String(), "\n"), err
}
