package policy_test

import (
	"testing"

	"github.com/sallyport/sallyport/internal/policy"
)

// Policies in shadow say what they would have turned round, and nothing is.
func TestShadow(t *testing.T) {
	shop := allow(t, "shop", group("shop"))
	interns := deny(t, "interns", group("interns"))
	broken := deny(t, "broken", shadow(), when(`request.headers["x-no"] == "1"`))
	noShop := deny(t, "no-shop", shadow(), group("shop"))
	staff := allow(t, "staff", shadow(), group("staff"))
	brokenAllow := allow(t, "broken-allow", shadow(), authenticated(), when(`request.headers["x-no"] == "1"`))
	fails := allow(t, "fails", authenticated(), when(`request.headers["x-no"] == "1"`))
	would := func(name string, allow bool, reason policy.Reason) policy.Shadow {
		return policy.Shadow{Policy: "shop/" + name, Allow: allow, Reason: reason}
	}
	for _, c := range []struct {
		name   string
		set    *policy.Set
		groups []string
		reason policy.Reason
		shadow policy.Shadow
	}{
		{"DENY over an ALLOW", onOrders(shop, noShop), []string{"shop"}, policy.ReasonAllowed, would("no-shop", false, policy.ReasonDenied)},
		{"DENY of others", onOrders(shop, noShop), []string{"x"}, policy.ReasonNoMatch, policy.Shadow{}},
		{"DENY that fails denies", onOrders(shop, broken), []string{"shop"}, policy.ReasonAllowed, would("broken", false, policy.ReasonEvaluationError)},
		{"DENY where nothing allows", onOrders(noShop), []string{"shop"}, policy.ReasonNoMatch, policy.Shadow{}},
		{"DENY where a DENY denies", onOrders(shop, interns, noShop), []string{"shop", "interns"}, policy.ReasonDenied, policy.Shadow{}},
		{"ALLOW where nothing allows", onOrders(shop, staff), []string{"staff"}, policy.ReasonNoMatch, would("staff", true, policy.ReasonAllowed)},
		{"ALLOW where one fails", onOrders(fails, staff), []string{"staff"}, policy.ReasonEvaluationError, would("staff", true, policy.ReasonAllowed)},
		{"ALLOW beside an ALLOW", onOrders(shop, staff), []string{"shop", "staff"}, policy.ReasonAllowed, policy.Shadow{}},
		{"ALLOW where a DENY denies", onOrders(interns, staff), []string{"interns", "staff"}, policy.ReasonDenied, policy.Shadow{}},
		{"ALLOW that fails", onOrders(shop, brokenAllow), []string{"x"}, policy.ReasonNoMatch, policy.Shadow{}},
		{"DENY over an ALLOW, both in shadow", onOrders(staff, broken), []string{"staff"}, policy.ReasonNoMatch, policy.Shadow{}},
	} {
		in := request(user("ann", c.groups...), "GET", "/")
		got := c.set.Decide(in)
		if got.Reason != c.reason || got.Allow != (c.reason == policy.ReasonAllowed) || got.Shadow != c.shadow {
			t.Errorf("%s: got %+v, want %s and %+v", c.name, got, c.reason, c.shadow)
		}
		held := 0
		for range c.set.Policies() {
			held++
		}
		if steps := c.set.Explain(in).Steps; held != len(steps) || len(steps) == 0 {
			t.Errorf("%s: %d policies are held, %d explained", c.name, held, len(steps))
		}
	}
}
