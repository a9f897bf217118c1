package admission_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/controlplane/admission"
)

// many returns n resources of one namespace or of many: for each upstream four
// routes and four policies, with labels and conditions.
func many(n, namespaces int) string {
	var b strings.Builder
	b.WriteString("Environment aws {}\nEnvironment gcp {}\n")
	for i := range namespaces {
		fmt.Fprintf(&b, "IdentityProvider ns%d/login {issuer: a, jwksUrl: \"https://a/keys\", audiences: [a]}\n", i)
	}
	for i := 0; 9*i < n; i++ {
		ns := i % namespaces
		fmt.Fprintf(&b, "Upstream ns%d/u%d {endpoints: [\"a:1\"], tls: {}}\n", ns, i)
		for j := range 4 {
			fmt.Fprintf(&b, "Route ns%d/r%d-%d app=a%d tier=t%d {hosts: [h%d.example], paths: [\"/v%d/**\"], upstream: u%d, authentication: {identityProviders: [login]}}\n", ns, i, j, i, j, ns, 4*i+j, i)
			switch j {
			case 0:
				fmt.Fprintf(&b, "Policy ns%d/p%d-%d {routes: {names: [r%d-0]}, effect: ALLOW, principals: [{group: g%d}], when: \"request.method == 'GET' && 'g%d' in principal.groups\"}\n", ns, i, j, i, i, i)
			case 1:
				fmt.Fprintf(&b, "Policy ns%d/p%d-%d {routes: {labels: {app: a%d}}, effect: ALLOW, principals: [{group: g%d}], methods: [GET]}\n", ns, i, j, i, i)
			case 2:
				fmt.Fprintf(&b, "Policy ns%d/p%d-%d {routes: {labels: {tier: t%d}}, effect: DENY, principals: [{subject: s%d}]}\n", ns, i, j, j, i)
			default:
				fmt.Fprintf(&b, "Policy ns%d/p%d-%d {routes: {all: true}, effect: DENY, principals: [{subject: s%d}], when: \"request.path == '/%d'\"}\n", ns, i, j, i, i)
			}
		}
	}
	return b.String()
}

// One change into a fleet of 100,000 resources, all of them in one namespace,
// and in a thousand.
func BenchmarkPlanOneChange(b *testing.B) {
	for _, namespaces := range []int{1, 1000} {
		f := newFleet(b, many(100_000, namespaces))
		for name, line := range map[string]string{
			"upstream": `Upstream ns0/u0 {environments: [aws, gcp], endpoints: ["b:1"], tls: {}}`,
			"route":    `Route ns0/r0-0 app=a0 tier=t0 {hosts: [new.example], paths: ["/v0/**"], upstream: u0, authentication: {identityProviders: [login]}}`,
			"methods":  `Route ns0/r0-0 app=a0 tier=t0 {hosts: [h0.example], paths: ["/v0/**"], methods: [GET], upstream: u0, authentication: {identityProviders: [login]}}`,
			"policy":   `Policy ns0/new {routes: {labels: {tier: t0}}, effect: ALLOW, principals: [{group: g}], when: "request.method == 'GET'"}`,
		} {
			all := resources(b, line)
			b.Run(fmt.Sprintf("%s/namespaces=%d", name, namespaces), func(b *testing.B) {
				for b.Loop() {
					r := admission.NewApply(all, now)
					r.Compile(f.Unknown(r))
					if plan, problems := f.Plan(r); name != "upstream" && (problems.Total > 0 || len(plan.Changes) != 1) {
						b.Fatal(texts(problems))
					}
				}
				figure(b, fmt.Sprintf("plan_%s_100k_%d_namespaces", name, namespaces))
			})
		}
	}
}

// figure prints how long one iteration took, for other programs.
func figure(b *testing.B, name string) {
	b.Helper()
	fmt.Printf("figure %s %.3f ms\n", name, float64(b.Elapsed())/float64(b.N)/float64(time.Millisecond))
}

