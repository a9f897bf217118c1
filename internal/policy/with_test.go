package policy_test

import (
	"slices"
	"testing"

	"github.com/sallyport/sallyport/internal/policy"
)

func TestWithChangesNoMoreThanItNames(t *testing.T) {
	carts, returns := policy.RouteID{Namespace: "shop", Name: "carts"}, policy.RouteID{Namespace: "shop", Name: "returns"}
	all, none, held := allow(t, "all", authenticated()), deny(t, "none"), deny(t, "held")
	before := policy.NewSet([]policy.Binding{
		{Route: orders, Policies: []*policy.Policy{all}}, {Route: carts, Policies: []*policy.Policy{all}},
		{Policies: []*policy.Policy{held}},
	})
	after := before.With([]policy.Binding{
		{Route: orders, Policies: []*policy.Policy{all}}, {Route: orders, Policies: []*policy.Policy{none}},
		{Route: returns, Policies: []*policy.Policy{all}},
	})
	for _, c := range []struct {
		name  string
		set   *policy.Set
		route policy.RouteID
		want  policy.Reason
	}{
		{"before, named", before, orders, policy.ReasonAllowed},
		{"before, not named", before, carts, policy.ReasonAllowed},
		{"before, new", before, returns, policy.ReasonUnknownRoute},
		{"after, named", after, orders, policy.ReasonDenied},
		{"after, not named", after, carts, policy.ReasonAllowed},
		{"after, new", after, returns, policy.ReasonAllowed},
	} {
		in := request(user("ann"), "GET", "/")
		in.Route = c.route
		if got := c.set.Decide(in); got.Reason != c.want {
			t.Errorf("%s: got %+v, want %s", c.name, got, c.want)
		}
	}
	for name, c := range map[string]struct {
		set  *policy.Set
		want []string
	}{
		"before": {before, []string{"shop/all", "shop/held"}},
		"after":  {after, []string{"shop/all", "shop/held", "shop/none"}},
		"let go": {after.With([]policy.Binding{{}}), []string{"shop/all", "shop/none"}},
		"none":   {(*policy.Set)(nil).With([]policy.Binding{{Route: orders, Policies: []*policy.Policy{none}}}), []string{"shop/none"}},
	} {
		var got []string
		for p := range c.set.Policies() {
			got = append(got, p.Key())
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: policies %q, want %q", name, got, c.want)
		}
	}
}

// A group is that of the provider which vouched for it.
func TestProviderQualifies(t *testing.T) {
	set := onOrders(
		allow(t, "group", matcher(policy.PrincipalMatcher{Group: "shop", Provider: "shop/login"})),
		allow(t, "subject", matcher(policy.PrincipalMatcher{ID: "ann", Provider: "shop/login", Issuer: "https://login.example"})),
	)
	of := func(provider, issuer, id string, groups ...string) *policy.Principal {
		return &policy.Principal{Kind: policy.User, ID: id, Issuer: issuer, Provider: provider, Groups: groups}
	}
	with := func(who *policy.Principal, beside ...*policy.Principal) *policy.Principal {
		who.Beside = beside
		return who
	}
	for _, c := range []struct {
		who   *policy.Principal
		allow bool
	}{
		{of("shop/login", "", "bob", "shop"), true},
		{of("shop/partners", "", "bob", "shop"), false},
		{of("", "", "bob", "shop"), false},
		{of("shop/login", "https://login.example", "ann"), true},
		{of("shop/login", "https://login.invalid", "ann"), false},
		{of("bank/login", "https://login.example", "ann"), false},
		// What was proven beside the principal is somebody by itself, whose groups
		// are not the principal's.
		{with(of("shop/partners", "", "bob"), of("shop/login", "https://login.example", "ann")), true},
		{with(of("shop/partners", "", "bob"), of("x/y", "", "eve"), of("shop/login", "https://login.example", "ann")), true},
		{with(of("shop/login", "https://login.example", "bob"), of("bank/login", "https://login.example", "ann")), false},
		{with(of("bank/login", "https://login.example", "ann"), of("shop/login", "https://login.example", "bob")), false},
		{with(of("shop/partners", "", "bob"), of("shop/login", "", "eve", "shop")), false},
		{with(&policy.Principal{}, of("shop/login", "https://login.example", "ann")), false},
	} {
		if got := set.Decide(request(c.who, "GET", "/")); got.Allow != c.allow {
			t.Errorf("%+v: %+v", c.who, got)
		}
	}
	_, err := policy.Compile(policy.Spec{Namespace: "n", Name: "p", Effect: policy.Deny, Principals: []policy.PrincipalMatcher{{Anonymous: true, Provider: "shop/login"}}})
	if problems := policy.Problems(err); len(problems) != 1 || problems[0].Field != "principals[0].provider" {
		t.Errorf("got %v", err)
	}
}
