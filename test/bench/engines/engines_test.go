// Package engines_test compares decisions with those of other policy engines,
// on the same policies and requests. It is a module of its own, so that ours
// does not require them.
package engines_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"
	cedar "github.com/cedar-policy/cedar-go"
	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/sallyport/sallyport/internal/policy"
)

// rule is a policy of five conditions. A request is of the class "blue", from
// 10.0.0.0/8, of a clerk, in 2026, and of level 3 or more.
type rule struct {
	class, network, role string
	until                time.Time
	level                int
}

// rules are twenty, of which the last alone holds. The others miss at one of
// the five conditions, each in turn.
func rules() []rule {
	var all []rule
	for n := range 20 {
		r := rule{"blue", "10.0.0.0/8", "clerk", time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), 3}
		switch {
		case n == 19:
		case n%5 == 0:
			r.class = fmt.Sprint("tenant-", n)
		case n%5 == 1:
			r.network = fmt.Sprintf("192.168.%d.0/24", n)
		case n%5 == 2:
			r.role = fmt.Sprint("role-", n)
		case n%5 == 3:
			r.until = time.Date(2025, 1, 1, n, 0, 0, 0, time.UTC)
		case n%5 == 4:
			r.level = 10 + n
		}
		all = append(all, r)
	}
	return all
}

// request is one of those that rotate.
type request struct {
	ip    netip.Addr
	roles []any
	level int
	now   time.Time
}

func requests() []request {
	var all []request
	for i := range 64 {
		all = append(all, request{
			netip.AddrFrom4([4]byte{10, byte(i), 2, 3}), []any{"reader", "clerk", fmt.Sprint("role-of-", i)}, 3 + i%7,
			time.Date(2026, 3, 4, i%24, 6, 7, 0, time.UTC),
		})
	}
	return all
}

const (
	from   = "2024-01-01T00:00:00Z"
	layout = time.RFC3339
)

func figure(b *testing.B, name string) float64 {
	b.Helper()
	took := float64(b.Elapsed().Nanoseconds()) / float64(b.N)
	fmt.Printf("figure %s %.1f ns\n", name, took)
	return took
}

// BenchmarkEngines prints, besides the time of each engine, how often ours fits
// into it.
func BenchmarkEngines(b *testing.B) {
	var ours float64
	for _, engine := range []struct {
		name string
		make func(testing.TB) func(i int) bool
	}{{"sallyport", sallyport}, {"cel", library}, {"cedar", cedarGo}, {"opa", opa}} {
		var took float64
		b.Run(engine.name, func(b *testing.B) {
			allowed := engine.make(b)
			for i := range 64 {
				if !allowed(i) {
					b.Fatal("denied")
				}
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				allowed(i % 64)
				i++
			}
			took = figure(b, "engines_20_policies_"+engine.name)
		})
		switch {
		case engine.name == "sallyport":
			ours = took
		case ours > 0 && took > 0:
			fmt.Printf("figure ratio_%s %.1f times\n", engine.name, took/ours)
		}
	}
}

func sallyport(t testing.TB) func(int) bool {
	route := policy.RouteID{Namespace: "shop", Name: "orders"}
	var pp []*policy.Policy
	for n, r := range rules() {
		p, err := policy.Compile(policy.Spec{
			Namespace: "shop", Name: fmt.Sprintf("p%02d", n), Effect: policy.Allow, Methods: []string{"GET"},
			Principals: []policy.PrincipalMatcher{{Group: "staff"}},
			When: fmt.Sprintf(`principal.acr in ["gold", "silver", %q] && cidr(%q).containsIP(signals.ip) && %q in principal.claims.roles && `+
				`signals.time >= timestamp(%q) && signals.time < timestamp(%q) && principal.claims.level >= %d`,
				r.class, r.network, r.role, from, r.until.Format(layout), r.level),
		})
		if err != nil {
			t.Fatal(err)
		}
		pp = append(pp, p)
	}
	set := policy.NewSet([]policy.Binding{{Route: route, Policies: pp}})
	var in []*policy.Input
	for _, r := range requests() {
		in = append(in, &policy.Input{
			Route: route, Method: "GET", Path: "/", ClientIP: r.ip, Now: r.now,
			Principal: &policy.Principal{
				Kind: policy.User, ID: "ann", ACR: "blue", Groups: []string{"berlin", "staff"},
				Claims: map[string]any{"roles": r.roles, "level": float64(r.level)},
			},
		})
	}
	return func(i int) bool { return set.Decide(in[i]).Allow }
}