// 20,000 resources in one request, into an empty fleet: read, compiled, and
// planned, of which only the last is under a lock.
func BenchmarkPlanManyChanges(b *testing.B) {
	for _, namespaces := range []int{1, 1000} {
		all := resources(b, many(20_000-2-namespaces, namespaces))
		b.Run(fmt.Sprintf("namespaces=%d", namespaces), func(b *testing.B) {
			var read, compiled, planned time.Duration
			for b.Loop() {
				var f admission.State
				began := time.Now()
				r := admission.NewApply(all, now)
				read += time.Since(began)
				r.Compile(f.Unknown(r))
				compiled += time.Since(began)
				if plan, problems := f.Plan(r); problems.Total > 0 || len(plan.Changes) != len(all) {
					b.Fatal(texts(problems))
				}
				planned += time.Since(began)
			}
			n := float64(b.N) * float64(time.Millisecond)
			b.ReportMetric(float64(read)/n, "read-ms/op")
			b.ReportMetric(float64(compiled-read)/n, "compile-ms/op")
			b.ReportMetric(float64(planned-compiled)/n, "plan-ms/op")
			b.ReportMetric(float64(len(all)), "resources/op")
			figure(b, fmt.Sprintf("plan_20k_at_once_%d_namespaces", namespaces))
		})
	}
}

// What a fleet of 100,000 resources takes to read, and to keep.
func BenchmarkAdvance(b *testing.B) {
	f := newFleet(b, many(100_000, 100))
	versions := f.stored()
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		read, err := admission.ReadVersions(versions, f.Revision())
		if err != nil {
			b.Fatal(err)
		}
		var s admission.State
		s.Advance(read)
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB")
		runtime.KeepAlive(&s)
	}
	figure(b, "read_state_100k")
}

// Requests that are made to be expensive to refuse.
func BenchmarkPlanHostile(b *testing.B) {
	repeat := func(n int, format string) string {
		var s strings.Builder
		for i := range n {
			fmt.Fprintf(&s, format, i)
		}
		return s.String()
	}
	var places strings.Builder
	for i := range 64 {
		fmt.Fprintf(&places, `"/%d",`, i)
	}
	const base = "Environment aws {}\nEnvironment gcp {}\nUpstream shop/u {endpoints: [\"a:1\"], tls: {}}\n"
	for name, text := range map[string]string{
		"one claim of all": repeat(19_000, "Route shop/r%d {hosts: [a.example], upstream: u, authentication: {anonymous: true}}\n"),
		"policies without routes": repeat(10_000, "Route shop/r%[1]d app=a {hosts: [h%[1]d.example], methods: [GET], upstream: u, authentication: {anonymous: true}}\n") +
			repeat(9_000, "Policy shop/p%[1]d {routes: {all: true}, effect: DENY, principals: [{subject: s%[1]d}], methods: [PUT]}\n"),
		"dangling":    repeat(19_000, "Route shop/r%[1]d {hosts: [h%[1]d.example], upstream: gone, authentication: {identityProviders: [gone]}}\n"),
		"places":      repeat(5_000, "Route shop/r%[1]d {hosts: [h%[1]d.example], paths: ["+places.String()+"], upstream: u, authentication: {anonymous: true}}\n"),
		"enrollments": repeat(2_000, "Enrollment e%[1]d {spiffeId: \"spiffe://a/*/%[1]d\", environment: aws}\n") + repeat(2_000, "Enrollment f%[1]d {spiffeId: \"spiffe://a/x/%[1]d/*\", environment: gcp}\n"),
		"listeners":   repeat(4_000, "Listener edge/l%[1]d {address: \"[2001:db8::%[1]x]:443\", tls: {workloadIdentity: true}}\n"),
	} {
		b.Run(strings.ReplaceAll(name, " ", "_"), func(b *testing.B) {
			all := resources(b, base+text)
			for b.Loop() {
				var f admission.State
				r := admission.NewApply(all, now)
				r.Compile(f.Unknown(r))
				_, problems := f.Plan(r)
				b.ReportMetric(float64(problems.Total), "problems")
			}
			figure(b, "plan_hostile_"+strings.ReplaceAll(name, " ", "_"))
		})
	}
}
