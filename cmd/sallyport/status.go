package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

func newStatus(server *connection) *cobra.Command {
	var environments []string
	var out output
	cmd := &cobra.Command{
		Use:   "status [REVISION]",
		Short: "Show who enforces a revision, who does not and why, and what is published where",
		Long: `Show how far a revision has come, the newest when none is given: which proxies
have proven that they enforce it, or one after it, and since when by their own
clocks; which are late, and why; which are not connected, so that nothing is known
of them; and which are kept out. SECURITY is up to which sequence of the security
lane each has proven last that it cuts off whom it has to, whatever revision it is
at. "*" marks what a proxy has signed.

Then it shows how far publishing is: which revision of each environment, and which
sequence of the security lane, each etcd has that snapshots are published to, since
when it lacks what was committed, and since when publishing there fails, and why.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &adminv1.StatusRequest{Environments: environments}
			if len(args) == 1 {
				revision, err := parseRevision(args[0], 1)
				if err != nil {
					return err
				}
				req.Revision = revision
			}
			c, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.close()
			res, err := c.fleet.Status(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return err
			}
			return showStatus(cmd.OutOrStdout(), &out, res.Msg)
		},
	}
	cmd.Flags().StringSliceVarP(&environments, "environment", "e", nil, "only these environments")
	out.flag(cmd)
	return server.flags(cmd)
}

func showStatus(w io.Writer, out *output, m *adminv1.StatusResponse) error {
	if done, err := out.message(w, m); done {
		return err
	}
	var rows [][]string
	for _, e := range m.GetEnvironments() {
		all := e.GetEnforcing() + e.GetLate() + e.GetAway() + e.GetKeptOut()
		if _, err := fmt.Fprintf(w, "%s: revision %d is enforced by %d of %s (%d late, %d away, %d kept out)\n",
			e.GetEnvironment(), e.GetRevision(), e.GetEnforcing(), proxiesOf(int(all)), e.GetLate(), e.GetAway(), e.GetKeptOut()); err != nil {
			return err
		}
		for _, p := range e.GetProxies() {
			rows = append(rows, []string{
				e.GetEnvironment(), p.GetId(), word(p.GetProgress().String()), strconv.FormatInt(p.GetRevision(), 10), sinceWhen(p), cutsOff(p), p.GetReason(),
			})
		}
		if more := int(all) - len(e.GetProxies()); more > 0 {
			rows = append(rows, []string{e.GetEnvironment(), fmt.Sprintf("and %d more", more), "", "", "", "", ""})
		}
	}
	if len(rows) > 0 {
		if err := table(w, "ENVIRONMENT PROXY PROGRESS REVISION SINCE SECURITY REASON", rows); err != nil {
			return err
		}
	}
	return showTargets(w, m)
}

// showTargets prints how far publishing is.
func showTargets(w io.Writer, m *adminv1.StatusResponse) error {
	if t := m.GetTrouble(); t != nil {
		if _, err := fmt.Fprintf(w, "nothing new is published %s: %s\n", failsSince(t), printable(t.GetError())); err != nil {
			return err
		}
	}
	rows := make([][]string, len(m.GetTargets()))
	for i, t := range m.GetTargets() {
		rows[i] = []string{t.GetName(), publishedAt(t), lacking(t), failsSince(t.GetTrouble()), t.GetTrouble().GetError()}
	}
	if len(rows) == 0 {
		return nil // a control plane of before does not tell
	}
	return table(w, "TARGET PUBLISHED LACKS FAILING ERROR", rows)
}

// publishedAt is which revisions a target has.
func publishedAt(t *adminv1.TargetStatus) string {
	all := make([]string, len(t.GetPublished()))
	for i, p := range t.GetPublished() {
		all[i] = fmt.Sprintf("%s %d", p.GetEnvironment(), p.GetRevision())
		if p.GetRevision() < p.GetNewest() {
			all[i] += fmt.Sprintf(" of %d", p.GetNewest())
		}
	}
	return strings.Join(all, ", ")
}

// lacking is how much a target lacks, and since when.
func lacking(t *adminv1.TargetStatus) string {
	if t.GetLacks() == 0 {
		return ""
	}
	return fmt.Sprintf("%d since %s", t.GetLacks(), t.GetLacksSince().AsTime().Format(time.RFC3339))
}

func failsSince(t *adminv1.PublishingTrouble) string {
	if t == nil {
		return ""
	}
	return "since " + t.GetSince().AsTime().Format(time.RFC3339)
}

func proxiesOf(n int) string {
	if n == 1 {
		return "1 proxy"
	}
	return fmt.Sprintf("%d proxies", n)
}

// sinceWhen is since when a proxy enforces a revision.
func sinceWhen(p *adminv1.ProxyStatus) string {
	if p.GetSince() == nil {
		return ""
	}
	text := p.GetSince().AsTime().Format(time.RFC3339)
	if p.GetOrBefore() {
		text += " or before"
	}
	if p.GetSigned() {
		text += " *"
	}
	return text
}

// cutsOff is what a proxy has proven of the security lane.
func cutsOff(p *adminv1.ProxyStatus) string {
	if p.GetSecuritySequence() == 0 {
		return ""
	}
	text := fmt.Sprintf("%d since %s", p.GetSecuritySequence(), p.GetSecuritySince().AsTime().Format(time.RFC3339))
	if p.GetSecuritySigned() {
		text += " *"
	}
	return text
}
