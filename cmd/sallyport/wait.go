package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

func newWait(server *connection) *cobra.Command {
	var environments []string
	var timeout time.Duration
	var out output
	cmd := &cobra.Command{
		Use:   "wait REVISION",
		Short: "Wait until every connected proxy proves that it enforces a revision",
		Long: `Wait until every connected proxy proves that it enforces a revision, or one
after it. Exits with 1 and names the laggards when that takes too long.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			revision, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || revision < 1 {
				return fmt.Errorf("%q is not a revision", args[0])
			}
			c, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.close()
			return c.wait(cmd.Context(), cmd.OutOrStdout(), &out, &adminv1.WaitEnforcedRequest{
				Revision: revision, Environments: environments, Timeout: durationpb.New(timeout),
			})
		},
	}
	cmd.Flags().StringSliceVarP(&environments, "environment", "e", nil, "wait for these environments; those that the revision touched when none")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "give up after this time")
	out.flag(cmd)
	return cmd
}

// wait prints progress as it comes. With json or yaml it prints the last
// message only.
func (c *clients) wait(ctx context.Context, w io.Writer, out *output, req *adminv1.WaitEnforcedRequest) error {
	stream, err := c.fleet.WaitEnforced(ctx, connect.NewRequest(req))
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }() // its error is the stream's
	var last *adminv1.WaitEnforcedResponse
	for stream.Receive() {
		last = stream.Msg()
		if *out == "table" {
			if err := printProgress(w, last); err != nil {
				return err
			}
		}
	}
	if last != nil && *out != "table" {
		if _, err := out.message(w, last); err != nil {
			return err
		}
	}
	if err := stream.Err(); err != nil {
		if connect.CodeOf(err) == connect.CodeDeadlineExceeded {
			return fmt.Errorf("revision %d is not enforced everywhere after %s", req.GetRevision(), req.GetTimeout().AsDuration())
		}
		return err
	}
	if !last.GetDone() {
		return errors.New("the control plane ended the wait without an answer")
	}
	return nil
}

func printProgress(w io.Writer, m *adminv1.WaitEnforcedResponse) error {
	for _, e := range m.GetEnvironments() {
		if _, err := fmt.Fprintf(w, "%8s  %s: revision %d is enforced by %d of %d connected proxies\n",
			m.GetElapsed().AsDuration().Round(time.Millisecond), e.GetEnvironment(), e.GetRevision(), e.GetEnforced(), e.GetConnected()); err != nil {
			return err
		}
		for _, l := range e.GetLaggards() {
			if _, err := fmt.Fprintf(w, "          %s %s\n", l.GetId(), l.GetReason()); err != nil {
				return err
			}
		}
	}
	return nil
}
