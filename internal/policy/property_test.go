package policy_test

import (
	"cmp"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sallyport/sallyport/internal/policy"
)

// naive decides by the letter of the specification, with nothing compiled and
// nothing indexed.
func naive(specs []policy.Spec, in *policy.Input) policy.Decision {
	enforced, all := slices.Clone(specs), slices.Clone(specs)
	d := naiveEnforced(slices.DeleteFunc(enforced, func(s policy.Spec) bool { return s.Shadow }), in)
	if would := naiveEnforced(all, in); would.Allow != d.Allow {
		d.Shadow = policy.Shadow{Policy: would.Policy, Allow: would.Allow, Reason: would.Reason}
	}
	return d
}

func naiveEnforced(specs []policy.Spec, in *policy.Input) policy.Decision {
	specs = slices.Clone(specs)
	key := func(s policy.Spec) string { return map[bool]string{true: "Grant/"}[s.Grant != nil] + "shop/" + s.Name }
	slices.SortFunc(specs, func(a, b policy.Spec) int { return cmp.Compare(key(a), key(b)) })
	for _, effect := range []policy.Effect{policy.Deny, policy.Allow} {
		var failed policy.Decision
		for _, s := range specs {
			if s.Effect != effect || !naiveMatch(s, in) {
				continue
			}
			key := s.Namespace + "/" + s.Name
			if s.Grant != nil {
				key = "Grant/" + key
			}
			switch holds, ok := conditions[s.When](in); {
			case !ok:
				if failed.Policy != "" {
					continue
				}
				failed = policy.Decision{Reason: policy.ReasonEvaluationError, Policy: key}
			case holds && effect == policy.Deny:
				return policy.Decision{Reason: policy.ReasonDenied, Policy: key}
			case holds:
				return policy.Decision{Allow: true, Reason: policy.ReasonAllowed, Policy: key}
			}
		}
		if failed.Policy != "" {
			return failed
		}
	}
	return policy.Decision{Reason: policy.ReasonNoMatch}
}

func naiveMatch(s policy.Spec, in *policy.Input) bool {
	who := len(s.Principals) == 0
	for _, m := range s.Principals {
		who = who || naivePrincipal(m, in.Principal)
	}
	path := len(s.Paths) == 0
	for _, p := range s.Paths {
		path = path || naivePattern(p, in.Path)
	}
	return who && path && (s.Grant == nil || !in.Now.Before(s.Grant.NotBefore) && in.Now.Before(s.Grant.NotAfter)) && (len(s.Methods) == 0 || slices.Contains(s.Methods, in.Method))
}

func naivePrincipal(m policy.PrincipalMatcher, p *policy.Principal) bool {
	if p == nil || p.Kind == policy.Anonymous {
		return m.Anonymous
	}
	issued := func(by string) bool { return m.Issuer == "" || m.Issuer == by }
	for _, other := range p.Beside {
		if m.ID != "" && m.ID == other.ID && issued(other.Issuer) {
			return true
		}
	}
	return m.Authenticated ||
		m.Group != "" && slices.Contains(p.Groups, m.Group) && issued(p.Issuer) ||
		m.ID != "" && m.ID == p.ID && issued(p.Issuer) ||
		m.SPIFFE != "" && p.SPIFFEID != "" && naivePattern(m.SPIFFE, p.SPIFFEID) ||
		m.Key != "" && m.Key == p.KeyName
}

func naivePattern(pattern, text string) bool {
	want, got := strings.Split(pattern, "/"), strings.Split(text, "/")
	for i, w := range want {
		switch {
		case w == "**":
			return true
		case i == len(got):
			return false
		case w == "*" || strings.HasPrefix(w, "{"):
			if got[i] == "" {
				return false
			}
		case w != got[i]:
			return false
		}
	}
	return len(want) == len(got)
}

// conditions are CEL expressions, and what each comes to: its value, and
// whether it has one.
var conditions = map[string]func(*policy.Input) (holds, ok bool){
	"":                             func(*policy.Input) (bool, bool) { return true, true },
	"false":                        func(*policy.Input) (bool, bool) { return false, true },
	`signals.tls.version == "1.3"`: func(in *policy.Input) (bool, bool) { return in.TLSVersion == "1.3", true },
	`request.headers["x-a"] == "1"`: func(in *policy.Input) (bool, bool) {
		v, ok := in.Header["X-A"]
		return ok && v[0] == "1", ok
	},
	`principal.kind == "user" && "red" in principal.groups`: func(in *policy.Input) (bool, bool) {
		p := in.Principal
		return p != nil && p.Kind == policy.User && slices.Contains(p.Groups, "red"), true
	},
}

