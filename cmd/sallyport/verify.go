package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// verifiedAtOnce is how many proxies are asked for at a time.
const verifiedAtOnce = 8

var (
	errDeviates = errors.New("what it enforces is not what the database has")
	errNobody   = errors.New("no proxy is connected")
)

func newVerify(server *connection) *cobra.Command {
	var out output
	var environment string
	cmd := &cobra.Command{
		Use:   "verify [PROXY]",
		Short: "Compare every resource that proxies have compiled with the truth",
		Long: `Ask a proxy for the digest of every resource that it has compiled, of its
environment and of the security lane, and compare them with what the database has
at the revision and the sequence that the proxy enforces. Says what is missing,
what is too much, and what is different; exits with 1 if anything is. Of a proxy that
is connected to an edge it says which: the answer is then the word of that.

Without PROXY all that are connected are asked, with a line for each; it exits with
1 if anything is not as it should be at any of them, if any could not be asked, or if
none is connected.`,
		Example: `  sallyport fleet verify aws-1
  sallyport fleet verify -e aws-prod`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && environment != "" {
				return errors.New("--environment is for all proxies: leave out PROXY, or it")
			}
			c, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.close()
			if len(args) == 0 {
				return c.verifyAll(cmd, environment, &out)
			}
			p, err := c.proxy(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			m, err := c.verify(cmd.Context(), p)
			if err != nil {
				return err
			}
			return showVerified(cmd.OutOrStdout(), &out, p.GetId(), m)
		},
	}
	cmd.Flags().StringVarP(&environment, "environment", "e", "", "all connected proxies of this environment")
	out.flag(cmd)
	return server.flags(cmd)
}

func (c *clients) verify(ctx context.Context, p *adminv1.Proxy) (*adminv1.VerifyResponse, error) {
	res, err := c.fleet.Verify(ctx, connect.NewRequest(&adminv1.VerifyRequest{Id: p.GetId()}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// verified is what came of a proxy.
type verified struct {
	proxy  *adminv1.Proxy
	result *adminv1.VerifyResponse
	err    error
	done   chan struct{} // closed when the others are set
}

// verifyAll verifies those that are connected, and says what came of each in order, as
// soon as it is known.
func (c *clients) verifyAll(cmd *cobra.Command, environment string, out *output) error {
	proxies, err := c.proxies(cmd.Context(), environment)
	if err != nil {
		return err
	}
	connected := slices.DeleteFunc(proxies, func(p *adminv1.Proxy) bool {
		return p.GetConnection() != adminv1.Connection_CONNECTION_CONNECTED
	})
	if len(connected) == 0 {
		return fmt.Errorf("%w%s", errNobody, in(environment))
	}
	all := make([]*verified, len(connected))
	for i, p := range connected {
		all[i] = &verified{proxy: p, done: make(chan struct{})}
	}
	var g errgroup.Group
	g.SetLimit(verifiedAtOnce + 1)
	g.Go(func() error {
		for _, v := range all {
			g.Go(func() error {
				defer close(v.done)
				v.result, v.err = c.verify(cmd.Context(), v.proxy)
				return nil
			})
		}
		return nil
	})
	err = showAllVerified(cmd, out, all)
	return errors.Join(err, g.Wait())
}

func showAllVerified(cmd *cobra.Command, out *output, all []*verified) error {
	deviating, unknown := 0, 0
	for _, v := range all {
		<-v.done
		var err error
		switch {
		case v.err != nil:
			unknown++
			_, err = fmt.Fprintf(cmd.ErrOrStderr(), "%s could not be verified: %s\n", printable(v.proxy.GetId()), printable(explain(v.err)))
		case len(v.result.GetDeviations()) > 0:
			deviating++
			err = showOneOfAll(cmd.OutOrStdout(), out, v)
		default:
			err = showOneOfAll(cmd.OutOrStdout(), out, v)
		}
		if err != nil {
			return err
		}
	}
	if deviating+unknown > 0 {
		return fmt.Errorf("of %s %d do not enforce what the database has, and %d could not be asked", proxiesOf(len(all)), deviating, unknown)
	}
	return nil
}

func showOneOfAll(w io.Writer, out *output, v *verified) error {
	if done, err := out.message(w, v.result); done {
		return err
	}
	if n := len(v.result.GetDeviations()); n > 0 {
		more := ""
		if v.result.GetCut() {
			more = " and more"
		}
		_, err := fmt.Fprintf(w, "%s deviates in %s%s%s: see `sallyport fleet verify %s`\n",
			printable(v.proxy.GetId()), count(n, "resource"), more, toldBy(v.result), printable(v.proxy.GetId()))
		return err
	}
	return showAsItShould(w, v.proxy.GetId(), v.result)
}

// showAsItShould says that a proxy has no deviations.
func showAsItShould(w io.Writer, id string, m *adminv1.VerifyResponse) error {
	security := fmt.Sprintf("all %d of the security lane at sequence %d", m.GetSecurityDocuments(), m.GetSequence())
	if m.GetSequence() == 0 {
		security = "its build does not tell what it has of the security lane"
	}
	_, err := fmt.Fprintf(w, "%s enforces all %d resources of %s at revision %d, and nothing else; %s%s\n",
		printable(id), m.GetDocuments(), m.GetEnvironment(), m.GetRevision(), security, toldBy(m))
	return err
}

// toldBy says whose word it is if that is not the proxy's.
func toldBy(m *adminv1.VerifyResponse) string {
	if m.GetToldBy() == "" {
		return ""
	}
	return ", as the edge " + printable(m.GetToldBy()) + " tells"
}

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
		return showAsItShould(w, id, m)
	}
	var rows [][]string
	for _, d := range m.GetDeviations() {
		rows = append(rows, []string{word(d.GetType().String()), d.GetKind() + "/" + d.GetNamespace() + "/" + d.GetName(), d.GetRejected()})
	}
	if m.GetCut() {
		rows = append(rows, []string{"and more", "", ""})
	}
	if err := table(w, "DEVIATION RESOURCE REJECTED", rows); err != nil {
		return err
	}
	return fmt.Errorf("%w%s", errDeviates, toldBy(m))
}
