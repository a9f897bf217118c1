package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/policy"
)

// told is a clause as the tests write it: what it is, what it came to, and where
// it is in a condition.
func told(c policy.Clause) string {
	at := ""
	if c.Line > 0 {
		at = fmt.Sprintf("%d:%d ", c.Line, c.Column)
	}
	return fmt.Sprintf("%s[%s] is %s", at, c.Text, c.Value)
}

func toldWays(ways []policy.Way) []string {
	var all []string
	for _, w := range ways {
		var clauses []string
		for _, c := range w {
			clauses = append(clauses, told(c))
		}
		all = append(all, strings.Join(clauses, " and "))
	}
	return all
}

func TestExplain(t *testing.T) {
	set := onOrders(
		allow(t, "reads", group("shop"), methods("GET"), paths("/v1/orders/{id}")),
		allow(t, "admin", group("admins")),
		allow(t, "office", group("shop"), when(`cidr("192.168.0.0/16").containsIP(signals.ip)`)),
		allow(t, "tenant", group("shop"), when(`request.headers["x-nobody"] == "1"`)),
		allow(t, "all", authenticated()),
		deny(t, "no-interns", group("interns")),
		deny(t, "no-delete", methods("DELETE")),
	)
	type step struct {
		policy string
		effect policy.Effect
		miss   policy.Miss
		detail string
		ways   []string
	}
	want := []step{
		{"shop/no-delete", policy.Deny, policy.MissMethod, "", []string{"[methods: DELETE] is false"}},
		{"shop/no-interns", policy.Deny, policy.MissPrincipal, "", []string{"[group: interns] is false"}},
		{"shop/admin", policy.Allow, policy.MissPrincipal, "", []string{"[group: admins] is false"}},
		{"shop/all", policy.Allow, policy.MissNothing, "", []string{"[authenticated: true] is true"}},
		{"shop/office", policy.Allow, policy.MissCondition, "", []string{`1:1 [cidr("192.168.0.0/16").containsIP(signals.ip)] is false`}},
		{"shop/reads", policy.Allow, policy.MissPath, "", []string{"[paths: /v1/orders/{id}] is false"}},
		{"shop/tenant", policy.Allow, policy.MissError, "condition has no value at line 1, column 16", []string{`1:1 [request.headers["x-nobody"] == "1"] is error`}},
	}
	for i, s := range set.Explain(request(user("ann", "shop"), "GET", "/v1/carts")).Steps {
		got := step{s.Policy, s.Effect, s.Miss, s.Detail, toldWays(s.Ways)}
		if i >= len(want) || !slices.Equal(got.ways, want[i].ways) {
			t.Fatalf("step %d: got %+v", i, got)
		}
		got.ways, want[i].ways = nil, nil
		if fmt.Sprint(got) != fmt.Sprint(want[i]) || s.Matched != (s.Miss == policy.MissNothing) {
			t.Errorf("step %d: got %+v, want %+v", i, got, want[i])
		}
	}
}

// What would have changed the say of one policy, by its condition.
func TestWays(t *testing.T) {
	const yes, no, none = `request.method == "GET"`, `request.method == "PUT"`, `request.headers["x-no"] == "1"`
	for _, c := range []struct {
		when  string
		allow []string // of an ALLOW
		deny  []string // of a DENY
	}{
		{yes, []string{"{yes}"}, []string{"{yes}"}},
		{none, []string{"{none}"}, []string{"{none}"}},
		{yes + " && " + no, []string{"{no}"}, []string{"{no}"}},
		{no + " && " + no + " && " + none, []string{"{no} and {no} and {none}"}, []string{"{no} and {no}"}},
		{no + " || " + no, []string{"{no}", "{no}"}, []string{"{no}", "{no}"}},
		{yes + " || " + yes, []string{"{yes} and {yes}"}, []string{"{yes} and {yes}"}},
		// An ALLOW does not allow when its condition fails; a DENY denies then.
		{yes + " || " + none, []string{"{yes}"}, []string{"{yes} and {none}"}},
		{yes + " && " + none, []string{"{none}"}, []string{"{yes}", "{none}"}},
		{no + " || " + none, []string{"{no}", "{none}"}, []string{"{none}"}},
		{"!(" + yes + ")", []string{"{yes}"}, []string{"{yes}"}},
		{"!(" + yes + " || " + no + ") || !(" + none + ")", []string{"{yes}", "{none}"}, []string{"{none}"}},
		{yes + " ? " + no + " : " + yes, []string{"{no}", "{yes}"}, []string{"{no}", "{yes}"}},
		{none + " ? " + yes + " : " + no, []string{"{none}", "{none} and {no}"}, []string{"{none}", "{none} and {yes}"}},
		{"false", []string{"{all}"}, []string{"{all}"}},
		{`["a", "b"].exists(x, x == request.method || x == "c")`, []string{"{all}"}, []string{"{all}"}}, // a loop is one clause
		{strings.Repeat(no+" && ", 16) + no, nil, nil},                                                  // too many
		{strings.Repeat(no+" || ", 9) + no, []string{"{no}", "{no}", "{no}", "{no}"}, []string{"{no}", "{no}", "{no}", "{no}"}},
	} {
		for effect, want := range map[policy.Effect][]string{policy.Allow: c.allow, policy.Deny: c.deny} {
			p := compile(t, spec(effect, "p", authenticated(), when(c.when)))
			in := request(user("ann"), "GET", "/")
			ways := onOrders(p).Explain(in).Steps[0].Ways
			var got []string
			for _, w := range ways {
				if w[0].Part == policy.MissPrincipal {
					continue
				}
				var names []string
				for _, c := range w {
					names = append(names, map[string]string{yes: "{yes}", no: "{no}", none: "{none}"}[c.Text])
					if names[len(names)-1] == "" {
						names[len(names)-1] = c.Text
					}
				}
				got = append(got, strings.ReplaceAll(strings.Join(names, " and "), c.when, "{all}"))
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s when %s: got %q, want %q", effect, c.when, got, want)
			}
		}
	}
}

