package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/cmd/sallyport/demo"
	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
)

func newDemo() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run everything on this machine, with real parts, and tell what it does",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("where is this program? %w", err)
			}
			o.Bin, o.Out = filepath.Dir(self), cmd.OutOrStdout()
			return demo.Run(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.Dir, "dir", "", "keep everything in this `folder`, and describe it in its demo.json")
	cmd.Flags().BoolVar(&o.Once, "once", false, "end after the story; fails unless every answer was as told")
	cmd.AddCommand(newDemoToken(), newDemoEnvironment())
	return cmd
}

func newDemoEnvironment() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Print the shell variables with which to use the running demo",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := fleet.Read(dir)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "export SALLYPORT_SERVER=%s\n", d.ControlPlane)
			fmt.Fprintf(out, "export SALLYPORT_CA_FILE=%s\n", d.CAFile)
			fmt.Fprintf(out, "export SALLYPORT_WORKLOAD_SOCKET=%s\n", d.WorkloadSocket)
			for _, p := range d.Proxies {
				fmt.Fprintf(out, "export %s=%s\n", p.Variable(), p.URL)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "the `folder` of the running demo")
	return cmd
}

func newDemoToken() *cobra.Command {
	var dir string
	var req fleet.TokenRequest
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Print a token of the running demo's token issuer",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" || req.Subject == "" || req.Audience == "" {
				return errors.New("give --dir, --subject and --audience")
			}
			token, err := fleet.Token(cmd.Context(), dir, req)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), token)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", "", "the `folder` of the running demo")
	f.StringVar(&req.Subject, "subject", "", "whom the token is about")
	f.StringSliceVar(&req.Groups, "group", nil, "a group of the subject; may be repeated")
	f.StringVar(&req.Audience, "audience", "", "whom the token is for")
	f.DurationVar(&req.ExpiresIn, "expires-in", 0, "how long it is valid, in the past when negative; 5m when 0")
	return cmd
}
