package route_test

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/request"
	"github.com/sallyport/sallyport/internal/route"
)

func TestMatchByConditions(t *testing.T) {
	table := mustTable(t,
		"shop/plain   -   shop.example /orders",
		"shop/canary  -   shop.example /orders X-Canary=1",
		"shop/both    -   shop.example /orders X-Canary=1 ?v=2",
		"shop/beta    -   shop.example /orders X-Canary=beta*",
		"shop/betas   -   shop.example /orders X-Canary=beta-2*",
		"shop/v2      -   shop.example /orders ?v=2",
		"shop/gets    GET shop.example /orders ?format=csv",
		"shop/rest    -   shop.example /**     X-Tenant",
		"shop/nobody  -   shop.example /**     !X-Tenant",
		"shop/empty   PUT shop.example /empty  X-Empty=",
	)
	for _, c := range []struct {
		method, target string
		fields         string
		want           string
	}{
		{"PUT", "/orders", "", "shop/plain"},
		{"PUT", "/orders", "X-Canary: 1", "shop/canary"},
		{"PUT", "/orders", "X-Canary: 2", "shop/plain"},
		{"PUT", "/orders?v=2", "", "shop/v2"},
		{"PUT", "/orders?v=2", "X-Canary: 1", "shop/both"},            // more conditions first
		{"PUT", "/orders?v=2", "X-Canary: beta-1", "shop/beta"},       // headers before parameters
		{"PUT", "/orders", "X-Canary: beta-2.1", "shop/betas"},        // the longer prefix first
		{"GET", "/orders?format=csv&v=2", "X-Canary: 1", "shop/gets"}, // a named method before conditions
		{"PUT", "/orders?%76=%32", "", "shop/v2"},                     // decoded
		{"PUT", "/orders?V=2", "", "shop/plain"},
		{"PUT", "/orders?v", "", "shop/plain"},
		{"PUT", "/orders?v=22", "", "shop/plain"},
		{"PUT", "/carts", "", "shop/nobody"},
		{"PUT", "/carts", "X-Tenant: ", "shop/rest"},
		{"PUT", "/carts", "X-Tenant: a\nX-Tenant: b", "shop/rest"}, // there, however often
		{"PUT", "/empty", "X-Empty: ", "shop/empty"},
		{"PUT", "/empty", "X-Empty: x", "shop/nobody"}, // what does not fit hides none that does

		// What has no one value is not for a route to choose from.
		{"PUT", "/orders", "X-Canary: 1\nX-Canary: 1", "400 a route depends on the header X-Canary, and there is more than one"},
		{"PUT", "/orders?v=2&v=3", "", `400 a route depends on the parameter v, and the query has it more than once or has a ";"`},
		{"PUT", "/orders?v=2;v=3", "", `400 a route depends on the parameter v, and the query has it more than once or has a ";"`},
		{"PUT", "/carts?v=2&v=3", "", "shop/nobody"}, // where none looks at it, it may be anything
	} {
		var fields []string
		if c.fields != "" {
			fields = strings.Split(c.fields, "\n")
		}
		if got := lookUp(table, c.method, "shop.example", c.target, fields...); got != c.want {
			t.Errorf("%s %s %q: %q, want %q", c.method, c.target, fields, got, c.want)
		}
	}
	all := slices.Collect(table.Candidates(ask("GET", "shop.example", "/orders?v=2", "X-Canary: 1")))
	if want := []string{"shop/both", "shop/canary", "shop/v2", "shop/plain", "shop/nobody"}; !slices.Equal(all, want) {
		t.Errorf("candidates are %q, want %q", all, want)
	}
}

