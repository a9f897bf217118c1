package policy_test

import (
	"testing"

	"github.com/sallyport/sallyport/internal/policy"
)

// Fields that conditions look at by name are told, and what they see there.
func TestFields(t *testing.T) {
	for name, want := range map[string]policy.Field{
		`request.headers["x-tenant"]`: {Header: "X-Tenant"},
		`request.headers["X-TENANT"]`: {Header: "X-Tenant"},
		`request.params["Page"]`:      {Param: "Page"},
		`request.params["a\"b"]`:      {Param: `a"b`},
		`request.headers`:             {},
		`request.params`:              {},
		`request.params[x]`:           {},
		`request.path`:                {},
		`principal.claims["level"]`:   {},
	} {
		got, ok := policy.ParseField(name)
		if want.Name = name; !ok {
			got.Name = name
		}
		if got != want || ok != (want.Header+want.Param != "") {
			t.Errorf("%s is %+v, %t", name, got, ok)
		}
	}
	in := policy.Input{Query: "page=2&page=3&q=a+b&empty", Header: map[string][]string{"X-Tenant": {"shop", "x"}}}
	for name, want := range map[string]string{
		`request.headers["x-tenant"]`: "shop", `request.headers["x-other"]`: "-", `request.params["page"]`: "2",
		`request.params["q"]`: "a b", `request.params["empty"]`: "", `request.params["none"]`: "-",
	} {
		f, _ := policy.ParseField(name)
		got, there := in.Value(f)
		if !there {
			got = "-"
		}
		if got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	in.Query += "&%zz"
	if _, there := in.Value(policy.Field{Param: "page"}); there {
		t.Error("a malformed query has a value")
	}
}
