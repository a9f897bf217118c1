package policy_test

import (
	"fmt"
	"testing"

	"github.com/sallyport/sallyport/internal/policy"
)

// typical is ten policies of five conditions each (two principals, an issuer,
// methods, paths), none of which match the request of benchmarks but the last.
func typical(t testing.TB) []*policy.Policy {
	t.Helper()
	var pp []*policy.Policy
	for i := range 9 {
		compiled := allow
		if i < 2 {
			compiled = deny
		}
		pp = append(pp, compiled(t, fmt.Sprintf("policy-%d", i),
			matcher(policy.PrincipalMatcher{Group: fmt.Sprintf("team-%d", i), Issuer: "https://login.example"}),
			spiffe(fmt.Sprintf("spiffe://prod.example/ns/team-%d/**", i)),
			methods("GET", "POST"),
			paths(fmt.Sprintf("/v%d/orders/{id}", i), "/v1/carts/{id}/items"),
		))
	}
	return append(pp, allow(t, "reads-orders",
		matcher(policy.PrincipalMatcher{Group: "shop", Issuer: "https://login.example"}),
		spiffe("spiffe://prod.example/ns/shop/**"), methods("GET", "HEAD"), paths("/v1/carts/{id}", "/v1/orders/{id}"),
	))
}

func shopper() *policy.Principal { return user("ann", "staff", "berlin", "shop") }

func benchmark(b *testing.B, set *policy.Set, in *policy.Input, allow bool) {
	b.Helper()
	if d := set.Decide(in); d.Allow != allow {
		b.Fatalf("decided %+v", d)
	}
	b.ReportAllocs()
	for b.Loop() {
		set.Decide(in)
	}
}

func BenchmarkDecide(b *testing.B) {
	pp := typical(b)
	web := workload("spiffe://prod.example/ns/shop/web")
	for _, c := range []struct {
		name  string
		in    *policy.Input
		allow bool
	}{
		{"user", request(shopper(), "GET", "/v1/orders/7"), true},
		{"workload", request(web, "GET", "/v1/orders/7"), true},
		{"denied by group", request(user("bob", "team-1"), "GET", "/v1/orders/7"), false},
		{"no match", request(shopper(), "GET", "/v1/nothing"), false},
	} {
		b.Run(c.name, func(b *testing.B) { benchmark(b, onOrders(pp...), c.in, c.allow) })
	}
}

// Policies of other routes must cost nothing.
func BenchmarkDecideAmongRoutes(b *testing.B) {
	for _, n := range []int{10, 100, 1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			bound := []policy.Binding{{Route: orders, Policies: typical(b)}}
			for i := 10; i < n; i += 10 {
				bound = append(bound, policy.Binding{Route: policy.RouteID{Namespace: "shop", Name: fmt.Sprint(i)}, Policies: typical(b)})
			}
			benchmark(b, policy.NewSet(bound), request(shopper(), "GET", "/v1/orders/7"), true)
		})
	}
}

// Policies of the same route for others' groups.
func BenchmarkDecideAmongGroups(b *testing.B) {
	for _, n := range []int{10, 100, 1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			pp := typical(b)
			for i := 10; i < n; i++ {
				pp = append(pp, allow(b, fmt.Sprintf("other-%d", i), group(fmt.Sprintf("other-%d", i)), methods("GET"), paths("/v1/orders/{id}")))
			}
			benchmark(b, onOrders(pp...), request(shopper(), "GET", "/v1/orders/7"), true)
		})
	}
}

func BenchmarkDecideCondition(b *testing.B) {
	for _, text := range []string{
		`request.method == "GET"`,
		`signals.tls.version == "1.3" && principal.groups.exists(g, g == "shop") && request.method == "GET"`,
		`"shop" in principal.groups && cidr("10.0.0.0/8").containsIP(signals.ip)`,
		`request.headers["x-tenant"] == "blue"`,
	} {
		b.Run(text, func(b *testing.B) {
			benchmark(b, onOrders(allow(b, "p", authenticated(), when(text))), request(shopper(), "GET", "/v1/orders/7"), true)
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	for name, text := range map[string]string{
		"structured": "",
		"condition":  `signals.tls.version == "1.3" && principal.groups.exists(g, g == "shop")`,
	} {
		b.Run(name, func(b *testing.B) {
			s := spec(policy.Allow, "p", group("shop"), methods("GET", "HEAD"), paths("/v1/orders/{id}"), when(text))
			b.ReportAllocs()
			for b.Loop() {
				compile(b, s)
			}
		})
	}
}
