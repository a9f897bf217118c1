package main

import (
	"context"
	"errors"
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

// roster is which proxies are shown, and how.
type roster struct {
	environment string
	labels      map[string]string
	by          string
	wide        bool
	out         output
}

func newFleet(server *connection) *cobra.Command {
	var r roster
	cmd := &cobra.Command{
		Use:   "fleet [PROXY]",
		Short: "Show which proxies there are and what each of them enforces, and rule on them",
		Long: `Show which proxies there are and what each of them enforces.

PROXY is the ID of a proxy, or its instance when only one has that name. Its
subcommands rule on proxies; what they do is in the audit.`,
		Example: `  sallyport fleet --wide -l tier=gold
  sallyport fleet --by region
  sallyport fleet approve spiffe://prod.example/proxy/aws --reason "rack 7 is up"
  sallyport fleet quarantine aws-1 --reason "odd traffic, see the incident"`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return r.run(cmd, server, args) },
	}
	f := cmd.Flags()
	f.StringVarP(&r.environment, "environment", "e", "", "only proxies of this environment")
	f.StringToStringVarP(&r.labels, "label", "l", nil, "only proxies with these labels, as `KEY=VALUE`")
	f.Lookup("label").DefValue = "" // which reads better than []
	f.StringVar(&r.by, "by", "", "count by this `label`, or by environment, cloud, region or build")
	f.BoolVar(&r.wide, "wide", false, "show where each is, and what it has to do")
	r.out.flag(cmd)
	cmd.AddCommand(newShow(server), newStatus(server), newStatement(server), newVerify(server))
	cmd.AddCommand(rulings(server)...)
	return cmd
}

func newShow(server *connection) *cobra.Command {
	var r roster
	cmd := &cobra.Command{
		Use:   "show PROXY",
		Short: "Show all about one proxy",
		Args:  cobra.ExactArgs(1),
		RunE:  func(cmd *cobra.Command, args []string) error { return r.run(cmd, server, args) },
	}
	r.out.flag(cmd)
	return server.flags(cmd)
}

func (r *roster) run(cmd *cobra.Command, server *connection, args []string) error {
	if r.by != "" && (r.out != "table" || len(args) > 0) {
		return errors.New("--by counts proxies in a table: leave out -o and PROXY")
	}
	c, err := server.open(cmd.Context())
	if err != nil {
		return err
	}
	defer c.close()
	proxies, err := c.proxies(cmd.Context(), r.environment)
	if err != nil {
		return err
	}
	if len(args) == 1 {
		p, err := findProxy(proxies, args[0])
		if err != nil {
			return err
		}
		return showProxy(cmd.OutOrStdout(), &r.out, p)
	}
	return r.show(cmd, slices.DeleteFunc(proxies, func(p *adminv1.Proxy) bool { return !r.selects(p) }))
}

// selects reports whether a proxy has the labels that were asked for.
func (r *roster) selects(p *adminv1.Proxy) bool {
	for key, value := range r.labels {
		if got, ok := labelOf(p, key); !ok || got != value {
			return false
		}
	}
	return true
}

func (r *roster) show(cmd *cobra.Command, proxies []*adminv1.Proxy) error {
	w := cmd.OutOrStdout()
	if done, err := r.out.message(w, &adminv1.ListProxiesResponse{Proxies: proxies}); done {
		return err
	}
	switch {
	case len(proxies) == 0 && len(r.labels) > 0:
		_, err := fmt.Fprintln(cmd.ErrOrStderr(), "no proxy has these labels"+in(r.environment))
		return err
	case len(proxies) == 0:
		_, err := fmt.Fprintln(cmd.ErrOrStderr(), "no proxy has registered yet"+in(r.environment))
		return err
	case r.by != "":
		return table(w, strings.ToUpper(r.by)+" PROXIES CONNECTED REVISIONS LATE REJECTS DRIFT LOST OUT", groupRows(proxies, r.by))
	case r.wide:
		return table(w, "ENVIRONMENT INSTANCE STATE CLOUD REGION BUILD UPTIME REQUESTS/S OPEN CPU EXPIRES SKEW LABELS", wideRows(proxies, time.Now()))
	}
	return table(w, "ENVIRONMENT INSTANCE STATE REVISION ENFORCEMENT AGE SECURITY SEEN SPIFFE-ID", fleetRows(proxies, time.Now()))
}

// proxies returns the whole listing.
func (c *clients) proxies(ctx context.Context, environment string) ([]*adminv1.Proxy, error) {
	var all []*adminv1.Proxy
	req := &adminv1.ListProxiesRequest{Environment: environment, PageSize: 1000}
	for {
		res, err := c.fleet.ListProxies(ctx, connect.NewRequest(req))
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
			p.GetEnvironment(), p.GetInstance(), state(p),
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
	for _, prefix := range []string{"CONNECTION_", "ENFORCEMENT_", "CHANGE_TYPE_", "STANDING_", "PROGRESS_", "DEVIATION_TYPE_"} {
		if w, ok := strings.CutPrefix(enum, prefix); ok {
			enum = w
		}
	}
	if enum == "UNSPECIFIED" {
		return ""
	}
	return enum
}

func in(environment string) string {
	if environment == "" {
		return ""
	}
	return " in " + environment
}

// findProxy returns the one proxy with an ID or an instance.
func findProxy(proxies []*adminv1.Proxy, name string) (*adminv1.Proxy, error) {
	var found []*adminv1.Proxy
	var ids []string
	for _, p := range proxies {
		if p.GetId() == name || p.GetInstance() == name {
			found, ids = append(found, p), append(ids, p.GetId())
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("no proxy is called %s", name)
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("several proxies are called %s, say which: %s", name, list(ids))
}

func showProxy(w io.Writer, out *output, p *adminv1.Proxy) error {
	if done, err := out.message(w, p); done {
		return err
	}
	return printProxy(w, p)
}

func printProxy(w io.Writer, p *adminv1.Proxy) error {
	rows := [][]string{
		{"ID", p.GetId()},
		{"Environment", p.GetEnvironment()},
		{"State", state(p)},
		{"Connection", word(p.GetConnection().String())},
		{"Connected to", p.GetReplica()},
		{"Standing", ruledBy(word(p.GetStanding().String()), p.GetStandingRuling())},
		{"Drain", ruledBy(drain(p), p.GetDrainRuling())},
		{"Enforcement", enforcement(p.GetEnforcement())},
		{"Revision", fmt.Sprintf("%d (on disk %d, epoch %d; the environment is at %d)", p.GetRevision(), p.GetPersistedRevision(), p.GetEpoch(), p.GetEnvironmentRevision())},
		{"Received root", fmt.Sprintf("%x", p.GetReceivedRoot())},
		{"Enforced root", fmt.Sprintf("%x", p.GetEnforcedRoot())},
		{"Configuration age", age(p.GetConfigurationAge())},
		{"Clock skew", skew(p.GetClockSkew())},
		{"Identity expires", moment(p.GetIdentityExpiresAt())},
		{"Build", fmt.Sprintf("%s (protocol %d)", p.GetBuild(), p.GetProtocolVersion())},
		{"Key not proven", p.GetAckKeyDoubt()},
		{"Lacks", strings.Join(p.GetLacks(), ", ")},
		{"Up since", moment(p.GetStartedAt())},
		{"Place", placeOf(p.GetPlace())},
		{"Labels", labelled(p.GetLabels())},
		{"Operators' labels", labelled(p.GetOperatorLabels())},
		{"Load", loadOf(p.GetLoad())},
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
