package policy_test

import (
	"fmt"
	"testing"

	"github.com/sallyport/sallyport/internal/policy"
)

func inputOfValues() *policy.Input {
	return &policy.Input{
		Principal: &policy.Principal{Kind: policy.User, ID: "ann", Claims: map[string]any{"tenant": "gold", "weight": 3.0}},
		Method:    "POST", Path: "/v1/orders", Header: map[string][]string{"X-Tenant": {"silver"}, "X-Cost": {"7"}},
	}
}

// What expressions come to, which have a value or none.
func TestValuesOfExpressions(t *testing.T) {
	const none = "none"
	for _, c := range []struct{ text, want string }{
		{`request.method`, "POST"},
		{`"all"`, "all"},
		{`request.headers["x-tenant"]`, "silver"},
		{`request.headers["x-other"]`, none},
		{`"x-other" in request.headers ? request.headers["x-other"] : principal.id`, "ann"},
		{`string(principal.claims.tenant)`, "gold"},
		{`string(principal.claims.plan)`, none},
		{`principal.id + "/" + request.method`, "ann/POST"},
		{`request.path.split("/")[1]`, ""}, // not in the language
	} {
		compiled, err := policy.CompileText("key", c.text)
		if c.want == "" {
			if err == nil {
				t.Errorf("%s compiles", c.text)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		got, known := compiled.Value(inputOfValues())
		if !known {
			got = none
		}
		if got != c.want {
			t.Errorf("%s: got %s, want %s", c.text, got, c.want)
		}
	}
	for _, c := range []struct{ text, want string }{
		{`5`, "5"},
		{`request.method == "POST" ? 5 : 1`, "5"},
		{`int(request.headers["x-cost"])`, "7"},
		{`int(request.headers["x-tenant"])`, none},
		{`size(request.path)`, "10"},
		{`int(principal.claims.weight) * 2`, "6"},
		{`1 / (size(request.path) - 10)`, none},
	} {
		compiled, err := policy.CompileNumber("cost", c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		got := none
		if n, known := compiled.Value(inputOfValues()); known {
			got = fmt.Sprint(n)
		}
		if got != c.want {
			t.Errorf("%s: got %s, want %s", c.text, got, c.want)
		}
	}
}

// What is nil has no value, and a condition that is nil holds.
func TestNoExpression(t *testing.T) {
	if _, known := (*policy.Text)(nil).Value(inputOfValues()); known {
		t.Error("a text that is not there has a value")
	}
	if _, known := (*policy.Number)(nil).Value(inputOfValues()); known {
		t.Error("a number that is not there has a value")
	}
	if holds, known := (*policy.When)(nil).Holds(inputOfValues()); !holds || !known {
		t.Error("a condition that is not there does not hold")
	}
}
