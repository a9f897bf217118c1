package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

func newFleet(server *connection) *cobra.Command {
	var environment string
	var out output
	cmd := &cobra.Command{
		Use:   "fleet [PROXY]",
		Short: "Show which proxies there are and what each of them enforces",
		Long: `Show which proxies there are and what each of them enforces.

PROXY is the ID of a proxy, or its instance when only one has that name.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.close()
			proxies, err := c.proxies(cmd, environment)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return showProxy(cmd.OutOrStdout(), &out, proxies, args[0])
			}
			if done, err := out.message(cmd.OutOrStdout(), &adminv1.ListProxiesResponse{Proxies: proxies}); done {
				return err
			}
			if len(proxies) == 0 {
				_, err := fmt.Fprintln(cmd.ErrOrStderr(), "no proxy has registered yet"+in(environment))
				return err
			}
			return table(cmd.OutOrStdout(), "ENVIRONMENT INSTANCE CONNECTION REVISION ENFORCEMENT AGE SECURITY SEEN SPIFFE-ID", fleetRows(proxies, time.Now()))
		},
	}
	cmd.Flags().StringVarP(&environment, "environment", "e", "", "only proxies of this environment")
	out.flag(cmd)
	return cmd
}

// proxies returns the whole listing.
func (c *clients) proxies(cmd *cobra.Command, environment string) ([]*adminv1.Proxy, error) {
	var all []*adminv1.Proxy
	req := &adminv1.ListProxiesRequest{Environment: environment, PageSize: 1000}
	for {
		res, err := c.fleet.ListProxies(cmd.Context(), connect.NewRequest(req))
		if err != nil {
			return nil, err
		}
		all = append(all, res.Msg.GetProxies()...)
		if req.PageToken = res.Msg.GetNextPageToken(); req.GetPageToken() == "" {
			return all, nil
		}
	}
}

func fleetRows(proxies []*adminv1.Proxy, now time.Time) [][]string {
	var rows [][]string
	for _, p := range proxies {
		rows = append(rows, []string{
			p.GetEnvironment(), p.GetInstance(), word(p.GetConnection().String()),
			strconv.FormatInt(p.GetRevision(), 10), enforcement(p.GetEnforcement()),
			age(p.GetConfigurationAge()), enforcement(p.GetSecurity().GetEnforcement()), since(p.GetLastSeenAt(), now), p.GetSpiffeId(),
		})
	}
	return rows
}

func enforcement(e adminv1.Enforcement) string {
	if e == adminv1.Enforcement_ENFORCEMENT_UNSPECIFIED {
		return "-"
	}
	return word(e.String())
}

// word returns the value's own part of an enum's name: CONNECTED.
func word(enum string) string {
	for _, prefix := range []string{"CONNECTION_", "ENFORCEMENT_", "CHANGE_TYPE_"} {
		if w, ok := strings.CutPrefix(enum, prefix); ok {
			return w
		}
	}
	return enum
}

func in(environment string) string {
	if environment == "" {
		return ""
	}
	return " in " + environment
}

func showProxy(w io.Writer, out *output, proxies []*adminv1.Proxy, name string) error {
	var named []*adminv1.Proxy
	var ids []string
	for _, p := range proxies {
		if p.GetId() == name || p.GetInstance() == name {
			named, ids = append(named, p), append(ids, p.GetId())
		}
	}
	switch len(named) {
	case 0:
		return fmt.Errorf("no proxy is called %s", name)
	case 1:
	default:
		return fmt.Errorf("several proxies are called %s, say which: %s", name, list(ids))
	}
	if done, err := out.message(w, named[0]); done {
		return err
	}
	return printProxy(w, named[0])
}

func printProxy(w io.Writer, p *adminv1.Proxy) error {
	rows := [][]string{
		{"ID", p.GetId()},
		{"Environment", p.GetEnvironment()},
		{"Connection", word(p.GetConnection().String())},
		{"Enforcement", enforcement(p.GetEnforcement())},
		{"Revision", fmt.Sprintf("%d (on disk %d, epoch %d)", p.GetRevision(), p.GetPersistedRevision(), p.GetEpoch())},
		{"Received root", fmt.Sprintf("%x", p.GetReceivedRoot())},
		{"Enforced root", fmt.Sprintf("%x", p.GetEnforcedRoot())},
		{"Configuration age", age(p.GetConfigurationAge())},
		{"Clock skew", skew(p.GetClockSkew())},
		{"Identity expires", moment(p.GetIdentityExpiresAt())},
		{"Build", fmt.Sprintf("%s (protocol %d)", p.GetBuild(), p.GetProtocolVersion())},
		{"Refused", p.GetRefusal()},
		{"Records dropped", strconv.FormatInt(p.GetRecordsDropped(), 10)},
		{"Security lane", enforcement(p.GetSecurity().GetEnforcement())},
		{"Security sequence", fmt.Sprintf("%d (on disk %d)", p.GetSecurity().GetSequence(), p.GetSecurity().GetPersistedSequence())},
		{"Security age", age(p.GetSecurity().GetAge())},
		{"Security refused", p.GetSecurity().GetRefusal()},
	}
	for _, l := range p.GetListeners() {
		rows = append(rows, []string{"Listener " + l.GetNamespace() + "/" + l.GetName(), orDash(l.GetAddress()) + " " + l.GetError()})
	}
	for _, r := range slices.Concat(p.GetRejects(), p.GetSecurity().GetRejects()) {
		rows = append(rows, []string{"Rejected", fmt.Sprintf("%s/%s/%s: %s", r.GetKind(), r.GetNamespace(), r.GetName(), r.GetReason())})
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintf(tw, "%s:\t%s\n", row[0], orDash(printable(strings.TrimSpace(row[1]))))
	}
	return tw.Flush()
}

func skew(d *durationpb.Duration) string {
	if d == nil {
		return "-"
	}
	return d.AsDuration().Round(time.Millisecond).String()
}
