package policy_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sallyport/sallyport/internal/policy"
)

// genWhen draws conditions of a few clauses, joined in every way there is.
var genWhen = rapid.Custom(func(t *rapid.T) string { return drawWhen(t, 2) })

func drawWhen(t *rapid.T, depth int) string {
	forms := []string{"", "%s && %s", "%s || %s", "!%s", "%s ? %s : %s"}
	if depth == 0 {
		forms = forms[:1]
	}
	inner := func() string { return "(" + drawWhen(t, depth-1) + ")" }
	switch form := rapid.SampledFrom(forms).Draw(t, "form"); form {
	case "":
		return rapid.SampledFrom([]string{
			"true", "false", `signals.tls.version == "1.3"`, `request.headers["x-a"] == "1"`, `request.path.startsWith("/a")`,
			`"red" in principal.groups`, `principal.kind == "user"`, `principal.groups.exists(g, g == "blue" || g == "green")`,
		}).Draw(t, "clause")
	case "!%s":
		return fmt.Sprintf(form, inner())
	case "%s ? %s : %s":
		return fmt.Sprintf(form, inner(), inner(), inner())
	default:
		return fmt.Sprintf(form, inner(), inner())
	}
}

// question is policies and a request to ask them.
type question struct {
	specs []policy.Spec
	in    *policy.Input
}

var genQuestion = rapid.Custom(func(t *rapid.T) question {
	genSpec := rapid.Custom(func(t *rapid.T) policy.Spec {
		s := drawSpec(policy.Allow, policy.Allow, policy.Allow, policy.Allow, policy.Allow, policy.Deny)(t)
		if rapid.IntRange(0, 3).Draw(t, "wide") > 0 {
			s.Methods, s.Paths = nil, nil
			s.Principals = append(s.Principals, policy.PrincipalMatcher{Authenticated: true}, policy.PrincipalMatcher{Anonymous: true})
		}
		if rapid.Bool().Draw(t, "conditional") {
			s.When = genWhen.Draw(t, "when")
		}
		return s
	})
	return question{
		specs: rapid.SliceOfNDistinct(genSpec, 1, 4, nameOf).Draw(t, "specs"),
		in:    genInput.Draw(t, "in"),
	}
})

// Of a thousand policy sets and requests every explanation agrees with the
// decision, and every clause that it names changes the outcome as it says, in
// policies that are compiled anew without it.
func TestEveryClauseThatIsNamedCounts(t *testing.T) {
	allowed, named := 0, 0
	reasons := map[policy.Reason]int{}
	for i := range 1000 {
		q := genQuestion.Example(i)
		pp := compileAll(t, q.specs)
		e := onOrders(pp...).Explain(q.in)
		if e.Decision != onOrders(pp...).Decide(q.in) {
			t.Fatalf("explained as %+v, decided as %+v", e.Decision, onOrders(pp...).Decide(q.in))
		}
		byName := map[string]*policy.Policy{}
		for _, p := range pp {
			byName[p.Key()] = p
		}
		if got := outcome(e.Steps); got != e.Decision.Allow || e.Omitted > 0 || len(e.Steps) != len(pp) {
			t.Fatalf("%d: decided %+v, explained as %+v", i, e.Decision, e.Steps)
		}
		for _, s := range e.Steps {
			named += checkWays(t, q, byName[s.Policy], s)
		}
		for _, change := range e.Changes {
			checkChange(t, q, byName, e, change)
		}
		if len(e.Changes) == 0 && !hopeless(e) {
			t.Errorf("%d: nothing would have changed %+v", i, e)
		}
		reasons[e.Decision.Reason]++
		if e.Decision.Allow {
			allowed++
		}
	}
	t.Logf("%d of 1000 allowed, %d clauses flipped, reasons %v", allowed, named, reasons)
	if allowed < 300 || allowed > 700 || len(reasons) < 3 || named < 1000 {
		t.Errorf("a poor sample: %d of 1000 allowed, %d clauses, reasons %v", allowed, named, reasons)
	}
}

// hopeless reports whether there is no ALLOW that could allow, or a DENY that
// denies whatever the request.
func hopeless(e policy.Explanation) bool {
	return !slices.ContainsFunc(e.Steps, func(s policy.Step) bool { return s.Effect == policy.Allow && !s.Shadow }) ||
		slices.ContainsFunc(e.Steps, func(s policy.Step) bool { return speaks(s) && !s.Shadow && len(s.Ways) == 0 })
}