// The generators draw from few values, so that most policies nearly match.
var (
	genMatcher = rapid.SampledFrom([]policy.PrincipalMatcher{
		{Group: "red"}, {Group: "blue"}, {Group: "red", Issuer: "https://a"}, {Group: "blue", Issuer: "https://b"},
		{ID: "ann"}, {ID: "bob"}, {ID: "ann", Issuer: "https://b"}, {Authenticated: true}, {Anonymous: true},
		{SPIFFE: "spiffe://prod/web"}, {SPIFFE: "spiffe://prod/*"}, {SPIFFE: "spiffe://prod/ns/**"}, {SPIFFE: "spiffe://stage/**"},
		{Key: "shop/billing"}, {Key: "shop/reports"},
	})
	genMethod    = rapid.SampledFrom([]string{"GET", "POST", "DELETE"})
	genTemplate  = rapid.SampledFrom([]string{"/", "/a", "/a/{id}", "/a/*/c", "/a/**", "/**", "/b/c", "/a/b/"})
	genCondition = rapid.SampledFrom([]string{"", "", "", "false", `signals.tls.version == "1.3"`, `request.headers["x-a"] == "1"`, `principal.kind == "user" && "red" in principal.groups`})
	genPath      = rapid.SampledFrom([]string{"/", "/a", "/a/b", "/a/b/", "/a/b/c", "/b", "/b/c", "/aa"})
	genPrincipal = rapid.Custom(func(t *rapid.T) *policy.Principal {
		groups := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"red", "blue", "green"}), 0, 3, rapid.ID).Draw(t, "groups")
		switch rapid.IntRange(0, 4).Draw(t, "kind") {
		case 0:
			return nil
		case 1:
			return &policy.Principal{Groups: groups}
		case 2:
			id := rapid.SampledFrom([]string{"spiffe://prod/web", "spiffe://prod/ns/a/b", "spiffe://stage/web"}).Draw(t, "id")
			return &policy.Principal{Kind: policy.Workload, ID: id, SPIFFEID: id, Groups: groups}
		case 3:
			name := rapid.SampledFrom([]string{"shop/billing", "pay/billing"}).Draw(t, "name")
			return &policy.Principal{Kind: policy.Key, ID: "ann", KeyName: name, Groups: groups}
		}
		return &policy.Principal{
			Kind:   policy.User,
			ID:     rapid.SampledFrom([]string{"ann", "bob", "spiffe://prod/web"}).Draw(t, "id"),
			Issuer: rapid.SampledFrom([]string{"https://a", "https://b"}).Draw(t, "issuer"),
			Groups: groups,
			// What was proven beside the token.
			SPIFFEID: rapid.SampledFrom([]string{"", "", "spiffe://prod/web", "spiffe://stage/web"}).Draw(t, "over"),
			KeyName:  rapid.SampledFrom([]string{"", "", "shop/billing"}).Draw(t, "with"),
			Beside: rapid.SampledFrom([][]*policy.Principal{
				nil, nil, {{Kind: policy.User, ID: "ann", Issuer: "https://b"}}, {{Kind: policy.Key, ID: "bob"}, {Kind: policy.User, ID: "ann"}},
			}).Draw(t, "beside"),
		}
	})
	genInput = rapid.Custom(func(t *rapid.T) *policy.Input {
		return &policy.Input{
			Principal:  genPrincipal.Draw(t, "principal"),
			Method:     rapid.SampledFrom([]string{"GET", "POST", "DELETE", "PUT", ""}).Draw(t, "method"),
			Path:       genPath.Draw(t, "path"),
			Route:      orders,
			Now:        noon.Add(time.Duration(rapid.IntRange(0, 1).Draw(t, "minutes")) * 10 * time.Minute),
			TLSVersion: rapid.SampledFrom([]string{"", "1.2", "1.3"}).Draw(t, "tls"),
			Header:     rapid.SampledFrom([]map[string][]string{nil, {"X-A": {"1"}}, {"X-A": {"2", "1"}}}).Draw(t, "header"),
		}
	})
	genSpec  = rapid.Custom(drawSpec(policy.Allow, policy.Allow, policy.Allow, policy.Deny))
	genSpecs = rapid.SliceOfNDistinct(genSpec, 0, 8, nameOf)

	// Enough for an index.
	genManyAllow = rapid.SliceOfNDistinct(genSpec, 50, 80, nameOf)
	genManyDeny  = rapid.SliceOfNDistinct(rapid.Custom(drawSpec(policy.Deny)), 40, 60, nameOf)
)

var noon = time.Date(2026, time.November, 26, 12, 0, 0, 0, time.UTC)

func nameOf(s policy.Spec) string { return s.Name }

