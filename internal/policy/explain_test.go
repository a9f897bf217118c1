package policy_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/sallyport/sallyport/internal/policy"
)

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
	got := set.Explain(request(user("ann", "shop"), "GET", "/v1/carts"))
	want := []policy.Step{
		{Policy: "shop/no-delete", Effect: policy.Deny, Miss: policy.MissMethod},
		{Policy: "shop/no-interns", Effect: policy.Deny, Miss: policy.MissPrincipal},
		{Policy: "shop/admin", Effect: policy.Allow, Miss: policy.MissPrincipal},
		{Policy: "shop/all", Effect: policy.Allow, Matched: true},
		{Policy: "shop/office", Effect: policy.Allow, Miss: policy.MissCondition},
		{Policy: "shop/reads", Effect: policy.Allow, Miss: policy.MissPath},
		{Policy: "shop/tenant", Effect: policy.Allow, Miss: policy.MissError, Detail: "condition has no value at line 1, column 16"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
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
