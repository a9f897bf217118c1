package policy_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/policy"
)

// tally notes what it is asked.
type tally struct {
	denials policy.Denials
	asked   []netip.Addr
}

func (c *tally) Denied(_ *policy.Principal, address netip.Addr, _ time.Time) policy.Denials {
	c.asked = append(c.asked, address)
	return c.denials
}

func known(n int64) policy.Count { return policy.Count{Number: n, Known: true} }

// What is not known of denials allows nothing, and lets no DENY pass.
func TestDenials(t *testing.T) {
	const yes, no, failed = policy.ReasonAllowed, policy.ReasonNoMatch, policy.ReasonEvaluationError
	for _, c := range []struct {
		when                          string
		both, none, nobody, unlocated policy.Reason // 3 and 20; nobody counts; 0 of the other one
	}{
		{`signals.denials.principal < 4`, yes, failed, failed, yes},
		{`signals.denials.principal > 4`, no, failed, failed, no},
		{`signals.denials.address >= 20`, yes, failed, no, failed},
		{`signals.denials.address == 20 && signals.denials.principal == 3`, yes, failed, no, no},
		{`signals.denials.address > 30 || signals.denials.principal > 30`, no, failed, failed, failed},
		{`has(signals.denials.principal)`, yes, no, no, yes},
		{`has(signals.denials.address) && signals.denials.address != 20`, no, no, yes, no},
		{`has(signals.denials) && !has(signals.denials.address)`, no, yes, no, yes},
		{`signals.denials.principal * 2 + signals.denials.address == 26`, yes, failed, failed, failed},
	} {
		all := []policy.Tally{
			&policy.Denials{Principal: known(3), Address: known(20)}, nil, &policy.Denials{Address: known(0)}, &policy.Denials{Principal: known(0)},
		}
		for i, want := range []policy.Reason{c.both, c.none, c.nobody, c.unlocated} {
			asked := func() *policy.Input {
				in := request(user("ann"), "GET", "/v1/orders/7")
				in.Denials = all[i]
				return in
			}
			if got := onOrders(allow(t, "permits", authenticated(), when(c.when))).Decide(asked()); got.Reason != want || got.Allow != (want == yes) {
				t.Errorf("ALLOW when %s, of %+v: %+v, want %s", c.when, all[i], got, want)
			}
			set := onOrders(deny(t, "forbids", when(c.when)), allow(t, "all", authenticated()))
			if got := set.Decide(asked()); got.Allow != (want == no) {
				t.Errorf("DENY when %s, of %+v: %+v", c.when, all[i], got)
			}
			compiled, err := policy.CompileCondition(c.when)
			if err != nil || !agree(t, c.when, compiled, asked()) {
				t.Errorf("%s: closures have no answer, %v", c.when, err)
			}
		}
	}
}

// Denials are asked for once for a request, and only if a condition asks: whoever asks
// later sees what it was decided by.
func TestDenialsAreCountedOnce(t *testing.T) {
	set := onOrders(
		deny(t, "often", when(`signals.denials.address > 30`)),
		allow(t, "calm", authenticated(), when(`signals.denials.principal < 3 && signals.denials.address < 10`)),
	)
	c := &tally{denials: policy.Denials{Principal: known(2), Address: known(20)}}
	in := request(user("ann"), "GET", "/v1/orders/7")
	in.Denials, in.ClientIP = c, netip.MustParseAddr("::ffff:192.0.2.7")
	set.Decide(in)
	c.denials.Address = known(1)
	if e := set.Explain(in); e.Decision.Allow || in.Denied() != (policy.Denials{Asked: true, Principal: known(2), Address: known(20)}) {
		t.Errorf("%+v by %+v", e.Decision, in.Denied())
	}
	if len(c.asked) != 1 || c.asked[0] != netip.MustParseAddr("192.0.2.7") {
		t.Errorf("asked of %v", c.asked)
	}

	in = request(user("ann"), "GET", "/v1/orders/7")
	in.Denials = c
	onOrders(allow(t, "p", authenticated(), when(`has(signals.denials)`))).Decide(in)
	if len(c.asked) != 1 || in.Denied() != (policy.Denials{}) {
		t.Errorf("asked %v for nothing", c.asked)
	}
}

func TestReadingDenialsDoesNotAllocate(t *testing.T) {
	set := onOrders(allow(t, "calm", authenticated(), when(`signals.denials.principal < 3 && signals.denials.address < 30`)))
	in := request(user("ann"), "GET", "/v1/orders/7")
	in.Denials = &policy.Denials{Principal: known(2), Address: known(20)}
	if n := testing.AllocsPerRun(100, func() {
		if !set.Decide(in).Allow {
			t.Fatal("denied")
		}
	}); n > 0 {
		t.Errorf("%.0f allocations", n)
	}
}
