package main

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/internal/proof"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// maxKey bounds the file of a public key, in bytes.
const maxKey = 64 << 10

func newStatement(server *connection) *cobra.Command {
	req := &adminv1.ExportStatementRequest{}
	var file string
	cmd := &cobra.Command{
		Use:   "statement [REVISION] -e ENVIRONMENT",
		Short: "Write who enforces a revision to a file that proves itself",
		Long: `Write which proxies of an environment enforce a revision, or one after it, to a
file: the newest when none is given. It has what the proxies have signed
themselves, the heads that they speak of, and the control plane's word for whose
keys these are. Whoever has the fleet's root public key can verify it with
"sallyport verify-statement", without the fleet.`,
		Example: `  sallyport fleet statement 4711 -e aws-prod --to change-4711.statement`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if req.GetEnvironment() == "" {
				return errors.New("of which environment? give --environment")
			}
			if len(args) == 1 {
				if req.Revision, err = parseRevision(args[0], 1); err != nil {
					return err
				}
			}
			c, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.close()
			res, err := c.fleet.ExportStatement(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return err
			}
			return writeStatement(cmd.OutOrStdout(), file, req.GetEnvironment(), res.Msg)
		},
	}
	cmd.Flags().StringVarP(&req.Environment, "environment", "e", "", "whose proxies it is about")
	cmd.Flags().StringVar(&file, "to", "", "the `file`; ENVIRONMENT.statement when left out, standard output when -")
	return server.flags(cmd)
}

func writeStatement(w io.Writer, file, environment string, m *adminv1.ExportStatementResponse) error {
	switch file {
	case toOutput:
		_, err := w.Write(m.GetStatement())
		return err
	case "":
		file = environment + ".statement"
	}
	if err := os.WriteFile(file, m.GetStatement(), 0o644); err != nil { //nolint:gosec // it is for whoever wants to see it
		return err
	}
	_, err := fmt.Fprintf(w, "%s has the word of %s; %d of %s have not proven it\n", file, proxiesOf(int(m.GetProxies())), m.GetOthers(), environment)
	return err
}

func newVerifyStatement() *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use:   "verify-statement FILE --root-key FILE",
		Short: "Verify who has enforced a revision, without the fleet",
		Long: `Verify a statement that "sallyport fleet statement" has written, and print what it
proves. Nothing is needed but the fleet's root public key, which proxies pin. Exits
with 1, and prints nothing of it, if anything in it does not verify.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if root == "" {
				return errors.New("whose word counts? give the fleet's root public key as --root-key")
			}
			key, err := readRootKey(root)
			if err != nil {
				return fmt.Errorf("--root-key %s: %w", root, err)
			}
			b, err := readBounded(args[0], proof.MaxBytes)
			if err != nil {
				return err
			}
			s, err := proof.Read(b, key.Verifier())
			if err != nil {
				return fmt.Errorf("%s proves nothing: %w", args[0], err)
			}
			return showStatement(cmd.OutOrStdout(), s)
		},
	}
	cmd.Flags().StringVar(&root, "root-key", "", "PEM `file` with the fleet's root public key")
	return cmd
}

// readBounded returns a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return b, err
}

func readRootKey(path string) (snapshot.PublicKey, error) {
	b, err := readBounded(path, maxKey)
	if err != nil {
		return snapshot.PublicKey{}, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PUBLIC KEY" {
		return snapshot.PublicKey{}, errors.New("want a PUBLIC KEY in PEM")
	}
	return snapshot.ParsePublicKey(block.Bytes)
}

func showStatement(w io.Writer, s *proof.Statement) error {
	by := "the root key"
	if s.Generation > 0 {
		by = fmt.Sprintf("a key of generation %d", s.Generation)
	}
	if _, err := fmt.Fprintf(w, "%s: revision %d (epoch %d) was enforced by %s; %d had not proven it. Exported at %s, signed with %s\n",
		printable(s.Environment), s.Revision, s.Epoch, proxiesOf(len(s.Proxies)), s.Others, s.At.Format(time.RFC3339), by); err != nil {
		return err
	}
	if len(s.Proxies) == 0 {
		return nil
	}
	var rows [][]string
	for _, p := range s.Proxies {
		security := []string{"", ""}
		if p.Security.Revision > 0 {
			security = []string{strconv.FormatInt(int64(p.Security.Revision), 10), p.Security.Since.Format(time.RFC3339)}
		}
		rows = append(rows, append([]string{p.ID, strconv.FormatInt(int64(p.Revision), 10), p.Since.Format(time.RFC3339), p.At.Format(time.RFC3339)}, security...))
	}
	return table(w, "PROXY REVISION SINCE SAID-AT SECURITY SINCE", rows)
}