func outcome(steps []policy.Step) bool {
	permits, forbids := false, false
	for _, s := range steps {
		if s.Shadow {
			continue
		}
		permits = permits || s.Effect == policy.Allow && s.Matched
		forbids = forbids || s.Effect == policy.Deny && speaks(s)
	}
	return permits && !forbids
}

func speaks(s policy.Step) bool {
	return s.Matched || s.Effect == policy.Deny && s.Miss == policy.MissError
}

// checkWays flips the clauses of a step, all of a way, and all but each one.
func checkWays(t *testing.T, q question, p *policy.Policy, s policy.Step) (named int) {
	t.Helper()
	says := func(clauses ...policy.Clause) bool {
		return speaks(onOrders(policy.Flipped(p, clauses...)).Explain(q.in).Steps[0])
	}
	for _, way := range s.Ways {
		if says(way...) == speaks(s) {
			t.Fatalf("%+v\nof %+v\nis not changed by %+v", s, q.specs, way)
		}
		for i := range way {
			named++
			if len(way) > 1 && says(slices.Delete(slices.Clone(way), i, i+1)...) != speaks(s) {
				t.Fatalf("%+v\nof %+v\nis changed without clause %d of %+v", s, q.specs, i, way)
			}
		}
	}
	return named
}

// checkChange flips the clauses of a change, all of it, and all but each one.
func checkChange(t *testing.T, q question, byName map[string]*policy.Policy, e policy.Explanation, change policy.Change) {
	t.Helper()
	allows := func(flips policy.Change) bool {
		pp := maps.Clone(byName)
		clauses := map[string][]policy.Clause{}
		for _, f := range flips {
			clauses[f.Policy] = append(clauses[f.Policy], f.Clause)
		}
		for name, cc := range clauses {
			pp[name] = policy.Flipped(pp[name], cc...)
		}
		return onOrders(slices.Collect(maps.Values(pp))...).Decide(q.in).Allow
	}
	if allows(change) == e.Decision.Allow {
		t.Fatalf("%+v is not changed by %+v", e, change)
	}
	for i := range change {
		if len(change) > 1 && allows(slices.Delete(slices.Clone(change), i, i+1)) != e.Decision.Allow {
			t.Fatalf("%+v is changed without flip %d of %+v", e, i, change)
		}
	}
}

// What a flood of policies costs those who ask why is bounded, and what decides
// is not left out.
func TestExplanationsAreBounded(t *testing.T) {
	var pp []*policy.Policy
	for i := range 100 {
		pp = append(pp, allow(t, fmt.Sprintf("a%02d", i), group("others")), deny(t, fmt.Sprintf("d%02d", i), group("nobody")))
	}
	near := allow(t, "near", group("shop"), when(`signals.tls.version == "1.2"`))
	in := request(user("ann", "shop"), "GET", "/")
	e := onOrders(append(pp, near)...).Explain(in)
	if len(e.Steps) != policy.MaxSteps || e.Omitted != 201-policy.MaxSteps || outcome(e.Steps) != e.Decision.Allow {
		t.Errorf("%d steps, %d omitted", len(e.Steps), e.Omitted)
	}
	if len(e.Changes) == 0 || e.Changes[0][0].Policy != "shop/near" || told(e.Changes[0][0].Clause) != `1:1 [signals.tls.version == "1.2"] is false` {
		t.Errorf("the nearest change is %+v", e.Changes)
	}
	for i := range policy.MaxSteps + 1 {
		pp = append(pp, deny(t, fmt.Sprintf("x%02d", i), authenticated()))
	}
	if e := onOrders(pp...).Explain(in); len(e.Changes) > 0 || len(e.Steps) != policy.MaxSteps {
		t.Errorf("%d DENYs deny, and yet %+v", policy.MaxSteps+1, e.Changes)
	}
}

// An explanation says what policies say, and of requests no more than whether
// that holds.
func TestExplanationsRepeatNothingOfTheRequest(t *testing.T) {
	who := user("s3cret", "s3cret")
	who.Claims = map[string]any{"a": "s3cret"}
	in := request(who, "GET", "/s3cret")
	in.Host, in.Query = "s3cret.example", "a=s3cret"
	e := onOrders(
		allow(t, "a", group("shop"), paths("/a"), when(`request.headers.authorization == "x" && principal.claims.a == "b" && int(request.query) > 1`)),
		deny(t, "b", matcher(policy.PrincipalMatcher{ID: "x"}), when(`request.host.matches("^a") && int(principal.id) == 1`)),
	).Explain(in)
	if text := fmt.Sprintf("%+v", e); slices.ContainsFunc([]string{"s3cret", "Bearer"}, func(s string) bool { return strings.Contains(text, s) }) {
		t.Errorf("explained as %s", text)
	}
}