// Methods are allowed for which there would be a route with this header.
func TestAllowLooksAtConditions(t *testing.T) {
	table := mustTable(t, "a/a PUT a / X-A=1", "a/b POST a / X-A=2", "a/c PATCH a / ?a=1", "a/d DELETE a /")
	for _, c := range []struct{ field, want string }{
		{"X-A: 1", "405 DELETE,PUT"}, {"X-A: 2", "405 DELETE,POST"}, {"X-A: 3", "405 DELETE"},
	} {
		if got := lookUp(table, "GET", "a", "/?a=1&a=2", c.field); got != c.want {
			t.Errorf("%s: %q, want %q", c.field, got, c.want)
		}
	}
}

func TestConditionsInConflict(t *testing.T) {
	for _, c := range []struct {
		first, second string
		conflict      bool
	}{
		{"X-A=1", "X-A=1", true},
		{"X-A=1 ?b=2", "?b=2 X-A=1", true}, // in any order
		{"X-A=1", "X-A=2", false},
		{"X-A=1", "X-A=1*", false},
		{"X-A=1*", "X-A=1*", true},
		{"X-A=1*", "X-A=2*", false},
		{"X-A", "!X-A", false},
		{"X-A", "X-A", true},
		{"X-A=1", "?X-A=1", false},
		{"X-A=1", "X-B=1", false}, // by name
		{"X-A=1", "", false},
	} {
		_, err := route.NewTable(claims("a/a - a / "+c.first, "a/b - a / "+c.second))
		if (err != nil) != c.conflict {
			t.Errorf("%s and %s: %v", c.first, c.second, err)
		}
	}
}

func TestConditionsRefused(t *testing.T) {
	long := strings.Repeat("x", request.MaxConditionValue)
	for _, c := range []struct {
		conditions []request.Condition
		ok         bool
	}{
		{[]request.Condition{{}}, false},
		{[]request.Condition{{Name: "X-A", Kind: request.Exact, Value: long}}, true},
		{[]request.Condition{{Name: "X-A", Kind: request.Exact, Value: long + "x"}}, false},
		{[]request.Condition{{Name: "X-A", Kind: request.Prefix}}, false},
		{[]request.Condition{{Name: "X-A", Kind: request.Absent, Value: "x"}}, false},
		{[]request.Condition{{Name: "X-A", Kind: request.Absent + 1}}, false},
		{[]request.Condition{{Name: "X-A", Kind: request.Exact, Place: request.InQuery + 1}}, false},
		{[]request.Condition{{Name: "x-a", Kind: request.Present}}, false},
		{[]request.Condition{{Name: "X_a", Kind: request.Present}}, false},
		{[]request.Condition{{Name: "Host", Kind: request.Present}}, false},
		{[]request.Condition{{Name: "X-Forwarded-For", Kind: request.Present}}, false},
		{[]request.Condition{{Name: "Upgrade", Kind: request.Present}}, false},
		{[]request.Condition{{Name: "Cookie", Kind: request.Present}}, false},
		{[]request.Condition{{Name: "a b", Kind: request.Present, Place: request.InQuery}}, false},
		{[]request.Condition{{Name: "a.b", Kind: request.Present, Place: request.InQuery}}, true},
		{[]request.Condition{{Name: "X-A", Kind: request.Present}, {Name: "X-A", Kind: request.Exact}}, false},
		{[]request.Condition{{Name: "X-A", Kind: request.Present}, {Name: "X-A", Kind: request.Exact, Place: request.InQuery}}, true},
	} {
		e := claim("a/a - a /")
		e.Conditions = c.conditions
		_, err := route.NewTable([]entry{e})
		var problems route.Problems
		if (err == nil) != c.ok || err != nil && (!errors.As(err, &problems) || problems[0].Field != "conditions") {
			t.Errorf("%v: %v", c.conditions, err)
		}
	}
}

