package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

func newWait(server *connection) *cobra.Command {
	var environments []string
	var timeout time.Duration
	var sequence int64
	var out output
	cmd := &cobra.Command{
		Use:   "wait REVISION | --security SEQUENCE",
		Short: "Wait until every connected proxy proves that it enforces a revision",
		Long: `Wait until every connected proxy proves that it enforces a revision, or one
after it; with --security, a sequence of the security lane. Exits with 1 and
names the laggards when that takes too long. Of the security lane it also names
proxies that are not connected, and does not wait for them: they are not
reached.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			revision, err := awaited(args, sequence)
			if err != nil {
				return err
			}
			c, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.close()
			return c.wait(cmd.Context(), cmd.OutOrStdout(), &out, &adminv1.WaitEnforcedRequest{
				Revision: revision, SecuritySequence: sequence, Environments: environments, Timeout: durationpb.New(timeout),
			})
		},
	}
	cmd.Flags().StringSliceVarP(&environments, "environment", "e", nil, "wait for these environments; when none, those that the revision touched, or all with --security")
	cmd.Flags().Int64Var(&sequence, "security", 0, "wait for this `sequence` of the security lane")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "give up after this time")
	out.flag(cmd)
	return cmd
}

// awaited returns the revision that the arguments name; 0 with a sequence.
func awaited(args []string, sequence int64) (int64, error) {
	switch {
	case sequence < 0:
		return 0, fmt.Errorf("%d is not a sequence", sequence)
	case sequence > 0 && len(args) > 0:
		return 0, errors.New("wait for what? give the number of a revision or --security, not both")
	case sequence > 0:
		return 0, nil
	case len(args) != 1:
		return 0, errors.New("wait for what? give the number of a revision")
	}
	return parseRevision(args[0], 1)
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
			if err := printProgress(w, last, req.GetSecuritySequence() > 0); err != nil {
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
		text := fmt.Sprintf("revision %d is sent to no environment", req.GetRevision())
		if req.GetSecuritySequence() > 0 {
			text = "there is no environment"
		}
		_, err := fmt.Fprintln(w, text+": there is nothing to wait for")
		return err
	}
	return nil
}

func printProgress(w io.Writer, m *adminv1.WaitEnforcedResponse, security bool) error {
	for _, e := range m.GetEnvironments() {
		what := fmt.Sprintf("revision %d", e.GetRevision())
		if security {
			what = fmt.Sprintf("security sequence %d", e.GetRevision())
		}
		state := fmt.Sprintf("%s is enforced by %d of %d connected proxies", what, e.GetEnforced(), e.GetConnected())
		if e.GetConnected() == 0 {
			state = "no proxy is connected that could enforce " + what
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
