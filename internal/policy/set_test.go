package policy_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/sallyport/sallyport/internal/policy"
)

func TestDecide(t *testing.T) {
	set := onOrders(
		allow(t, "reads-orders", group("shop"), spiffe("spiffe://prod.example/ns/shop/**"), methods("GET", "HEAD"), paths("/v1/orders/{id}", "/v1/orders")),
		allow(t, "writes-orders", matcher(policy.PrincipalMatcher{Group: "clerks", Issuer: "https://login.example"}), methods("POST")),
		allow(t, "auditor", matcher(policy.PrincipalMatcher{ID: "ann"})),
		allow(t, "health", anonymous(), paths("/healthz")),
		allow(t, "me", authenticated(), paths("/me")),
		deny(t, "no-interns", group("interns"), paths("/v1/**")),
		deny(t, "no-trace", methods("TRACE")),
	)
	shop := user("bob", "shop")
	elsewhere := user("bob", "clerks")
	elsewhere.Issuer = "https://login.invalid"
	odd := user("ann", "shop")
	odd.Kind = 7

	type check struct {
		who          *policy.Principal
		method, path string
		reason       policy.Reason
		by           string
	}
	yes := func(who *policy.Principal, method, path, by string) check {
		return check{who, method, path, policy.ReasonAllowed, by}
	}
	no := func(who *policy.Principal, method, path string) check {
		return check{who, method, path, policy.ReasonNoMatch, ""}
	}
	refused := func(who *policy.Principal, method, path, by string) check {
		return check{who, method, path, policy.ReasonDenied, by}
	}
	for _, c := range []check{
		yes(shop, "GET", "/v1/orders/7", "shop/reads-orders"),
		yes(shop, "HEAD", "/v1/orders", "shop/reads-orders"),
		no(shop, "POST", "/v1/orders/7"),
		no(shop, "get", "/v1/orders/7"), // methods are case-sensitive
		no(shop, "", "/v1/orders/7"),
		no(shop, "GET", "/v1/orders/7/items"),
		no(shop, "GET", "/v1/ordersX"), // a prefix is not a match
		no(shop, "GET", ""),
		no(user("bob", "Shop"), "GET", "/v1/orders/7"),
		no(user("shop"), "GET", "/v1/orders/7"), // an ID is not a group
		no(nil, "GET", "/v1/orders/7"),
		no(&policy.Principal{Groups: []string{"shop"}}, "GET", "/v1/orders/7"), // nobody proved these groups
		no(odd, "GET", "/v1/orders/7"),                                         // a kind from a newer build

		yes(workload("spiffe://prod.example/ns/shop/web"), "GET", "/v1/orders/7", "shop/reads-orders"),
		no(workload("spiffe://prod.example/ns/shop2/web"), "GET", "/v1/orders/7"),
		no(workload("spiffe://evil.example/ns/shop/web"), "GET", "/v1/orders/7"),
		no(user("spiffe://prod.example/ns/shop/web"), "GET", "/v1/orders/7"), // a subject is not a certificate
		// a user whose connection has proven its certificate besides
		yes(&policy.Principal{Kind: policy.User, ID: "x", SPIFFEID: "spiffe://prod.example/ns/shop/web"}, "GET", "/v1/orders/7", "shop/reads-orders"),
		no(&policy.Principal{SPIFFEID: "spiffe://prod.example/ns/shop/web"}, "GET", "/v1/orders/7"), // nobody proved it

		yes(user("bob", "clerks"), "POST", "/v1/orders", "shop/writes-orders"),
		no(elsewhere, "POST", "/v1/orders"), // the same group of another issuer

		yes(user("ann"), "DELETE", "/anything", "shop/auditor"),
		no(user("anna"), "DELETE", "/anything"),

		yes(nil, "GET", "/healthz", "shop/health"),
		yes(&policy.Principal{}, "GET", "/healthz", "shop/health"),
		no(shop, "GET", "/healthz"), // anonymous names nobody else
		yes(shop, "GET", "/me", "shop/me"),
		yes(workload("spiffe://prod.example/x"), "GET", "/me", "shop/me"),
		no(nil, "GET", "/me"),
		no(odd, "GET", "/me"),

		refused(user("bob", "shop", "interns"), "GET", "/v1/orders/7", "shop/no-interns"), // DENY overrides
		yes(user("ann", "interns"), "GET", "/elsewhere", "shop/auditor"),
		refused(user("ann"), "TRACE", "/anything", "shop/no-trace"), // no principals: everybody
		refused(nil, "TRACE", "/healthz", "shop/no-trace"),
		refused(odd, "TRACE", "/", "shop/no-trace"),
	} {
		got := set.Decide(request(c.who, c.method, c.path))
		if got.Allow != (c.reason == policy.ReasonAllowed) || got.Reason != c.reason || got.Policy != c.by {
			t.Errorf("%+v %q %q: got %+v, want %s by %q", c.who, c.method, c.path, got, c.reason, c.by)
		}
	}
}

