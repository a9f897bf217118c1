package compile_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/compile"
)

// splitOf is the Split of a route with shares by name and weight.
func splitOf(t *testing.T, route, shares string) *compile.Split {
	t.Helper()
	text := `
{apiVersion: sallyport/v1, kind: Environment, metadata: {name: aws}}
---
{apiVersion: sallyport/v1, kind: Route, metadata: {namespace: shop, name: ` + route + `}, spec: {hosts: [a.example], split: {shares: [` + shares + `], principal: true}, authentication: {anonymous: true}}}
`
	for _, name := range []string{"a", "b", "c"} {
		text += "---\n{apiVersion: sallyport/v1, kind: Upstream, metadata: {namespace: shop, name: " + name + "}, spec: {endpoints: [\"127.0.0.1:80\"], plaintext: {}}}\n"
	}
	table := compile.Compile(nil, snap(t, 1, documents(t, text)))
	checkRoot(t, table)
	r, _ := table.Match(ask("GET", "a.example", "/"))
	if r == nil || r.Split == nil || !r.Split.ByPrincipal || r.Unavailable != "" {
		t.Fatalf("%+v", r)
	}
	return r.Split
}

func name(s *compile.Split, i int) string { return s.Shares[i].Upstream.Key.Name }

func TestSplitByWeight(t *testing.T) {
	const people = 100_000
	s := splitOf(t, "r", "{upstream: a, weight: 90}, {upstream: b, weight: 9}, {upstream: c, weight: 1}")
	count, chance := map[string]float64{}, map[string]float64{}
	for i := range people {
		count[name(s, s.Of(fmt.Sprint("https://login.example person", i)))]++
		chance[name(s, s.At(uint64(i)*(math.MaxUint64/people)))]++
	}
	for who, want := range map[string]float64{"a": 90_000, "b": 9_000, "c": 1_000} {
		if math.Abs(count[who]-want) > 4*math.Sqrt(want) || math.Abs(chance[who]-want) > 2 {
			t.Errorf("%s has %v by name and %v by chance, want %v", who, count[who], chance[who], want)
		}
	}
	if s.At(0) != 0 || s.At(math.MaxUint64) != 2 {
		t.Error("the ends are not of the first and the last")
	}
}

// Those who are in a canary stay there when it grows, and those of one route are not
// those of another.
func TestSplitIsSticky(t *testing.T) {
	before := splitOf(t, "r", "{upstream: a, weight: 10}, {upstream: b, weight: 90}")
	after := splitOf(t, "r", "{upstream: a, weight: 20}, {upstream: b, weight: 80}, {upstream: c}")
	other := splitOf(t, "other", "{upstream: a, weight: 10}, {upstream: b, weight: 90}")
	var left, both, canary int
	for i := range 10_000 {
		key := fmt.Sprint("person", i)
		if name(before, before.Of(key)) != "a" {
			continue
		}
		canary++
		if name(after, after.Of(key)) != "a" {
			left++
		}
		if name(other, other.Of(key)) == "a" {
			both++
		}
	}
	if canary < 900 || left > 0 || both > canary/5 {
		t.Errorf("of %d, %d have left, and %d are in the other as well", canary, left, both)
	}
	if len(after.Shares) != 2 {
		t.Errorf("%d shares: nothing goes where the weight is 0", len(after.Shares))
	}
}

// What an upstream is rejected for denies the requests of all.
func TestSplitOverARejectedUpstream(t *testing.T) {
	text := `
{apiVersion: sallyport/v1, kind: Environment, metadata: {name: aws}}
---
{apiVersion: sallyport/v1, kind: Upstream, metadata: {namespace: shop, name: a}, spec: {endpoints: ["127.0.0.1:80"], plaintext: {}}}
---
{apiVersion: sallyport/v1, kind: Upstream, metadata: {namespace: shop, name: b}, spec: {endpoints: ["127.0.0.1:80"], plaintext: {}}}
---
{apiVersion: sallyport/v1, kind: Route, metadata: {namespace: shop, name: r}, spec: {hosts: [a.example], split: {shares: [{upstream: a, weight: 1}, {upstream: b}], header: x-visitor}, authentication: {anonymous: true}}}
`
	all := documents(t, text)
	i := named(t, all, "Upstream/shop/b")
	all[i] = spoil(t, all[i], newField)
	r, _ := compile.Compile(nil, snap(t, 1, all)).Match(ask("GET", "a.example", "/"))
	if r == nil || !strings.HasPrefix(r.Unavailable, "Upstream/shop/b: ") {
		t.Errorf("%+v", r)
	}
	r, _ = compile.Compile(nil, snap(t, 1, append(all[:i:i], all[i+1:]...))).Match(ask("GET", "a.example", "/"))
	if r == nil || r.Unavailable == "" {
		t.Errorf("without one of them: %+v", r)
	}
}