func TestNearestMiss(t *testing.T) {
	reads := allow(t, "reads-orders", group("shop"), methods("GET"), paths("/v1/orders/{id}"))
	admin := allow(t, "admin", group("admins"), paths("/v1/**"))
	office := allow(t, "office", group("shop"), methods("GET"), paths("/v1/**"), when(`signals.tls.version == "1.2"`))
	shop := user("ann", "shop")
	for _, c := range []struct {
		set  *policy.Set
		in   *policy.Input
		want string
	}{
		{onOrders(), request(shop, "GET", "/"), "no ALLOW policy is bound to this route"},
		{onOrders(deny(t, "d", group("x"))), request(shop, "GET", "/"), "no ALLOW policy is bound to this route"},
		{onOrders(reads), request(shop, "DELETE", "/v1/orders/7"), "1 policy considered: shop/reads-orders does not include method DELETE"},
		{onOrders(reads), request(shop, "GET", "/v1/s3cret"), "1 policy considered: shop/reads-orders does not include this path"},
		{onOrders(reads), request(nil, "GET", "/v1/orders/7"), "1 policy considered: shop/reads-orders does not name anonymous callers"},
		{onOrders(reads), request(user("bob"), "PUT", "/"),
			"1 policy considered: shop/reads-orders does not name this principal and does not include method PUT and does not include this path"},
		{onOrders(reads), request(shop, "s3cret\n", "/v1/orders/7"), "1 policy considered: shop/reads-orders does not include this method"},
		{onOrders(reads, admin), request(shop, "DELETE", "/v1/orders/7"),
			"2 policies considered, nearest: shop/reads-orders does not include method DELETE"},
		{onOrders(reads, admin), request(shop, "PUT", "/v1/carts"),
			"2 policies considered, nearest: shop/reads-orders does not include method PUT and does not include this path"},
		{onOrders(reads, admin), request(nil, "GET", "/v1/orders/7/items"),
			"2 policies considered, nearest: shop/admin does not name anonymous callers"},
		{onOrders(reads, admin, office), request(shop, "GET", "/v1/carts"),
			"3 policies considered, nearest: shop/office has a condition that does not hold"},
	} {
		got := c.set.Decide(c.in)
		if want := (policy.Decision{Reason: policy.ReasonNoMatch, Detail: c.want}); got != want {
			t.Errorf("%s %s: got %+v, want %+v", c.in.Method, c.in.Path, got, want)
		}
	}
}

// A denial looks for a hint among the first policies only: who sends requests
// to be denied must not buy work with them.
func TestNearestMissIsBounded(t *testing.T) {
	var pp []*policy.Policy
	for i := range 65 {
		pp = append(pp, allow(t, fmt.Sprintf("p%02d", i), group("others")))
	}
	pp[64] = allow(t, "p64", group("shop"), methods("GET"))
	want := "65 policies considered, nearest: shop/p00 does not name this principal"
	if got := onOrders(pp...).Decide(request(user("ann", "shop"), "PUT", "/")); got.Detail != want {
		t.Errorf("got %q, want %q", got.Detail, want)
	}
}
