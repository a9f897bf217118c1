package compile_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/resource"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

const conditional = `
{apiVersion: sallyport/v1, kind: Environment, metadata: {name: aws}}
---
{apiVersion: sallyport/v1, kind: Upstream, metadata: {namespace: shop, name: u}, spec: {endpoints: ["127.0.0.1:80"], plaintext: {}}}
---
{apiVersion: sallyport/v1, kind: Route, metadata: {namespace: shop, name: plain}, spec: {hosts: [a.example], upstream: u, authentication: {anonymous: true}}}
---
{apiVersion: sallyport/v1, kind: Route, metadata: {namespace: shop, name: one}, spec: {hosts: [a.example], headers: [{name: X-A, exact: "1"}], upstream: u, authentication: {anonymous: true}}}
---
{apiVersion: sallyport/v1, kind: Route, metadata: {namespace: shop, name: two}, spec: {hosts: [a.example], headers: [{name: X-A, exact: "1"}], query: [{name: b, exact: "1"}], upstream: u, authentication: {anonymous: true}}}
`

// taken is the routes that take requests with X-A: 1 and with b=1 each, both, or
// none, each with "!" if it denies.
func taken(t *testing.T, documents [][]byte) string {
	t.Helper()
	table := compile.Compile(nil, snap(t, 1, documents))
	checkRoot(t, table)
	var all []string
	for _, query := range []string{"", "b=1"} {
		for _, values := range [][]string{nil, {"1"}} {
			c := ask("GET", "a.example", "/")
			c.RawQuery, c.Header = query, map[string][]string{"X-A": values}
			r, _ := table.Match(c)
			if r == nil {
				t.Fatal("no route")
			}
			name := r.Key.Name
			if r.Unavailable != "" {
				name += "!"
			}
			all = append(all, name)
		}
	}
	return strings.Join(all, " ")
}

// A route of which conditions are not understood denies all that it might have
// taken, in its place, and no more than that.
func TestConditionsOfNewerRoutes(t *testing.T) {
	kindless := func(r *resourcev1.Route) { r.Query[0].Value = nil }
	for name, c := range map[string]struct {
		edit func(*resourcev1.Route)
		want string
	}{
		"as it is":                      {func(*resourcev1.Route) {}, "plain one plain two"},
		"a field beside the conditions": {func(r *resourcev1.Route) { r.ProtoReflect().SetUnknown(newer()) }, "plain one plain two!"},
		"a kind of condition":           {kindless, "plain two! plain two!"},
		"a field of a condition":        {func(r *resourcev1.Route) { r.Query[0].ProtoReflect().SetUnknown(newer()) }, "plain two! plain two!"},
		"a header that cannot be":       {func(r *resourcev1.Route) { r.Headers[0].Name = "X_A" }, "plain one two! two!"},
		"a name twice": {func(r *resourcev1.Route) {
			r.Query = append(r.Query, proto.CloneOf(r.Query[0]))
		}, "plain one plain two!"},
		"more conditions than there can be": {func(r *resourcev1.Route) {
			for range 9 {
				r.Query = append(r.Query, r.Query[0])
			}
		}, "plain! one! plain! one!"},
	} {
		all := documents(t, conditional)
		i := named(t, all, "Route/shop/two")
		all[i] = spoil(t, all[i], func(d *resourcev1.Document) {
			var r resourcev1.Route
			if err := proto.Unmarshal(d.GetSpec(), &r); err != nil {
				t.Fatal(err)
			}
			c.edit(&r)
			b, err := proto.Marshal(&r)
			if err != nil {
				t.Fatal(err)
			}
			d.Spec = b
		})
		if got := taken(t, all); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// Routes with the same conditions, in any order, are in conflict: both deny.
func TestConditionsInConflict(t *testing.T) {
	all := documents(t, conditional+`
---
{apiVersion: sallyport/v1, kind: Route, metadata: {namespace: shop, name: three}, spec: {hosts: [a.example], query: [{name: b, exact: "1"}], headers: [{name: x-a, exact: "1"}], upstream: u, authentication: {anonymous: true}}}
`)
	table := compile.Compile(nil, snap(t, 1, all))
	if got := table.Rejects(); len(got) != 2 || got[0].Key.Kind != resource.KindRoute || !strings.Contains(got[0].Reason, "claims the same") {
		t.Errorf("rejects %v", got)
	}
	if got := taken(t, all); got != "plain one plain three!" && got != "plain one plain two!" {
		t.Error(got)
	}
}
