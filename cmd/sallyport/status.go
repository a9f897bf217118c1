package main

import (
	"fmt"
	"io"
	"strconv"
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
		Short: "Show who enforces a revision since when, and who does not and why",
		Long: `Show how far a revision has come, the newest when none is given: which proxies
have proven that they enforce it, or one after it, and since when by their own
clocks; which are late, and why; which are not connected, so that nothing is known
of them; and which are kept out. SECURITY is up to which sequence of the security
lane each has proven last that it cuts off whom it has to, whatever revision it is
at. "*" marks what a proxy has signed.`,
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
	if len(rows) == 0 {
		return nil
	}
	return table(w, "ENVIRONMENT PROXY PROGRESS REVISION SINCE SECURITY REASON", rows)
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