func library(t testing.TB) func(int) bool {
	env, err := cel.NewEnv(ext.Network(), cel.Variable("acr", cel.StringType), cel.Variable("ip", ext.IPType),
		cel.Variable("now", cel.TimestampType), cel.Variable("claims", cel.MapType(cel.StringType, cel.DynType)))
	if err != nil {
		t.Fatal(err)
	}
	var programs []cel.Program
	for _, r := range rules() {
		tree, issues := env.Compile(fmt.Sprintf(`acr in ["gold", "silver", %q] && cidr(%q).containsIP(ip) && %q in claims.roles && `+
			`now >= timestamp(%q) && now < timestamp(%q) && claims.level >= %d`, r.class, r.network, r.role, from, r.until.Format(layout), r.level))
		if issues.Err() != nil {
			t.Fatal(issues.Err())
		}
		program, err := env.Program(tree, cel.EvalOptions(cel.OptOptimize))
		if err != nil {
			t.Fatal(err)
		}
		programs = append(programs, program)
	}
	var in []map[string]any
	for _, r := range requests() {
		in = append(in, map[string]any{
			"acr": "blue", "ip": ext.IP{Addr: r.ip}, "now": r.now, "claims": map[string]any{"roles": r.roles, "level": r.level},
		})
	}
	return func(i int) bool {
		for _, p := range programs {
			if out, _, err := p.Eval(in[i]); err == nil && out == types.True {
				return true
			}
		}
		return false
	}
}

func cedarGo(t testing.TB) func(int) bool {
	var text strings.Builder
	for _, r := range rules() {
		fmt.Fprintf(&text, `permit (principal, action == Action::"GET", resource == Route::"orders") when {
			["gold", "silver", %q].contains(context.acr) && context.ip.isInRange(ip(%q)) && context.roles.contains(%q) &&
			context.now >= datetime(%q) && context.now < datetime(%q) && context.level >= %d };`+"\n",
			r.class, r.network, r.role, from, r.until.Format(layout), r.level)
	}
	set, err := cedar.NewPolicySetFromBytes("rules.cedar", []byte(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	var in []cedar.Request
	for _, r := range requests() {
		var roles []cedar.Value
		for _, role := range r.roles {
			roles = append(roles, cedar.String(fmt.Sprint(role)))
		}
		in = append(in, cedar.Request{
			Principal: cedar.NewEntityUID("User", "ann"), Action: cedar.NewEntityUID("Action", "GET"), Resource: cedar.NewEntityUID("Route", "orders"),
			Context: cedar.NewRecord(cedar.RecordMap{
				"acr": cedar.String("blue"), "ip": cedar.IPAddr(netip.PrefixFrom(r.ip, 32)), "roles": cedar.NewSet(roles...),
				"now": cedar.NewDatetime(r.now), "level": cedar.Long(r.level),
			}),
		})
	}
	return func(i int) bool {
		allowed, _ := cedar.Authorize(set, cedar.EntityMap{}, in[i])
		return allowed == cedar.Allow
	}
}

func opa(t testing.TB) func(int) bool {
	text := strings.Builder{}
	text.WriteString("package rules\n\ndefault allow := false\n")
	for _, r := range rules() {
		fmt.Fprintf(&text, "\nallow if {\n\tinput.method == \"GET\"\n\tinput.acr in {\"gold\", \"silver\", %q}\n\tnet.cidr_contains(%q, input.ip)\n"+
			"\t%q in input.roles\n\tinput.now >= %d\n\tinput.now < %d\n\tinput.level >= %d\n}\n",
			r.class, r.network, r.role, time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC).Unix(), r.until.Unix(), r.level)
	}
	query, err := rego.New(rego.Query("data.rules.allow"), rego.Module("rules.rego", text.String())).PrepareForEval(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var in []rego.EvalOption
	for _, r := range requests() {
		in = append(in, rego.EvalInput(map[string]any{
			"method": "GET", "acr": "blue", "ip": r.ip.String(), "roles": r.roles, "now": r.now.Unix(), "level": r.level,
		}))
	}
	return func(i int) bool {
		results, err := query.Eval(context.Background(), in[i])
		return err == nil && results.Allowed()
	}
}
