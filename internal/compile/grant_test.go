package compile_test

import (
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/policy"
)

const grant = `---
{apiVersion: sallyport/v1, kind: Grant, metadata: {namespace: shop, name: night}, spec: {routes: {names: [orders]}, principals: [{group: oncall}],
  notBefore: 2026-11-26T20:00:00Z, notAfter: 2026-11-27T06:00:00Z, reason: incident, approver: eve}}
`

// A Grant comes and goes as a policy does. One that a proxy does not understand
// denies nothing: it would have allowed.
func TestGrant(t *testing.T) {
	ask := func(table *compile.Table) string {
		route, _ := table.Match(ask("PUT", "shop.example", "/orders"))
		if route == nil || route.Unavailable != "" {
			return "unavailable"
		}
		d := table.Policies().Decide(&policy.Input{
			Principal: &policy.Principal{Kind: policy.User, ID: "x", Groups: []string{"oncall"}}, Method: "PUT", Host: "shop.example", Path: "/orders",
			Route: route.ID(), Now: time.Date(2026, time.November, 26, 21, 0, 0, 0, time.UTC),
		})
		return string(d.Reason) + " " + d.Policy
	}
	before := compile.Compile(nil, snap(t, 1, documents(t, fleet)))
	all := documents(t, fleet+grant)
	granted := compile.Compile(before, snap(t, 2, all))
	place := named(t, all, "Grant/shop/night")
	all[place] = spoil(t, all[place], newField)
	newer := compile.Compile(granted, snap(t, 3, all))
	gone := compile.Compile(granted, snap(t, 4, documents(t, fleet)))
	for _, c := range []struct {
		name, want string
		table      *compile.Table
		rejects    int
	}{
		{"before", "no_matching_policy ", before, 0},
		{"granted", "allowed_by_policy Grant/shop/night", granted, 0},
		{"made anew", "allowed_by_policy Grant/shop/night", compile.Compile(nil, granted.Snapshot()), 0},
		{"newer than this build", "no_matching_policy ", newer, 1},
		{"gone", "no_matching_policy ", gone, 0},
	} {
		checkRoot(t, c.table)
		if got := ask(c.table); got != c.want || len(c.table.Rejects()) != c.rejects {
			t.Errorf("%s: got %s, want %s; rejects %v", c.name, got, c.want, c.table.Rejects())
		}
	}
}
