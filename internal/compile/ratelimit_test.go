package compile_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/request"
)

func limit(name, spec string) string {
	return fmt.Sprintf("---\n{apiVersion: sallyport/v1, kind: RateLimit, metadata: {namespace: shop, name: %s}, spec: {routes: {names: [orders]}, %s}}\n", name, spec)
}

// A RateLimit comes, changes and goes as a policy does, and what does not change is
// the same as before. One that a proxy does not understand denies what it selects.
func TestRateLimits(t *testing.T) {
	const hours = `---
{apiVersion: sallyport/v1, kind: Condition, metadata: {namespace: shop, name: hours}, spec: {when: '%s'}}
`
	show := func(table *compile.Table) string {
		route, _ := table.Match(&request.Canonical{Method: "PUT", Host: "shop.example", Path: "/orders"})
		if route.Unavailable != "" {
			return "unavailable"
		}
		var b strings.Builder
		for _, l := range route.Limits {
			fmt.Fprintf(&b, "%s %s %v ", l.Key.Name, l.Rate.Interval, l.Authenticated)
		}
		return b.String()
	}
	base := compile.Compile(nil, snap(t, 1, documents(t, fleet)))
	one := compile.Compile(base, snap(t, 2, documents(t, fleet+limit("a", "requests: 1, period: 1s"))))
	two := compile.Compile(one, snap(t, 3, documents(t, fleet+limit("a", "requests: 1, period: 1s")+limit("b", "key: [{principal: true}], requests: 2, period: 1s"))))
	all := documents(t, fleet+limit("a", "requests: 1, period: 1s"))
	place := named(t, all, "RateLimit/shop/a")
	all[place] = spoil(t, all[place], newField)
	newer := compile.Compile(one, snap(t, 4, all))
	of := func(when string) string {
		return limit("a", `requests: 1, period: 1s, when: 'condition("hours")'`) + fmt.Sprintf(hours, when)
	}
	linked := compile.Compile(one, snap(t, 5, documents(t, fleet+of("true"))))
	later := compile.Compile(linked, snap(t, 6, documents(t, fleet+of(`principal.kind == "user"`))))
	dangling := compile.Compile(one, snap(t, 7, documents(t, fleet+limit("a", `requests: 1, period: 1s, when: 'condition("hours")'`))))
	for _, c := range []struct {
		name, want string
		table      *compile.Table
		rejects    int
	}{
		{"before", "", base, 0},
		{"one", "a 1s false ", one, 0},
		{"two", "a 1s false b 500ms true ", two, 0},
		{"gone again", "", compile.Compile(two, base.Snapshot()), 0},
		{"newer than this build", "unavailable", newer, 1},
		{"refers to a condition", "a 1s false ", linked, 0},
		{"which looks at the principal by now", "a 1s true ", later, 0},
		{"which is not there", "unavailable", dangling, 1},
	} {
		checkRoot(t, c.table)
		fresh := compile.Compile(nil, c.table.Snapshot())
		if show(c.table) != c.want || show(fresh) != c.want || len(c.table.Rejects()) != c.rejects || len(fresh.Rejects()) != c.rejects {
			t.Errorf("%s: got %q, made anew %q, want %q; rejects %v", c.name, show(c.table), show(fresh), c.want, c.table.Rejects())
		}
		if got, want := fmt.Sprint(keysOf(c.table)), fmt.Sprint(keysOf(fresh)); got != want {
			t.Errorf("%s: limits are %s, made anew %s", c.name, got, want)
		}
	}
	if one.RateLimits()[0] != two.RateLimits()[0] {
		t.Error("a limit that stayed was compiled again")
	}
	other := compile.Compile(two, snap(t, 8, append(documents(t, fleet+grant), documents(t, limit("a", "requests: 1, period: 1s")+limit("b", "key: [{principal: true}], requests: 2, period: 1s"))...)))
	if &other.RateLimits()[0] != &two.RateLimits()[0] {
		t.Error("a grant made another list of limits")
	}
}

func keysOf(t *compile.Table) (keys []string) {
	for _, l := range t.RateLimits() {
		keys = append(keys, l.Key.Name)
	}
	return keys
}
