package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

const (
	// ruleWithin is how long a command waits to see that what was ruled has come
	// to pass, and ruleEvery how often it looks.
	ruleWithin = 5 * time.Second
	ruleEvery  = 100 * time.Millisecond
)

// ruling is what the subcommands of fleet that rule on proxies have in common.
type ruling struct {
	reason string
	// rule rules, and says so.
	rule func(ctx context.Context, c *clients, name, reason string) (told string, err error)
}

// rulings returns the subcommands that rule on proxies.
func rulings(server *connection) []*cobra.Command {
	of := func(use, short, long string, rule func(context.Context, *clients, string, string) (string, error)) *cobra.Command {
		r := ruling{rule: rule}
		cmd := &cobra.Command{
			Use: use, Short: short, Long: long, Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error { return r.run(cmd, server, args[0]) },
		}
		cmd.Flags().StringVar(&r.reason, "reason", "", "why (`text`), for the audit and the listing")
		return server.flags(cmd)
	}
	return []*cobra.Command{
		of("approve SPIFFE-ID|PROXY", "Admit proxies that wait for approval, or were refused", `Admit the proxies of a SPIFFE ID that an Enrollment with "approval: MANUAL"
matches, or that were refused. It may be approved before any of them is there.`, approve),
		of("refuse SPIFFE-ID|PROXY", "Keep proxies out until they are approved", `Keep the proxies of a SPIFFE ID out until it is approved, whatever Enrollments
say. Those that are connected are cut off, and go on with what they have.`, refuse),
		of("quarantine SPIFFE-ID|PROXY", "Cut proxies off at once", `Cut off all proxies of a SPIFFE ID at once, and listen to none of them until it is
released: an instance is only what a process calls itself. They go on with what
they have, by the staleness rule of their environment. Revoke the SPIFFE ID where
it is issued as well, and take them out of service.`, quarantine),
		of("release SPIFFE-ID|PROXY", "End a quarantine", "", release),
		of("drain PROXY", "Have load balancers leave a proxy out", `Have load balancers leave a proxy out: its /readyz says that it is not ready, and
it goes on to serve whoever comes. It holds until undrain.`, drainProxy),
		of("undrain PROXY", "Have load balancers send to a proxy again", "", undrainProxy),
		of("forget PROXY", "Delete what is known of a proxy that is gone", `Delete what is known of a proxy that is gone, and the approval of its SPIFFE ID
if no other proxy has that. It may register anew.`, forget),
		newProxyLabel(server),
	}
}

func (r *ruling) run(cmd *cobra.Command, server *connection, name string) error {
	c, err := server.open(cmd.Context())
	if err != nil {
		return err
	}
	defer c.close()
	told, err := r.rule(cmd.Context(), c, name, r.reason)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), told)
	return err
}

// identity returns the SPIFFE ID that a name stands for.
func (c *clients) identity(ctx context.Context, name string) (string, error) {
	if strings.HasPrefix(name, "spiffe://") && !strings.Contains(name, "#") {
		return name, nil
	}
	p, err := c.proxy(ctx, name)
	return p.GetSpiffeId(), err
}

// proxy returns the proxy that a name stands for.
func (c *clients) proxy(ctx context.Context, name string) (*adminv1.Proxy, error) {
	if strings.HasPrefix(name, "spiffe://") && !strings.Contains(name, "#") {
		return nil, fmt.Errorf("%s may be several proxies: give the ID of one, as %s#INSTANCE", name, name)
	}
	proxies, err := c.proxies(ctx, "")
	if err != nil {
		return nil, err
	}
	return findProxy(proxies, name)
}

func approve(ctx context.Context, c *clients, name, reason string) (string, error) {
	id, err := c.identity(ctx, name)
	if err != nil {
		return "", err
	}
	res, err := c.fleet.Approve(ctx, connect.NewRequest(&adminv1.ApproveRequest{SpiffeId: id, Reason: reason}))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s is approved: %s", id, knownOf(res.Msg.GetProxies())), nil
}

func release(ctx context.Context, c *clients, name, reason string) (string, error) {
	id, err := c.identity(ctx, name)
	if err != nil {
		return "", err
	}
	res, err := c.fleet.Release(ctx, connect.NewRequest(&adminv1.ReleaseRequest{SpiffeId: id, Reason: reason}))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s is released: %s; those that run come back within seconds", id, knownOf(res.Msg.GetProxies())), nil
}

func knownOf(n int32) string {
	switch n {
	case 0:
		return "no proxy of it is known yet"
	case 1:
		return "1 proxy of it is known"
	}
	return fmt.Sprintf("%d proxies of it are known", n)
}

func refuse(ctx context.Context, c *clients, name, reason string) (string, error) {
	return c.cutOff(ctx, name, "refused", func(id string) error {
		_, err := c.fleet.Refuse(ctx, connect.NewRequest(&adminv1.RefuseRequest{SpiffeId: id, Reason: reason}))
		return err
	})
}

