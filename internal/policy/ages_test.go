package policy_test

import (
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/policy"
)

// What was never confirmed allows nothing, and lets no DENY pass.
func TestAges(t *testing.T) {
	const yes, no, failed = policy.ReasonAllowed, policy.ReasonNoMatch, policy.ReasonEvaluationError
	aged := func(d time.Duration) policy.Age { return policy.Age{Is: d, Known: true} }
	for _, c := range []struct {
		when                   string
		fresh, outdated, never policy.Reason // 5 s and 5 s; 5 s and 10 min; nothing confirmed
	}{
		{`signals.security_age < duration("1m")`, yes, no, failed},
		{`signals.configuration_age <= duration("5s")`, yes, yes, failed},
		{`signals.configuration_age > duration("1m") || signals.security_age > duration("1m")`, no, yes, failed},
		{`signals.security_age >= signals.configuration_age`, yes, yes, failed},
		{`has(signals.security_age)`, yes, yes, no},
		{`!has(signals.configuration_age)`, no, no, yes},
	} {
		all := []policy.Ages{{Configuration: aged(5 * time.Second), Security: aged(5 * time.Second)}, {aged(5 * time.Second), aged(10 * time.Minute)}, {}}
		for i, want := range []policy.Reason{c.fresh, c.outdated, c.never} {
			in := request(user("ann"), "GET", "/v1/orders/7")
			in.Ages = all[i]
			if got := onOrders(allow(t, "permits", authenticated(), when(c.when))).Decide(in); got.Reason != want || got.Allow != (want == yes) {
				t.Errorf("ALLOW when %s, at %+v: %+v, want %s", c.when, all[i], got, want)
			}
			set := onOrders(deny(t, "forbids", when(c.when)), allow(t, "all", authenticated()))
			if got := set.Decide(in); got.Allow != (want == no) {
				t.Errorf("DENY when %s, at %+v: %+v", c.when, all[i], got)
			}
			compiled, err := policy.CompileCondition(c.when)
			if err != nil || !agree(t, c.when, compiled, in) {
				t.Errorf("%s: closures have no answer, %v", c.when, err)
			}
		}
	}
}
