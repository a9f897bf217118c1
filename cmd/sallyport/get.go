package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

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
applied again. Revocations, of which only those are shown that are in force,
and devices have no revision, and are not among all.`,
		Example: `  sallyport get routes -n shop
  sallyport get policy reads-orders -n shop -o yaml
  sallyport get all --revision 12 -o yaml
  sallyport get revocations`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := q.parse(args); err != nil {
				return err
			}
			c, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.close()
			stored, err := q.run(cmd.Context(), c)
			if err != nil {
				return err
			}
			if len(stored) == 0 && q.out == "table" {
				_, err := fmt.Fprintln(cmd.ErrOrStderr(), "there is none")
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
	kind      resource.Kind // every kind when empty
	name      string        // every name when empty
	namespace string
	revision  int64
	out       output
}

func (q *query) parse(args []string) (err error) {
	if len(args) < 1 || len(args) > 2 {
		return errors.New("get what? give KIND, KIND NAME or all")
	}
	if strings.EqualFold(args[0], "all") {
		if len(args) == 2 {
			return errors.New("a name needs a kind")
		}
		return nil
	}
	if q.kind, err = kindOf(args[0]); err != nil || len(args) == 1 {
		return err
	}
	q.name = args[1]
	return checkNamespace(q.kind, q.namespace)
}

// checkNamespace refuses what could name nothing.
func checkNamespace(kind resource.Kind, namespace string) error {
	switch {
	case kind.Namespaced() && namespace == "":
		return fmt.Errorf("a resource of kind %s belongs to a namespace: give -n NAMESPACE", kind)
	case !kind.Namespaced() && namespace != "":
		return fmt.Errorf("a resource of kind %s belongs to no namespace: leave -n out", kind)
	}
	return nil
}

func (q *query) run(ctx context.Context, c *clients) ([]*adminv1.StoredResource, error) {
	if q.name == "" {
		return c.list(ctx, &adminv1.ListRequest{Kind: string(q.kind), Namespace: q.namespace, Revision: q.revision})
	}
	key := &adminv1.Key{Kind: string(q.kind), Namespace: q.namespace, Name: q.name}
	res, err := c.config.Get(ctx, connect.NewRequest(&adminv1.GetRequest{Key: key, Revision: q.revision}))
	if err != nil {
		return nil, err
	}
	return []*adminv1.StoredResource{res.Msg.GetResource()}, nil
}

// list returns all pages of a listing.
func (c *clients) list(ctx context.Context, req *adminv1.ListRequest) ([]*adminv1.StoredResource, error) {
	var all []*adminv1.StoredResource
	req.PageSize = 1000
	for {
		res, err := c.config.List(ctx, connect.NewRequest(req))
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
	switch q.kind {
	case resource.KindRevocation:
		return table(w, "NAME REVOKES ISSUED-BEFORE EXPIRES SEQUENCE REASON", revocationRows(stored))
	case resource.KindDevice:
		return table(w, "NAME OWNER OS COMPLIANT LAST-SEEN EXPIRES SEQUENCE", deviceRows(stored))
	}
	var rows [][]string
	for _, s := range stored {
		m := s.GetResource().GetMetadata()
		rows = append(rows, []string{
			s.GetResource().GetKind(), m.GetNamespace(), m.GetName(),
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
func kindOf(arg string) (resource.Kind, error) {
	var names []string
	for _, kind := range resource.Kinds() {
		singular := strings.ToLower(string(kind))
		plural := singular + "s"
		if stem, ok := strings.CutSuffix(singular, "y"); ok {
			plural = stem + "ies"
		}
		if a := strings.ToLower(arg); a == singular || a == plural {
			return kind, nil
		}
		names = append(names, string(kind))
	}
	return "", fmt.Errorf("no kind is called %q: there are %s", arg, list(names))
}

func list(names []string) string { return strings.Join(names, ", ") }

func keyText(k *adminv1.Key) string {
	return resource.Key{Kind: resource.Kind(k.GetKind()), Namespace: k.GetNamespace(), Name: k.GetName()}.String()
}