// A condition that is not understood holds, so that a route of which no more is
// known takes all requests that it could.
func TestAnythingHoldsAndKeepsItsPlace(t *testing.T) {
	unknown := claim("a/unknown - a /")
	unknown.Conditions = []request.Condition{{Name: "X-A", Kind: request.Anything}, {Name: "X-B", Kind: request.Exact, Value: "1"}}
	table, err := route.NewTable(append(claims("a/plain - a /", "a/one - a / X-A=1"), unknown))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ fields, want string }{
		{"X-A: 1", "a/one"}, {"X-B: 1", "a/unknown"}, {"X-A: 1,X-B: 1", "a/unknown"}, {"X-B: 2", "a/plain"},
	} {
		if got := lookUp(table, "GET", "a", "/", strings.Split(c.fields, ",")...); got != c.want {
			t.Errorf("%s: %s, want %s", c.fields, got, c.want)
		}
	}
}

// A claim with conditions counts as those without do.
func TestAllYieldsEntriesWithConditions(t *testing.T) {
	table := mustTable(t, "a/a GET,PUT a,b /x,/y X-A=1", "a/b - a /x X-A=2", "a/c - a /lost X-A=3")
	count := func() (n int) {
		for range table.All() {
			n++
		}
		return n
	}
	if n := count(); n != 3 {
		t.Errorf("%d of 3 are in force", n)
	}
	table.Lose("lost")
	if n := count(); n != 2 {
		t.Errorf("after a loss, %d of 2 are in force", n)
	}
	table.LoseChoice()
	if n := count(); n != 1 {
		t.Errorf("after another, %d of 1 are in force", n)
	}
}

// Parameters are read as conditions of policies read them.
func FuzzParameter(f *testing.F) {
	for _, query := range []string{"", "a=1", "%61=1&b", "a=+%2b&a", "a;b=1", "a==&=a", "&&a=%00"} {
		f.Add(query, "a", "1")
	}
	f.Fuzz(func(t *testing.T, query, name, value string) {
		want, err := url.ParseQuery(query)
		c := request.Condition{Place: request.InQuery, Kind: request.Exact, Name: name, Value: value}
		if c.Check() != nil || err != nil && !strings.Contains(query, ";") {
			return // no such condition, or no canonical query
		}
		e := claim("a/a - a /")
		e.Conditions = []request.Condition{c}
		table, tableErr := route.NewTable([]entry{e})
		if tableErr != nil {
			t.Fatal(tableErr)
		}
		expected := "a/a"
		switch values := want[name]; {
		case err != nil || len(values) > 1:
			expected = "400"
		case len(values) == 0 || values[0] != value:
			expected = ""
		}
		if got := lookUp(table, "GET", "a", "/?"+query); !strings.HasPrefix(got, expected) || expected == "" && got != "" {
			t.Errorf("%q by %v: %q, want %q", query, c, got, expected)
		}
	})
}

func TestLookupsDoNotAllocate(t *testing.T) {
	long := strings.Repeat("v", request.MaxConditionValue)
	var list []entry
	conditions := make([]string, route.MaxConditions)
	target, fields := "/?", []string(nil)
	for i := range conditions {
		if i%2 == 0 {
			conditions[i] = fmt.Sprintf("X-%d=%s", i, long)
			fields = append(fields, fmt.Sprintf("X-%d: %s", i, long))
			continue
		}
		conditions[i] = fmt.Sprintf("?p%d=%s", i, long)
		target += fmt.Sprintf("p%d=%s&", i, strings.Repeat("%76", request.MaxConditionValue))
	}
	list = append(list, claim("a/a - a / "+strings.Join(conditions, " ")), claim("a/b - a / ?p1=x*"))
	table, err := route.NewTable(list)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ target, want string }{
		{target, "a/a"},
		{"/?p1=" + strings.Repeat("%78", 4<<10), "a/b"},
		{"/?p1=" + strings.Repeat("v", 12<<10), ""},
	} {
		asked := ask("GET", "a", c.target, fields...)
		if got := found(table, asked); got != c.want {
			t.Errorf("%.20s: %q, want %q", c.target, got, c.want)
		}
		if n := testing.AllocsPerRun(100, func() { table.Match(asked) }); n > 0 {
			t.Errorf("%.20s: %v allocations", c.target, n)
		}
	}
}
