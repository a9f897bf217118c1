package policy_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/policy"
)

func TestCompileRefuses(t *testing.T) {
	good := []part{authenticated()}
	with := func(p ...part) policy.Spec { return spec(policy.Allow, "p", append(good[:1:1], p...)...) }
	who := func(m policy.PrincipalMatcher) policy.Spec { return spec(policy.Allow, "p", matcher(m)) }
	key := func(namespace, name string) policy.Spec {
		s := with()
		s.Namespace, s.Name = namespace, name
		return s
	}
	many := make([]string, 257)
	for i := range many {
		many[i] = fmt.Sprintf("/p%d", i)
	}
	for _, c := range []struct {
		spec policy.Spec
		want []string // prefixes of the problems, in order
	}{
		{key("", "p"), []string{"namespace: must not be empty"}},
		{key("shop", ""), []string{"name: must not be empty"}},
		{spec(policy.EffectUnspecified, "p", good...), []string{"effect: must be ALLOW or DENY"}},
		{spec(9, "p", good...), []string{"effect: "}},

		{spec(policy.Allow, "p"), []string{"principals: an ALLOW must name its principals"}},
		{who(policy.PrincipalMatcher{}), []string{"principals[0]: set exactly one"}},
		{who(policy.PrincipalMatcher{Issuer: "https://login.example"}), []string{"principals[0]: set exactly one"}},
		{who(policy.PrincipalMatcher{Group: "a", ID: "b"}), []string{"principals[0]: set exactly one"}},
		{who(policy.PrincipalMatcher{Authenticated: true, Anonymous: true}), []string{"principals[0]: set exactly one"}},
		{who(policy.PrincipalMatcher{Authenticated: true, Issuer: "i"}), []string{"principals[0].issuer: goes with group or id only"}},
		{who(policy.PrincipalMatcher{SPIFFE: "spiffe://prod.example/x", Issuer: "i"}), []string{"principals[0].issuer: goes with"}},
		{who(policy.PrincipalMatcher{SPIFFE: "spiffe://*/x"}), []string{"principals[0].spiffe: "}},
		{who(policy.PrincipalMatcher{SPIFFE: "https://prod.example/x"}), []string{"principals[0].spiffe: "}},
		{who(policy.PrincipalMatcher{ID: "spiffe://prod.example/x"}), []string{"principals[0].id: name a SPIFFE ID with spiffe"}},
		{who(policy.PrincipalMatcher{Group: "a\nb"}), []string{"principals[0].group: contains a control character"}},
		{who(policy.PrincipalMatcher{Group: "a\xff"}), []string{"principals[0].group: is not UTF-8"}},
		{who(policy.PrincipalMatcher{ID: strings.Repeat("x", policy.MaxNameLength+1)}), []string{"principals[0].id: 1025 bytes: more than 1024"}},
		{spec(policy.Deny, "p", matcher(policy.PrincipalMatcher{})), []string{"principals[0]: set exactly one"}},
		{policy.Spec{Namespace: "a", Name: "b", Effect: policy.Allow, Principals: make([]policy.PrincipalMatcher, policy.MaxPrincipals+1)},
			[]string{"principals: 257 entries: more than 256"}},

		{with(methods("get")), []string{`methods[0]: "get" is not an upper-case method name`}},
		{with(methods("GET", "*")), []string{`methods[1]: "*" is not`}},
		{with(methods("")), []string{`methods[0]: "" is not`}},
		{with(methods("GET ")), []string{`methods[0]: "GET " is not`}},
		{with(methods("-GET")), []string{`methods[0]: "-GET" is not`}},
		{with(methods(make([]string, policy.MaxMethods+1)...)), []string{"methods: 33 entries: more than 32"}},

		{with(paths("")), []string{"paths[0]: "}},
		{with(paths("v1")), []string{"paths[0]: "}},
		{with(paths("/ok", "/**/x")), []string{"paths[1]: "}},
		{with(paths(many...)), []string{"paths: 257 entries: more than 256"}},

		{with(when("signals.gia == 'DE'")), []string{"when:1:8: undefined field 'gia'"}},

		// All at once.
		{spec(policy.EffectUnspecified, "", matcher(policy.PrincipalMatcher{}), methods("get"), paths("x"), when("nope ||\n nada")), []string{
			"name: ", "effect: ", "principals[0]: ", "methods[0]: ", "paths[0]: ", "when:1:1: undeclared reference to 'nope'", "when:2:2: undeclared reference to 'nada'",
		}},
	} {
		p, err := policy.Compile(c.spec)
		problems := policy.Problems(err)
		if p != nil || len(problems) != len(c.want) {
			t.Errorf("%+v: got policy %v and problems %v, want %q", c.spec, p != nil, problems, c.want)
			continue
		}
		for i, want := range c.want {
			if !strings.HasPrefix(problems[i].Error(), want) {
				t.Errorf("%+v: problem %d is %q, want %q", c.spec, i, problems[i], want)
			}
		}
	}
}

func TestCompileAccepts(t *testing.T) {
	for _, s := range []policy.Spec{
		spec(policy.Deny, "everything"),
		spec(policy.Allow, "tokens", authenticated(), methods("GET", "M-SEARCH", "VERSION-CONTROL", "X2_Y", "GET")),
		spec(policy.Allow, "longest", matcher(policy.PrincipalMatcher{ID: strings.Repeat("x", policy.MaxNameLength)})),
		spec(policy.Allow, "condition", authenticated(), when("true"+strings.Repeat(" ", policy.MaxWhenLength-4))),
	} {
		compile(t, s)
	}
}

func TestProblems(t *testing.T) {
	a := &policy.Error{Field: "name", Reason: "must not be empty"}
	b := &policy.Error{Field: "when", Reason: "is odd", Line: 2, Column: 3}
	err := fmt.Errorf("apply: %w", errors.Join(errors.New("other"), a, fmt.Errorf("policy: %w", b)))
	got := policy.Problems(err)
	if len(got) != 2 || got[0] != a || got[1] != b {
		t.Errorf("got %v", got)
	}
	if got := b.Error(); got != "when:2:3: is odd" {
		t.Errorf("got %q", got)
	}
	if got := policy.Problems(nil); got != nil {
		t.Errorf("problems of nil: %v", got)
	}
}
