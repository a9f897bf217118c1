package main

import (
	"errors"
	"fmt"
	"io"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

func newVerify(server *connection) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "verify PROXY",
		Short: "Compare every resource that a proxy has compiled with the truth",
		Long: `Ask a proxy for the digest of every resource that it has compiled, and compare
them with what the database has at the revision that the proxy enforces. Says what
is missing, what is too much, and what is different; exits with 1 if anything is.
The proxy has to be connected to the replica that answers.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.close()
			p, err := c.proxy(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			res, err := c.fleet.Verify(cmd.Context(), connect.NewRequest(&adminv1.VerifyRequest{Id: p.GetId()}))
			if err != nil {
				return err
			}
			return showVerified(cmd.OutOrStdout(), &out, p.GetId(), res.Msg)
		},
	}
	out.flag(cmd)
	return server.flags(cmd)
}

var errDeviates = errors.New("what it enforces is not what the database has")

func showVerified(w io.Writer, out *output, id string, m *adminv1.VerifyResponse) error {
	done, err := out.message(w, m)
	switch {
	case err != nil:
		return err
	case len(m.GetDeviations()) > 0 && done:
		return errDeviates
	case done:
		return nil
	case len(m.GetDeviations()) == 0:
		_, err := fmt.Fprintf(w, "%s enforces all %d resources of %s at revision %d, and nothing else\n", printable(id), m.GetDocuments(), m.GetEnvironment(), m.GetRevision())
		return err
	}
	var rows [][]string
	for _, d := range m.GetDeviations() {
		rows = append(rows, []string{word(d.GetType().String()), d.GetKind() + "/" + d.GetNamespace() + "/" + d.GetName(), d.GetRejected()})
	}
	if m.GetCut() {
		rows = append(rows, []string{"and more", "", ""})
	}
	return errors.Join(table(w, "DEVIATION RESOURCE REJECTED", rows), errDeviates)
}
