package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

// recordAgain is how often a record is asked for that may be on its way.
const recordAgain = 100 * time.Millisecond

func newExplain(server *connection) *cobra.Command {
	var wait time.Duration
	var out output
	cmd := &cobra.Command{
		Use:   "explain ID",
		Short: "Say why a request was allowed or denied, and what would have changed it",
		Long: `Say why a request was allowed or denied, and what would have changed it.

The ID is in the answer's Sallyport-Decision-Id, and in the body of a denial. What
was recorded is asked again at the revision by which it was decided.`,
		Example: `  sallyport explain 01935a1c-7d43-7b1c-9d1e-2f6a3c4b5d6e`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.close()
			res, err := explained(cmd.Context(), c, args[0], wait)
			if err != nil {
				return err
			}
			if done, err := out.message(cmd.OutOrStdout(), res); done {
				return err
			}
			_, err = io.WriteString(cmd.OutOrStdout(), account(res))
			return err
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", 2*time.Second, "how long to wait for a record that may be on its way")
	out.flag(cmd)
	return cmd
}

// explained asks for an explanation until there is one, or it has waited enough.
func explained(ctx context.Context, c *clients, id string, wait time.Duration) (*adminv1.ExplainResponse, error) {
	enough := time.NewTimer(wait)
	defer enough.Stop()
	ticker := time.NewTicker(recordAgain)
	defer ticker.Stop()
	for {
		res, err := c.policies.Explain(ctx, connect.NewRequest(&adminv1.ExplainRequest{Id: id}))
		if err == nil {
			return res.Msg, nil
		}
		if connect.CodeOf(err) != connect.CodeNotFound {
			return nil, err
		}
		select {
		case <-enough.C:
			return nil, err
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-ticker.C:
		}
	}
}

// account is an explanation as people read it.
func account(res *adminv1.ExplainResponse) string {
	d, a := res.GetDecision(), res.GetAnswer()
	var t telling
	t.headline(d.GetAllow(), d.GetStatus(), d.GetReason())
	t.fact("decision", d.GetId())
	t.fact("who", who(d.GetPrincipal()))
	for _, other := range d.GetBeside() {
		t.fact("beside", who(other))
	}
	t.fact("asked", asked(d.GetRequest()))
	t.fact("when", d.GetTime().AsTime().Format("2006-01-02T15:04:05.000Z"))
	t.fact("from", from(d.GetSignals()))
	t.fact("device", device(d.GetSignals().GetDevice(), d.GetTime().AsTime()))
	t.fact("denied before", deniedBefore(d.GetSignals().GetDenials()))
	t.fact("at", joined(", ", "environment "+d.GetEnvironment(), named("listener ", d.GetListener()), named("proxy ", d.GetProxy())))
	t.fact("confirmed", confirmed(d.GetSignals()))
	t.fact("route", d.GetRoute())
	t.fact("accepts", strings.Join(a.GetAccepts(), ", "))
	t.fact("rule", d.GetPolicy())
	t.fact("revision", strconv.FormatInt(d.GetRevision(), 10))
	t.fact("detail", d.GetDetail())
	t.fact("trace", d.GetTraceId())
	t.fact("closes", named("what was let through by decision ", d.GetCloses()))
	t.fact("went to", d.GetOutcome().GetTarget())
	t.fact("ended", ended(d))
	if n := d.GetCount(); n > 1 {
		t.fact("stands for", count(int(n), "request")+" like it")
	}
	steps, changes := d.GetExplanation(), d.GetChanges()
	if res.GetAgreement() == adminv1.Agreement_AGREEMENT_SAME || len(steps) == 0 {
		steps, changes = a.GetSteps(), a.GetChanges()
	}
	t.steps(steps, max(d.GetOmitted(), a.GetOmitted()))
	t.shadow(d.GetShadow())
	t.changes(changes, res.GetMeaning())
	t.again(res)
	return t.String()
}

// ended says how a request ended that was let through.
func ended(d *decisionv1.Decision) string {
	o := d.GetOutcome()
	switch {
	case !d.GetAllow():
		return ""
	case o == nil:
		return "not yet, as far as is known"
	}
	status := strings.TrimSpace(strconv.Itoa(int(o.GetStatus())) + " " + http.StatusText(int(o.GetStatus())))
	return joined(", ", status, o.GetReason(), "after "+o.GetTook().AsDuration().Round(time.Millisecond/10).String(),
		count(int(o.GetSent()), "byte")+" sent", received(o), named("by ", o.GetEndpoint()),
		named("of upstream ", o.GetUpstream()), tried(o), named("closed by decision ", o.GetClosedBy()))
}

// tried says how often it was tried to send a request on, if that was not once.
func tried(o *decisionv1.Outcome) string {
	if o.GetAttempts() < 2 {
		return ""
	}
	return "in " + count(int(o.GetAttempts()), "attempt")
}

func received(o *decisionv1.Outcome) string {
	if o.GetReceived() == 0 {
		return ""
	}
	return strconv.FormatInt(o.GetReceived(), 10) + " received"
}

// who names a principal.
func who(p *decisionv1.Principal) string {
	if p == nil {
		return "nobody who was authenticated"
	}
	if p.GetKind() == "anonymous" {
		return "anonymous"
	}
	id := p.GetId()
	if p.GetPseudonymised() {
		id += " (a pseudonym)"
	}
	return joined(", ", p.GetKind()+" "+id, named("of ", p.GetIssuer()), named("groups ", strings.Join(p.GetGroups(), " ")),
		named("key ", p.GetKey()), named("by ", p.GetAuthenticatedBy()))
}

func asked(r *decisionv1.Request) string {
	if r.GetMethod() == "" && r.GetPath() == "" {
		return "what could not be read"
	}
	text := strings.TrimSpace(r.GetMethod() + " " + r.GetHost() + r.GetPath())
	if names := r.GetQueryNames(); len(names) > 0 {
		text += "?" + strings.Join(names, "&") + " (values are recorded where a condition looks at them)"
	}
	values := make([]string, 0, len(r.GetValues()))
	for _, v := range r.GetValues() {
		values = append(values, v.GetField()+" is "+strconv.Quote(v.GetValue()))
	}
	return text + named(", where ", strings.Join(values, ", "))
}

func from(s *decisionv1.Signals) string {
	ip := s.GetIp()
	address := ip.GetAddress()
	switch {
	case address == "" && ip.GetUnknown() != "":
		address = "an address that is not known: " + ip.GetUnknown()
	case address == "":
		address = "an address that is not known"
	}
	peer := ip.GetPeer()
	if peer == ip.GetAddress() {
		peer = ""
	}
	geo := s.GetGeo()
	return joined(", ", address, geo.GetCity(), geo.GetCountry(), named("known from ", ip.GetSource()), named("connected by ", peer), named("TLS ", s.GetTls().GetVersion()))
}

// deniedBefore is how often; empty where nobody asked.
func deniedBefore(d *decisionv1.Denials) string {
	var principal, address string
	if d != nil && d.Principal != nil {
		principal = strconv.FormatInt(d.GetPrincipal(), 10)
	}
	if d != nil && d.Address != nil {
		address = strconv.FormatInt(d.GetAddress(), 10)
	}
	text := joined(", ", named("of this principal ", principal), named("from this address ", address))
	if text == "" {
		return ""
	}
	return text + ", in five minutes"
}

// confirmed is for how long the proxy had not heard that what it knew was still so;
// empty where the record does not say.
func confirmed(s *decisionv1.Signals) string {
	ago := func(of string, d *durationpb.Duration) string {
		if d == nil {
			return ""
		}
		return of + " " + d.AsDuration().Round(time.Second).String() + " before"
	}
	return joined(", ", ago("configuration", s.GetConfigurationAge()), ago("revocations", s.GetSecurityAge()))
}

// named puts a name before what is there.
func named(name, value string) string {
	if value == "" {
		return ""
	}
	return name + value
}

// joined joins what is not empty.
func joined(separator string, parts ...string) string {
	var there []string
	for _, p := range parts {
		if p != "" {
			there = append(there, p)
		}
	}
	return strings.Join(there, separator)
}

// telling is text that is being written.
type telling struct{ strings.Builder }

func (t *telling) line(format string, args ...any) {
	t.WriteString(strings.TrimRight(printable(fmt.Sprintf(format, args...)), " ") + "\n")
}

func (t *telling) gap() { t.WriteString("\n") }

func (t *telling) headline(allow bool, status int32, reason string) {
	if allow {
		t.line("ALLOWED: %s", reason)
		return
	}
	t.line("DENIED with %d %s: %s", status, http.StatusText(int(status)), reason)
}

func (t *telling) fact(name, value string) {
	if value != "" {
		t.line("  %-10s %s", name, value)
	}
}
