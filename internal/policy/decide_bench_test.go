package policy_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/policy"
)

// fiveConditions is a policy for anybody who is signed in, of five conditions
// of different types. A request for tenant n holds all of policy n's; of other
// policies it holds all but one, and which one it is differs.
func fiveConditions(n, misses int) string {
	tenant, network, role, until, level := "blue", "10.0.0.0/8", "clerk", "2027-01-01T00:00:00Z", 3
	switch misses {
	case 0:
		tenant = fmt.Sprint("tenant-", n)
	case 1:
		network = fmt.Sprintf("192.168.%d.0/24", n%256)
	case 2:
		role = fmt.Sprint("role-", n)
	case 3:
		until = fmt.Sprintf("2025-01-01T%02d:00:00Z", n%24)
	case 4:
		level = 10 + n
	}
	return fmt.Sprintf(`principal.acr in ["gold", "silver", "%s"] && cidr("%s").containsIP(signals.ip) && "%s" in principal.claims.roles && `+
		`signals.time >= timestamp("2024-01-01T00:00:00Z") && signals.time < timestamp("%s") && principal.claims.level >= %d`,
		tenant, network, role, until, level)
}

// missesNone is the policy whose conditions all hold.
const missesNone = 5

// candidates are twenty policies that all match the route, the principal and
// the method. The last one's conditions alone hold.
func candidates(t testing.TB, prefix string, missing func(n int) int) []*policy.Policy {
	t.Helper()
	var pp []*policy.Policy
	for n := range 20 {
		misses := missing(n)
		if n == 19 {
			misses = missesNone
		}
		pp = append(pp, allow(t, fmt.Sprintf("%s-%02d", prefix, n), group("staff"), methods("GET", "POST"), when(fiveConditions(n, misses))))
	}
	return pp
}

// visitors are requests that differ in all that conditions look at.
func visitors(routes int) []*policy.Input {
	var all []*policy.Input
	for i := range 64 {
		p := user(fmt.Sprint("user-", i), "berlin", "staff")
		p.ACR = "blue"
		p.Claims = map[string]any{
			"sub": p.ID, "level": int64(3 + i%7), "roles": []any{"reader", "clerk", fmt.Sprint("role-of-", i)}, "email": "a@example.com", "verified": true,
		}
		in := request(p, []string{"GET", "POST"}[i%2], "/v1/orders/7")
		in.Route = policy.RouteID{Namespace: "shop", Name: fmt.Sprint("route-", i%routes)}
		in.ClientIP = netip.AddrFrom4([4]byte{10, byte(i), 2, 3})
		in.Now = time.Date(2026, 3, 4, i%24, 6, 7, 0, time.UTC)
		all = append(all, in)
	}
	return all
}

func benchmarkVisitors(b *testing.B, figure string, set *policy.Set, all []*policy.Input) {
	b.Helper()
	for _, in := range all {
		if d := set.Decide(in); !d.Allow {
			b.Fatalf("decided %+v", d)
		}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		set.Decide(all[i%64])
		i++
	}
	fmt.Printf("figure %s %.1f ns\n", figure, float64(b.Elapsed().Nanoseconds())/float64(b.N))
}

// Twenty policies of five conditions each are asked for every decision, and
// the last one decides. The others miss at one of the five, each in turn.
func BenchmarkDecide20Policies(b *testing.B) {
	set := policy.NewSet([]policy.Binding{
		{Route: policy.RouteID{Namespace: "shop", Name: "route-0"}, Policies: candidates(b, "p", func(n int) int { return n % 5 })},
	})
	benchmarkVisitors(b, "decide_20_policies", set, visitors(1))
}

// The same where every other policy misses at its last condition only.
func BenchmarkDecide20PoliciesToTheEnd(b *testing.B) {
	set := policy.NewSet([]policy.Binding{
		{Route: policy.RouteID{Namespace: "shop", Name: "route-0"}, Policies: candidates(b, "p", func(int) int { return 4 })},
	})
	benchmarkVisitors(b, "decide_20_policies_to_the_end", set, visitors(1))
}

// The same where no two policies ask anything alike of the conditions, so that
// no answer is of use twice: a hundred conditions.
func BenchmarkDecide20PoliciesUnlike(b *testing.B) {
	var pp []*policy.Policy
	for n := range 20 {
		misses := n % 5
		if n == 19 {
			misses = missesNone
		}
		pp = append(pp, allow(b, fmt.Sprintf("p-%02d", n), group("staff"), methods("GET", "POST"), when(unlikeConditions(n, misses))))
	}
	set := policy.NewSet([]policy.Binding{{Route: policy.RouteID{Namespace: "shop", Name: "route-0"}, Policies: pp}})
	benchmarkVisitors(b, "decide_20_policies_unlike", set, unlikeVisitors())
}