func TestDecideWithoutAnswer(t *testing.T) {
	all := allow(t, "all", authenticated())
	in := request(user("ann"), "GET", "/")
	elsewhere := *in
	elsewhere.Route = policy.RouteID{Namespace: "shop", Name: "carts"}
	nowhere := *in
	nowhere.Route = policy.RouteID{}
	missing := func(what string, pp ...*policy.Policy) *policy.Set {
		return policy.NewSet([]policy.Binding{
			{Route: orders, Policies: []*policy.Policy{all}},
			{Route: orders, Policies: pp, Unavailable: what},
		})
	}
	for _, c := range []struct {
		name   string
		set    *policy.Set
		in     *policy.Input
		reason policy.Reason
		detail string
	}{
		{"no set", nil, in, policy.ReasonNoSnapshot, ""},
		{"zero set", &policy.Set{}, in, policy.ReasonNoSnapshot, ""},
		{"empty set", policy.NewSet(nil), in, policy.ReasonUnknownRoute, ""},
		{"no input", onOrders(all), nil, policy.ReasonUnknownRoute, ""},
		{"no input, no set", nil, nil, policy.ReasonNoSnapshot, ""},
		{"zero input", onOrders(all), &policy.Input{}, policy.ReasonUnknownRoute, ""},
		{"another route", onOrders(all), &elsewhere, policy.ReasonUnknownRoute, ""},
		{"bound to no route", policy.NewSet([]policy.Binding{{Policies: []*policy.Policy{all}}}), &nowhere, policy.ReasonUnknownRoute, ""},
		{"no policy", onOrders(), in, policy.ReasonNoMatch, "no ALLOW policy is bound to this route"},
		{"rejected policy", missing("Policy shop/no-bots was rejected"), in, policy.ReasonControlUnavailable,
			"a control of this route is unavailable: Policy shop/no-bots was rejected"},
		{"nil policy", missing("", nil), in, policy.ReasonControlUnavailable,
			"a control of this route is unavailable: a policy was not compiled"},
		{"zero policy", missing("", &policy.Policy{}), in, policy.ReasonControlUnavailable,
			"a control of this route is unavailable: a policy was not compiled"},
	} {
		got := c.set.Decide(c.in)
		if want := (policy.Decision{Reason: c.reason, Detail: c.detail}); got != want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, want)
		}
		if steps := c.set.Explain(c.in).Steps; len(steps) != 0 {
			t.Errorf("%s: explained as %+v, though no policy was asked", c.name, steps)
		}
	}
}

func TestUnavailableIsOfOneRoute(t *testing.T) {
	carts := policy.RouteID{Namespace: "shop", Name: "carts"}
	all := []*policy.Policy{allow(t, "all", authenticated())}
	set := policy.NewSet([]policy.Binding{
		{Route: orders, Policies: all},
		{Route: carts, Policies: all, Unavailable: "Policy shop/x was rejected"},
		{Route: carts, Unavailable: "Policy shop/a was rejected"},
		{Route: carts, Unavailable: "Policy shop/x was rejected"},
	})
	in := request(user("ann"), "GET", "/")
	if got := set.Decide(in); !got.Allow {
		t.Errorf("orders: %+v", got)
	}
	in.Route = carts
	want := "a control of this route is unavailable: Policy shop/a was rejected; Policy shop/x was rejected"
	if got := set.Decide(in); got.Allow || got.Detail != want {
		t.Errorf("carts: %+v, want %q", got, want)
	}
}

func TestZeroDecisionDenies(t *testing.T) {
	if (policy.Decision{}).Allow {
		t.Error("the zero Decision allows")
	}
}

