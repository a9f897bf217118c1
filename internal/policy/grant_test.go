package policy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/policy"
)

func granted(from, until time.Time) part {
	return func(s *policy.Spec) {
		s.Grant = &policy.Grant{NotBefore: from, NotAfter: until, Reason: "incident 12", Approver: "eve"}
	}
}

// A grant allows in its time, its end not included, and no DENY is in its way
// for nothing.
func TestGrant(t *testing.T) {
	from, until := noon, noon.Add(time.Hour)
	night := allow(t, "night", group("oncall"), methods("POST"), granted(from, until))
	frozen := deny(t, "frozen", group("interns"))
	note := "granted from 2026-11-26T12:00Z until 2026-11-26T13:00Z, approved by eve: incident 12"
	for name, c := range map[string]struct {
		now    time.Time
		groups []string
		reason policy.Reason
		step   string // of the grant
	}{
		"at its beginning":  {from, []string{"oncall"}, policy.ReasonAllowed, "in force: " + note},
		"before it":         {from.Add(-1), []string{"oncall"}, policy.ReasonNoMatch, "still to come: " + note},
		"just before end":   {until.Add(-1), []string{"oncall"}, policy.ReasonAllowed, "in force: " + note},
		"at its end":        {until, []string{"oncall"}, policy.ReasonNoMatch, "expired: " + note},
		"whenever":          {time.Time{}, []string{"oncall"}, policy.ReasonNoMatch, "still to come: " + note},
		"others":            {from, []string{"shop"}, policy.ReasonNoMatch, "in force: " + note},
		"a DENY overrides":  {from, []string{"oncall", "interns"}, policy.ReasonDenied, "in force: " + note},
		"elsewhere in time": {from.In(time.FixedZone("east", 9*3600)), []string{"oncall"}, policy.ReasonAllowed, "in force: " + note},
	} {
		in := request(user("ann", c.groups...), "POST", "/")
		in.Now = c.now
		e := onOrders(night, frozen).Explain(in)
		if e.Decision.Reason != c.reason || e.Steps[1].Detail != c.step {
			t.Errorf("%s: got %+v, want %s, and %q", name, e, c.reason, c.step)
		}
		if c.reason == policy.ReasonAllowed && (e.Decision.Policy != "Grant/shop/night" || e.Decision.Detail != note) {
			t.Errorf("%s: got %+v", name, e.Decision)
		}
	}
	in := request(user("ann", "oncall"), "POST", "/")
	in.Now = until
	e := onOrders(night).Explain(in)
	if e.Steps[0].Miss != policy.MissTime || len(e.Changes) != 1 || told(e.Changes[0][0].Clause) != "["+note+"] is false" {
		t.Errorf("an expired one is explained as %+v", e)
	}
	if want := "1 policy considered: Grant/shop/night is not in force at this time"; e.Decision.Detail != want {
		t.Errorf("got %q, want %q", e.Decision.Detail, want)
	}
}

func TestGrantsRefused(t *testing.T) {
	for want, s := range map[string]policy.Spec{
		"effect: a grant allows":                        spec(policy.Deny, "p", granted(noon, noon.Add(1))),
		"notAfter: a grant ends after":                  spec(policy.Allow, "p", authenticated(), granted(noon, noon)),
		"reason: a grant has a reason":                  spec(policy.Allow, "p", authenticated(), granted(noon, noon.Add(1)), func(s *policy.Spec) { s.Grant.Approver = "" }),
		"principals: an ALLOW must name its principals": spec(policy.Allow, "p", granted(noon, noon.Add(1))),
	} {
		if _, err := policy.Compile(s); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