func unlikeVisitors() []*policy.Input {
	all := visitors(1)
	for i, in := range all {
		in.ClientIP = netip.AddrFrom4([4]byte{10, 2, 3, byte(i)})
		roles := make([]any, 0, 20)
		for n := range 20 {
			roles = append(roles, fmt.Sprint("role-", n))
		}
		in.Principal.Claims["roles"] = roles
	}
	return all
}

// unlikeConditions is fiveConditions with no literal that another policy has.
func unlikeConditions(n, misses int) string {
	tenant, network, role, until, level := "blue", fmt.Sprintf("10.2.3.0/%d", 26-n), fmt.Sprint("role-", n), fmt.Sprintf("2027-01-01T%02d:00:00Z", n), fmt.Sprintf("2.%02d", n)
	switch misses {
	case 0:
		tenant = "green"
	case 1:
		network = fmt.Sprintf("192.168.%d.0/24", n)
	case 2:
		role = fmt.Sprint("no-role-", n)
	case 3:
		until = fmt.Sprintf("2025-01-01T%02d:00:00Z", n)
	case 4:
		level = fmt.Sprint(10 + n)
	}
	return fmt.Sprintf(`principal.acr in ["gold-%d", "silver-%d", "%s"] && cidr("%s").containsIP(signals.ip) && "%s" in principal.claims.roles && `+
		`signals.time >= timestamp("2024-01-01T%02d:00:00Z") && signals.time < timestamp("%s") && principal.claims.level >= %s`,
		n, n, tenant, network, role, n, until, level)
}

// A hundred routes of a hundred policies each, of which the index leaves
// twenty for any one request.
func BenchmarkDecide10000Policies(b *testing.B) {
	benchmarkVisitors(b, "decide_10000_policies", policy.NewSet(tenThousand(b)), visitors(100))
}

func tenThousand(t testing.TB) []policy.Binding {
	t.Helper()
	var bound []policy.Binding
	for r := range 100 {
		pp := candidates(t, fmt.Sprint("r", r), func(n int) int { return n % 5 })
		for n := range 80 {
			pp = append(pp, allow(t, fmt.Sprintf("r%d-a-%02d", r, n), group(fmt.Sprint("team-", n)), methods("GET", "POST"), when(fiveConditions(n, n%5))))
		}
		bound = append(bound, policy.Binding{Route: policy.RouteID{Namespace: "shop", Name: fmt.Sprint("route-", r)}, Policies: pp})
	}
	return bound
}

// What ten thousand policies take while they are in force: compiled, and the
// sheets and indexes of their routes.
func BenchmarkMemoryOf10000Policies(b *testing.B) {
	compile(b, spec(policy.Allow, "p", group("staff"), when(fiveConditions(0, 0)))) // the language
	for b.Loop() {
		empty := heap()
		bound := tenThousand(b)
		compiled := heap()
		set := policy.NewSet(bound)
		indexed := heap()
		b.ReportMetric(float64(compiled-empty)/10_000, "B/policy")
		b.ReportMetric(float64(indexed-compiled)/10_000, "B/policy-in-set")
		fmt.Printf("figure policy_bytes %d B\nfigure policy_in_set_bytes %d B\n", (compiled-empty)/10_000, (indexed-compiled)/10_000)
		runtime.KeepAlive(set)
		runtime.KeepAlive(bound)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Ten thousand are compiled on every processor, as a snapshot's are.
func BenchmarkCompile10000Policies(b *testing.B) {
	workers := runtime.GOMAXPROCS(0)
	for b.Loop() {
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for n := w; n < 10_000; n += workers {
					if _, err := policy.Compile(spec(policy.Allow, fmt.Sprint("p", n), group("staff"), when(fiveConditions(n, n%5)))); err != nil {
						b.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}
	fmt.Printf("figure compile_10000_policies %.2f s\n", b.Elapsed().Seconds()/float64(b.N))
}

// One is compiled, and its route of a hundred policies indexed anew, among a
// hundred routes.
func BenchmarkChangeOnePolicy(b *testing.B) {
	var bound []policy.Binding
	for r := range 100 {
		route := policy.RouteID{Namespace: "shop", Name: fmt.Sprint("route-", r)}
		for range 5 {
			bound = append(bound, policy.Binding{Route: route, Policies: candidates(b, fmt.Sprint("r", r), func(n int) int { return n % 5 })})
		}
	}
	set := policy.NewSet(bound)
	b.ReportAllocs()
	for b.Loop() {
		changed := allow(b, "changed", group("staff"), methods("GET"), when(fiveConditions(7, 2)))
		set.With(append([]policy.Binding{{Route: bound[0].Route, Policies: []*policy.Policy{changed}}}, bound[:5]...))
	}
	fmt.Printf("figure change_one_policy %.3f ms\n", float64(b.Elapsed().Microseconds())/float64(b.N)/1000)
}
