package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// toOutput is the name of a file that stands for standard output.
const toOutput = "-"

func newBundle(server *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bundle",
		Short: "Export what a proxy begins with that reaches no control plane",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newBundleExport(server))
	return cmd
}

func newBundleExport(server *connection) *cobra.Command {
	var environment, file string
	cmd := &cobra.Command{
		Use:   "export -e ENVIRONMENT",
		Short: "Write what is in force in an environment to a file that proves itself",
		Long: `Write what is in force in an environment, and what is revoked, to a file.

A new proxy whose settings name it as bundle begins with it while it reaches no
control plane. The file is signed as what proxies are sent, and holds no secret:
whoever hands it on can change nothing of it, but can hand on an old one. The
proxy's ages count from when what is in it was last confirmed.`,
		Example: `  sallyport bundle export -e aws-prod --to aws-prod.bundle`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if environment == "" {
				return errors.New("of which environment? give --environment")
			}
			if file == "" {
				file = environment + ".bundle"
			}
			c, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.close()
			if file == toOutput {
				_, _, err := c.export(cmd.Context(), cmd.OutOrStdout(), environment)
				return err
			}
			return c.exportTo(cmd.Context(), cmd.OutOrStdout(), environment, file)
		},
	}
	cmd.Flags().StringVarP(&environment, "environment", "e", "", "whose snapshot it has")
	cmd.Flags().StringVar(&file, "to", "", "the `file`; ENVIRONMENT.bundle when left out, standard output when -")
	return cmd
}

// exportTo writes a file that is whole or not there, and says what is in it.
func (c *clients) exportTo(ctx context.Context, w io.Writer, environment, file string) error {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return err
	}
	about, size, err := c.export(ctx, f, environment)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	confirmed := "never confirmed"
	if at := about.GetConfirmedAt(); at != nil {
		confirmed = "confirmed at " + at.AsTime().Format(time.RFC3339)
	}
	_, err = fmt.Fprintf(w, "%s has %s at revision %d, and revocations at sequence %d, %s (%s)\n",
		file, environment, about.GetRevision(), about.GetSecuritySequence(), confirmed, bytesOf(size))
	return err
}

// export writes the file, and returns what is in it and its size.
func (c *clients) export(ctx context.Context, w io.Writer, environment string) (*adminv1.Exported, int64, error) {
	stream, err := c.bundles.Export(ctx, connect.NewRequest(&adminv1.ExportRequest{Environment: environment}))
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = stream.Close() }() // its error is the stream's
	var about *adminv1.Exported
	var size int64
	for stream.Receive() {
		if a := stream.Msg().GetAbout(); a != nil {
			about = a
		}
		n, err := w.Write(stream.Msg().GetData())
		if err != nil {
			return nil, 0, err
		}
		size += int64(n)
	}
	return about, size, stream.Err()
}

func bytesOf(n int64) string {
	if n < 1<<20 {
		return strconv.FormatInt((n+1023)>>10, 10) + " KiB"
	}
	return strconv.FormatInt(n>>20, 10) + " MiB"
}
