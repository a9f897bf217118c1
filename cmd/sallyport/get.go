package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

func newGet(server *connection) *cobra.Command {
	var q query
	cmd := &cobra.Command{
		Use:   "get KIND|all [NAME]",
		Short: "Show resources, now or at a revision",
		Long: `Show resources, now or at a revision. What -o yaml and -o json print can be
applied again.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.close()
			stored, err := q.run(cmd, c, args)
			if err != nil {
				return err
			}
			return q.print(cmd.OutOrStdout(), stored)
		},
	}
	cmd.Flags().StringVarP(&q.namespace, "namespace", "n", "", "only this namespace")
	cmd.Flags().Int64Var(&q.revision, "revision", 0, "as of this `revision`; now when 0")
	q.out.flag(cmd)
	return cmd
}

// query is what get was asked for.
type query struct {
	namespace string
	revision  int64
	out       output
}

func (q *query) run(cmd *cobra.Command, c *clients, args []string) ([]*adminv1.StoredResource, error) {
	kind, err := kindOf(args[0])
	if err != nil && args[0] != "all" {
		return nil, err
	}
	if len(args) == 2 {
		if kind == "" {
			return nil, errors.New("a name needs a kind")
		}
		res, err := c.config.Get(cmd.Context(), connect.NewRequest(&adminv1.GetRequest{
			Key: &adminv1.Key{Kind: kind, Namespace: q.namespace, Name: args[1]}, Revision: q.revision,
		}))
		if err != nil {
			return nil, err
		}
		return []*adminv1.StoredResource{res.Msg.GetResource()}, nil
	}
	var all []*adminv1.StoredResource
	req := &adminv1.ListRequest{Kind: kind, Namespace: q.namespace, Revision: q.revision, PageSize: 1000}
	for {
		res, err := c.config.List(cmd.Context(), connect.NewRequest(req))
		if err != nil {
			return nil, err
		}
		all = append(all, res.Msg.GetResources()...)
		if req.PageToken = res.Msg.GetNextPageToken(); req.GetPageToken() == "" {
			return all, nil
		}
	}
}

func (q *query) print(w io.Writer, stored []*adminv1.StoredResource) error {
	switch q.out {
	case "yaml":
		return printYAML(w, stored)
	case "json":
		for _, s := range stored {
			b, err := encode(s.GetResource())
			if err != nil {
				return err
			}
			if _, err := w.Write(b); err != nil {
				return err
			}
		}
		return nil
	}
	var rows [][]string
	for _, s := range stored {
		m := s.GetResource().GetMetadata()
		rows = append(rows, []string{
			s.GetResource().GetKind(), orDash(m.GetNamespace()), m.GetName(),
			strconv.FormatInt(s.GetRevision(), 10), fmt.Sprintf("%.6x", s.GetDigest()),
		})
	}
	return table(w, "KIND NAMESPACE NAME REVISION DIGEST", rows)
}

// printYAML prints documents that can be applied again.
func printYAML(w io.Writer, stored []*adminv1.StoredResource) error {
	for i, s := range stored {
		b, err := encode(s.GetResource())
		if err != nil {
			return err
		}
		if b, err = yaml.JSONToYAML(b); err != nil {
			return err
		}
		if i > 0 {
			b = append([]byte("---\n"), b...)
		}
		if _, err := io.Copy(w, bytes.NewReader(b)); err != nil {
			return err
		}
	}
	return nil
}

// kindOf returns the kind that an argument names: in any case, and in the
// plural.
func kindOf(arg string) (string, error) {
	var names []string
	for _, kind := range resource.Kinds() {
		singular := strings.ToLower(string(kind))
		plural := singular + "s"
		if stem, ok := strings.CutSuffix(singular, "y"); ok {
			plural = stem + "ies"
		}
		if a := strings.ToLower(arg); a == singular || a == plural {
			return string(kind), nil
		}
		names = append(names, string(kind))
	}
	return "", fmt.Errorf("no kind is called %s: there are %s", arg, list(names))
}

func newRevisions(server *connection) *cobra.Command {
	var out output
	var limit int32
	cmd := &cobra.Command{
		Use:   "revisions",
		Short: "Show who changed what and when, newest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.close()
			res, err := c.config.ListRevisions(cmd.Context(), connect.NewRequest(&adminv1.ListRevisionsRequest{PageSize: limit}))
			if err != nil {
				return err
			}
			if done, err := out.message(cmd.OutOrStdout(), res.Msg); done {
				return err
			}
			var rows [][]string
			for _, r := range res.Msg.GetRevisions() {
				rows = append(rows, []string{
					strconv.FormatInt(r.GetRevision(), 10), r.GetCommittedAt().AsTime().Format(time.RFC3339),
					strconv.Itoa(int(r.GetChanges())), orDash(list(r.GetEnvironments())), r.GetCaller(), orDash(r.GetMessage()),
				})
			}
			return table(cmd.OutOrStdout(), "REVISION COMMITTED CHANGES ENVIRONMENTS CALLER MESSAGE", rows)
		},
	}
	cmd.Flags().Int32Var(&limit, "limit", 20, "show at most this many")
	out.flag(cmd)
	return cmd
}

func list(names []string) string { return strings.Join(names, ", ") }

func lower(t adminv1.ChangeType) string { return strings.ToLower(word(t.String())) }

func keyText(k *adminv1.Key) string {
	return resource.Key{Kind: resource.Kind(k.GetKind()), Namespace: k.GetNamespace(), Name: k.GetName()}.String()
}