func TestPoliciesAreThoseDecideReads(t *testing.T) {
	carts := policy.RouteID{Namespace: "shop", Name: "carts"}
	reads := allow(t, "reads", group("shop"), methods("GET", "HEAD"))
	all := allow(t, "all", authenticated())
	blocks := deny(t, "blocks", group("interns"))
	idle := deny(t, "idle", methods("TRACE"))
	set := policy.NewSet([]policy.Binding{
		{Route: orders, Policies: []*policy.Policy{reads, blocks, reads}},
		{Route: carts, Policies: []*policy.Policy{blocks, all}, Unavailable: "Policy shop/x was rejected"},
		{Policies: []*policy.Policy{idle}}, // selects no route today
	})

	got := map[string]int{}
	for p := range set.Policies() {
		got[p.Key()]++
	}
	want := map[string]int{"shop/reads": 1, "shop/all": 1, "shop/blocks": 1, "shop/idle": 1}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for range set.Policies() {
		break // an early end is no panic
	}
	for _, none := range []*policy.Set{nil, {}, policy.NewSet(nil)} {
		for p := range none.Policies() {
			t.Errorf("an empty set yields %s", p.Key())
		}
	}
}

func TestPolicySaysWhatItWasMadeOf(t *testing.T) {
	s := spec(policy.Deny, "blocks", group("interns"), methods("GET"), paths("/v1/**"))
	p := compile(t, s)
	if p.Namespace() != "shop" || p.Name() != "blocks" || p.Key() != "shop/blocks" || p.Effect() != policy.Deny || p.Source() != s.Source {
		t.Errorf("got %s %s %s %s %v", p.Namespace(), p.Name(), p.Key(), p.Effect(), p.Source())
	}
	s.Principals[0].Group, s.Methods[0], s.Paths[0] = "others", "PUT", "/v2"
	if d := onOrders(p).Decide(request(user("ann", "interns"), "GET", "/v1/x")); d.Reason != policy.ReasonDenied {
		t.Errorf("changing the Spec afterwards changed the policy: %+v", d)
	}
}

// Two resources of one name are two policies: one that a newer version
// replaces must not hide the other.
func TestSameKeyTwice(t *testing.T) {
	first := spec(policy.Allow, "twice", group("shop"))
	second := spec(policy.Allow, "twice", group("clerks"))
	second.Digest[0]++
	a, b := compile(t, first), compile(t, second)
	pp := []*policy.Policy{a, b, a, b}
	for range 2 {
		set := onOrders(pp...)
		for _, g := range []string{"shop", "clerks"} {
			if d := set.Decide(request(user("ann", g), "GET", "/")); !d.Allow {
				t.Errorf("%s: %+v", g, d)
			}
		}
		if n := len(slices.Collect(set.Policies())); n != 2 {
			t.Errorf("holds %d policies, want 2", n)
		}
		if n := len(set.Explain(request(nil, "GET", "/")).Steps); n != 2 {
			t.Errorf("asks %d policies, want 2", n)
		}
		slices.Reverse(pp)
	}
}

// Long lists are indexed, up to a length.
func TestListsOfAllLengths(t *testing.T) {
	shop, others := user("ann", "staff", "shop"), user("bob", "staff")
	for _, n := range []int{1, 23, 24, 63, 64, 65, 129, 16383, 16384, 16385} {
		var pp []*policy.Policy
		for i := range n - 1 {
			pp = append(pp, allow(t, fmt.Sprintf("p%05d", i), group(fmt.Sprint("g", i))))
		}
		set := onOrders(append(pp, allow(t, "q", group("shop")))...)
		if d := set.Decide(request(shop, "GET", "/")); d.Policy != "shop/q" || !d.Allow {
			t.Errorf("%d policies: %+v", n, d)
		}
		if d := set.Decide(request(others, "GET", "/")); d.Allow {
			t.Errorf("%d policies: %+v", n, d)
		}
		seen := 0
		for range set.Policies() {
			seen++
		}
		if seen != n {
			t.Errorf("%d policies: %d held", n, seen)
		}
	}
}

func TestDecideDoesNotAllocate(t *testing.T) {
	short := typical(t)
	long := typical(t)
	for i := range 100 {
		long = append(long, allow(t, fmt.Sprint("other-", i), group(fmt.Sprint("other-", i))))
	}
	for name, set := range map[string]*policy.Set{"short": onOrders(short...), "long": onOrders(long...)} {
		for _, in := range []*policy.Input{
			request(shopper(), "GET", "/v1/orders/7"),
			request(workload("spiffe://prod.example/ns/shop/web"), "GET", "/v1/orders/7"),
			request(user("bob", "team-1"), "GET", "/v1/carts/7/items"),
		} {
			if n := testing.AllocsPerRun(100, func() { set.Decide(in) }); n != 0 {
				t.Errorf("%s list, %+v: %v allocations", name, in.Principal, n)
			}
		}
	}
}
