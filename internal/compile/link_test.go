package compile_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/resource"
)

// naming is a route with policies that refer to a condition and sets by name.
func naming(hours, office string) string {
	policy := func(name, when string) string {
		return fmt.Sprintf("---\n{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: %s}, spec: "+
			"{routes: {names: [named]}, effect: ALLOW, methods: [%s], principals: [{group: ann}], when: '%s'}}\n", name, strings.ToUpper(name), when)
	}
	return fleet + "---\n{apiVersion: sallyport/v1, kind: Route, metadata: {namespace: shop, name: named}, spec: " +
		"{hosts: [shop.example], paths: [/named], upstream: orders, authentication: {identityProviders: [login]}}}\n" +
		"---\n{apiVersion: sallyport/v1, kind: Condition, metadata: {namespace: shop, name: hours}, spec: {when: '" + hours + "'}}\n" +
		"---\n{apiVersion: sallyport/v1, kind: Condition, metadata: {namespace: shop, name: outer}, spec: {when: 'condition(\"hours\")'}}\n" +
		"---\n{apiVersion: sallyport/v1, kind: Set, metadata: {namespace: shop, name: office}, spec: {" + office + "}}\n" +
		policy("get", `condition("hours")`) + policy("put", `condition("outer")`) + policy("post", `request.path.inSet("office")`) + policy("head", "true")
}

func compiled(table *compile.Table) map[string]*policy.Policy {
	all := map[string]*policy.Policy{}
	for p := range table.Policies().Policies() {
		all[p.Key()] = p
	}
	return all
}

// A change of what policies refer to by name is in force, and compiles those
// that refer to it anew, and no other.
func TestNamedConditionsAndSets(t *testing.T) {
	ask := func(table *compile.Table) string {
		var b strings.Builder
		for _, method := range []string{"GET", "PUT", "POST", "HEAD"} {
			r := req(method + " shop.example /named ann")
			fmt.Fprintf(&b, "%s %v ", method, r.allowed(table))
		}
		return b.String()
	}
	step := func(prev *compile.Table, revision int, hours, office, want string, anew ...string) *compile.Table {
		t.Helper()
		table := compile.Compile(prev, snap(t, revision, documents(t, naming(hours, office))))
		checkRoot(t, table)
		if got := ask(table); got != want {
			t.Errorf("when %s and %s: got %s, want %s", hours, office, got, want)
		}
		before := compiled(prev)
		for key, p := range compiled(table) {
			changed := before[key] != p
			if prev != nil && changed != strings.Contains(strings.Join(anew, " "), strings.TrimPrefix(key, "shop/")) {
				t.Errorf("when %s and %s: %s is compiled anew: %v", hours, office, key, changed)
			}
		}
		if fresh := compile.Compile(nil, table.Snapshot()); ask(fresh) != want {
			t.Errorf("made anew: got %s, want %s", ask(fresh), want)
		}
		return table
	}
	table := step(nil, 1, "true", "ids: [/named]", "GET true PUT true POST true HEAD true ")
	table = step(table, 2, "false", "ids: [/named]", "GET false PUT false POST true HEAD true ", "get", "put")
	table = step(table, 3, "false", "ids: [/carts]", "GET false PUT false POST false HEAD true ", "post")
	table = step(table, 4, "true", "ids: [/carts]", "GET true PUT true POST false HEAD true ", "get", "put")
	// A policy that changes alone is linked as well.
	other := strings.Replace(naming("true", "ids: [/carts]"), `"office")`, `"office") || condition("outer")`, 1)
	next := compile.Compile(table, snap(t, 5, documents(t, other)))
	if got := ask(next); got != "GET true PUT true POST true HEAD true " {
		t.Errorf("one policy changed: %s", got)
	}
	checkRoot(t, next)
}

// What a policy refers to and a proxy does not have, or does not understand,
// denies the routes of that policy.
func TestNamedThatAreNotThereDeny(t *testing.T) {
	all := documents(t, naming("true", "ids: [/named]"))
	lacks := func(key resource.Key) [][]byte {
		var kept [][]byte
		for _, d := range all {
			if e, err := resource.ParseEnvelope(d); err != nil || e.Key != key {
				kept = append(kept, d)
			}
		}
		return kept
	}
	newer := func(key resource.Key) [][]byte {
		var kept [][]byte
		for _, d := range all {
			if e, err := resource.ParseEnvelope(d); err == nil && e.Key == key {
				d = spoil(t, d, newField)
			}
			kept = append(kept, d)
		}
		return kept
	}
	hours := resource.Key{Kind: resource.KindCondition, Namespace: "shop", Name: "hours"}
	office := resource.Key{Kind: resource.KindSet, Namespace: "shop", Name: "office"}
	for name, c := range map[string]struct {
		documents [][]byte
		rejected  string
	}{
		"no condition":    {lacks(hours), "Policy/shop/get: refers to Condition/shop/hours, which is not there"},
		"no set":          {lacks(office), "Policy/shop/post: refers to Set/shop/office, which is not there"},
		"newer condition": {newer(hours), "Policy/shop/put: refers to Condition/shop/hours, which was rejected"},
		"newer set":       {newer(office), "Policy/shop/post: refers to Set/shop/office, which was rejected"},
		"other set":       {documents(t, naming("true", "cidrs: [10.0.0.0/8]")), "Policy/shop/post: when:1:20: Set \"office\" has cidrs: look up an address, as signals.ip"},
	} {
		table := compile.Compile(nil, snap(t, 1, c.documents))
		checkRoot(t, table)
		texts := map[string]bool{}
		for _, r := range table.Rejects() {
			texts[r.String()] = true
		}
		if !texts[c.rejected] {
			t.Errorf("%s: rejected for %v", name, slices.Sorted(maps.Keys(texts)))
		}
		if got := req("HEAD shop.example /named ann").answer(table); got != "unavailable" {
			t.Errorf("%s: a request is %s", name, got)
		}
	}
}