func quarantine(ctx context.Context, c *clients, name, reason string) (string, error) {
	return c.cutOff(ctx, name, "quarantined", func(id string) error {
		_, err := c.fleet.Quarantine(ctx, connect.NewRequest(&adminv1.QuarantineRequest{SpiffeId: id, Reason: reason}))
		return err
	})
}

// cutOff rules, and waits until no proxy of the SPIFFE ID is connected any more.
func (c *clients) cutOff(ctx context.Context, name, what string, rule func(id string) error) (string, error) {
	id, err := c.identity(ctx, name)
	if err != nil {
		return "", err
	}
	if err := rule(id); err != nil {
		return "", err
	}
	var of, left []string
	err = eventually(ctx, func() (bool, error) {
		proxies, err := c.proxies(ctx, "")
		of, left = nil, nil
		for _, p := range proxies {
			if p.GetSpiffeId() == id {
				of = append(of, p.GetInstance())
				if connected(p) {
					left = append(left, p.GetInstance())
				}
			}
		}
		return len(left) == 0, err
	})
	switch {
	case errors.Is(err, errNotYet):
		return "", fmt.Errorf("%s is %s, but some of it are connected still (%s): is their replica of the control plane cut off from the database?", id, what, list(left))
	case err != nil:
		return "", err
	case len(of) == 0:
		return fmt.Sprintf("%s is %s: no proxy of it is known", id, what), nil
	}
	return fmt.Sprintf("%s is %s, and not connected any more: %s\nWhat runs goes on with what it has: revoke the SPIFFE ID where it is issued as well", id, what, list(of)), nil
}

var errNotYet = errors.New("it has not come to pass")

// eventually asks until the answer is yes; errNotYet after ruleWithin.
func eventually(ctx context.Context, ok func() (bool, error)) error {
	late := time.After(ruleWithin)
	for {
		if done, err := ok(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-late:
			return errNotYet
		case <-time.After(ruleEvery):
		}
	}
}

func drainProxy(ctx context.Context, c *clients, name, reason string) (string, error) {
	return c.drain(ctx, name, true, func(id string) error {
		_, err := c.fleet.Drain(ctx, connect.NewRequest(&adminv1.DrainRequest{Id: id, Reason: reason}))
		return err
	})
}

func undrainProxy(ctx context.Context, c *clients, name, reason string) (string, error) {
	return c.drain(ctx, name, false, func(id string) error {
		_, err := c.fleet.Undrain(ctx, connect.NewRequest(&adminv1.UndrainRequest{Id: id, Reason: reason}))
		return err
	})
}

// drain rules, and waits until a proxy that is connected says that it has heard.
func (c *clients) drain(ctx context.Context, name string, to bool, rule func(id string) error) (string, error) {
	p, err := c.proxy(ctx, name)
	if err != nil {
		return "", err
	}
	if err := rule(p.GetId()); err != nil {
		return "", err
	}
	what := map[bool]string{true: "is not ready for load balancers any more, and serves whoever comes", false: "is as ready for load balancers as before"}[to]
	if !connected(p) {
		return fmt.Sprintf("%s is not connected: it is told when it is", p.GetId()), nil
	}
	err = eventually(ctx, func() (bool, error) {
		res, err := c.fleet.GetProxy(ctx, connect.NewRequest(&adminv1.GetProxyRequest{Id: p.GetId()}))
		if err != nil {
			return false, err
		}
		return res.Msg.GetProxy().GetDraining() == to, nil
	})
	switch {
	case errors.Is(err, errNotYet):
		return "", fmt.Errorf("%s was told, and has not said that it has heard: its build may be too old", p.GetId())
	case err != nil:
		return "", err
	}
	return fmt.Sprintf("%s %s", p.GetId(), what), nil
}

func forget(ctx context.Context, c *clients, name, reason string) (string, error) {
	p, err := c.proxy(ctx, name)
	if err != nil {
		return "", err
	}
	if _, err := c.fleet.Forget(ctx, connect.NewRequest(&adminv1.ForgetRequest{Id: p.GetId(), Reason: reason})); err != nil {
		return "", err
	}
	return p.GetId() + " is forgotten", nil
}

func newProxyLabel(server *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "label PROXY KEY=VALUE|KEY- ...",
		Short: "Set and remove operators' labels of a proxy",
		Long: `Set operators' labels of a proxy, and remove those that end with "-". They go
before the labels of its Enrollment in listings, where --label selects and --by
counts; cloud and region say where it is. Nothing is decided by them.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, remove, err := parseLabels(args[1:], true)
			if err != nil {
				return err
			}
			c, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.close()
			p, err := c.proxy(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			req := &adminv1.SetLabelsRequest{Id: p.GetId(), Labels: set, Remove: remove}
			res, err := c.fleet.SetLabels(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s has %s\n", p.GetId(), orDash(labelled(res.Msg.GetLabels())))
			return err
		},
	}
	return server.flags(cmd)
}
