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
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("wait for what? give the number of a revision")
			}
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
		return err
	}
	switch {
	case !last.GetDone():
		return errors.New("the control plane ended the wait without an answer: ask again")
	case len(last.GetEnvironments()) == 0 && *out == "table":
		_, err := fmt.Fprintf(w, "revision %d is sent to no environment: there is nothing to wait for\n", req.GetRevision())
		return err
	}
	return nil
}

func printProgress(w io.Writer, m *adminv1.WaitEnforcedResponse) error {
	for _, e := range m.GetEnvironments() {
		state := fmt.Sprintf("revision %d is enforced by %d of %d connected proxies", e.GetRevision(), e.GetEnforced(), e.GetConnected())
		if e.GetConnected() == 0 {
			state = fmt.Sprintf("no proxy is connected that could enforce revision %d", e.GetRevision())
		}
		if _, err := fmt.Fprintf(w, "%8s  %s: %s\n", m.GetElapsed().AsDuration().Round(time.Millisecond), e.GetEnvironment(), state); err != nil {
			return err
		}
		for _, l := range e.GetLaggards() {
			if _, err := fmt.Fprintf(w, "          %s %s\n", printable(l.GetId()), printable(l.GetReason())); err != nil {
				return err
			}
		}
	}
	return nil
}
