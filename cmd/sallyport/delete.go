package main

import (
	"errors"
	"io"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

func newDelete(server *connection) *cobra.Command {
	var c change
	var namespace string
	cmd := &cobra.Command{
		Use:   "delete KIND NAME... | -f FILE|FOLDER|-",
		Short: "Delete resources, all of them or none, in one revision",
		Long: `Delete resources, all of them or none, in one revision.

Name them by kind and name, or with -f by the files that declare them. What
others need cannot be deleted without these.`,
		Example: `  sallyport delete policy reads-orders -n shop -m "not any more"
  sallyport delete -f resources/shop --dry-run`,
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, resources, err := c.keys(cmd.InOrStdin(), namespace, args)
			if err != nil {
				return err
			}
			clients, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer clients.close()
			return c.delete(cmd, clients, keys, resources)
		},
	}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "the namespace of the resources")
	c.flags(cmd)
	return cmd
}

// keys returns what to delete: what the arguments name, or the files declare.
// Of the latter it returns the resources as well.
func (c *change) keys(stdin io.Reader, namespace string, args []string) ([]*adminv1.Key, []located, error) {
	var keys []*adminv1.Key
	switch {
	case len(args) > 0 && len(c.files) > 0:
		return nil, nil, errors.New("delete what? give KIND NAME... or -f FILE, not both")
	case len(c.files) > 0:
		resources, err := readResources(c.files, stdin)
		for _, r := range resources {
			k := r.key()
			keys = append(keys, &adminv1.Key{Kind: string(k.Kind), Namespace: k.Namespace, Name: k.Name})
		}
		return keys, resources, err
	case len(args) < 2:
		return nil, nil, errors.New("delete what? give KIND NAME... or -f FILE")
	}
	kind, err := kindOf(args[0])
	if err == nil {
		err = checkNamespace(kind, namespace)
	}
	if err != nil {
		return nil, nil, err
	}
	for _, name := range args[1:] {
		keys = append(keys, &adminv1.Key{Kind: string(kind), Namespace: namespace, Name: name})
	}
	return keys, nil, nil
}

func (c *change) delete(cmd *cobra.Command, clients *clients, keys []*adminv1.Key, resources []located) error {
	res, err := clients.config.Delete(cmd.Context(), connect.NewRequest(&adminv1.DeleteRequest{
		Keys: keys, ExpectedRevision: c.expectedRevision(cmd), DryRun: c.dryRun, Message: c.message, AllowRemovals: c.removals,
	}))
	if err != nil {
		return refused(cmd.ErrOrStderr(), err, resources)
	}
	if err := c.print(cmd.OutOrStdout(), res.Msg); err != nil || c.wait == 0 || c.dryRun {
		return err
	}
	return c.await(cmd, clients, res.Msg, res.Msg.GetEnvironments())
}