func drawSpec(effects ...policy.Effect) func(*rapid.T) policy.Spec {
	return func(t *rapid.T) policy.Spec {
		effect := rapid.SampledFrom(effects).Draw(t, "effect")
		fewest := 0
		if effect == policy.Allow {
			fewest = 1
		}
		var grant *policy.Grant
		if effect == policy.Allow && rapid.IntRange(0, 5).Draw(t, "granted") == 0 {
			begin := noon.Add(time.Duration(rapid.IntRange(-2, 1).Draw(t, "begin")) * time.Hour)
			grant = &policy.Grant{NotBefore: begin, NotAfter: begin.Add(90 * time.Minute), Reason: "why", Approver: "eve"}
		}
		return policy.Spec{
			Grant:      grant,
			Namespace:  "shop",
			Name:       rapid.StringMatching(`[a-z]{1,2}`).Draw(t, "name"),
			Effect:     effect,
			Shadow:     rapid.IntRange(0, 7).Draw(t, "shadow") == 0,
			Principals: rapid.SliceOfN(genMatcher, fewest, 3).Draw(t, "principals"),
			Methods:    rapid.SliceOfN(genMethod, 0, 2).Draw(t, "methods"),
			Paths:      rapid.SliceOfN(genTemplate, 0, 2).Draw(t, "paths"),
			When:       genCondition.Draw(t, "when"),
		}
	}
}

func compileAll(t rapid.TB, specs []policy.Spec) []*policy.Policy {
	var pp []*policy.Policy
	for _, s := range specs {
		p, err := policy.Compile(s)
		if err != nil {
			t.Fatalf("compile %+v: %v", s, err)
		}
		pp = append(pp, p)
	}
	return pp
}

func TestDecideAgreesWithTheNaiveWay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		specs := rapid.OneOf(genSpecs, genManyAllow, genManyDeny).Draw(t, "specs")
		set := onOrders(compileAll(t, specs)...)
		held := map[*policy.Policy]bool{}
		for p := range set.Policies() {
			held[p] = true
		}
		if len(held) != len(specs) {
			t.Fatalf("%d policies held, want %d", len(held), len(specs))
		}
		for range 16 {
			in := genInput.Draw(t, "in")
			got, want := set.Decide(in), naive(specs, in)
			got.Detail = ""
			if got != want {
				t.Fatalf("got %+v, want %+v", got, want)
			}
		}
	})
}

func TestDecideDoesNotDependOnOrderOrNeighbours(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pp := compileAll(t, genSpecs.Draw(t, "specs"))
		shuffled := rapid.Permutation(pp).Draw(t, "shuffled")
		cut := rapid.IntRange(0, len(pp)).Draw(t, "cut")
		one := onOrders(pp...)
		other := policy.NewSet([]policy.Binding{
			{Route: policy.RouteID{Namespace: "shop", Name: "carts"}, Policies: compileAll(t, genSpecs.Draw(t, "neighbours"))},
			{Route: orders, Policies: shuffled[:cut]},
			{Route: policy.RouteID{Namespace: "shop", Name: "lost"}, Unavailable: "Policy shop/x was rejected"},
			{Route: orders, Policies: shuffled[cut:]},
		})
		in := genInput.Draw(t, "in")
		if got, want := other.Decide(in), one.Decide(in); got != want {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	})
}

func TestMorePoliciesGoOneWay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		specs := genSpecs.Draw(t, "specs")
		more := genSpec.Draw(t, "more")
		in := genInput.Draw(t, "in")
		pp := compileAll(t, append(specs, more))
		before, after := onOrders(pp[:len(specs)]...).Decide(in).Allow, onOrders(pp...).Decide(in).Allow
		if more.Shadow && before != after {
			t.Fatal("a policy in shadow decides")
		}
		if more.Effect == policy.Allow && before && !after {
			t.Fatal("one more ALLOW denies")
		}
		if more.Effect == policy.Deny && !before && after {
			t.Fatal("one more DENY allows")
		}
	})
}

func TestExplainAgreesWithDecide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set := onOrders(compileAll(t, genSpecs.Draw(t, "specs"))...)
		in := genInput.Draw(t, "in")
		permits, forbids := false, false
		for _, s := range set.Explain(in).Steps {
			if s.Matched != (s.Miss == policy.MissNothing) {
				t.Fatalf("contradicts itself: %+v", s)
			}
			if s.Shadow {
				continue
			}
			permits = permits || s.Effect == policy.Allow && s.Matched
			forbids = forbids || s.Effect == policy.Deny && (s.Matched || s.Miss == policy.MissError)
		}
		if got := set.Decide(in).Allow; got != (permits && !forbids) {
			t.Fatalf("decided %v, explained as permits %v, forbids %v", got, permits, forbids)
		}
	})
}
