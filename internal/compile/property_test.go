package compile_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"weak"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/policy"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

func marshal(t failer, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return b
}

func inputOf(method, namespace, name, group string) *policy.Input {
	return &policy.Input{
		Method: method, Host: "shop.example", Path: "/orders", Route: policy.RouteID{Namespace: namespace, Name: name},
		Principal: &policy.Principal{Kind: policy.User, ID: group, Groups: []string{group}, Provider: "shop/login"},
	}
}

// world is the documents of a fleet, by kind/namespace/name.
type world map[string][]byte

func (w world) documents() [][]byte {
	var all [][]byte
	for _, name := range w.names() {
		all = append(all, w[name])
	}
	return all
}

func (w world) names() []string {
	var names []string
	for name := range w {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// edits are what a newer build may have done to a document.
var edits = []func(*resourcev1.Document){
	newField, newEnvelope, noSpec,
	func(d *resourcev1.Document) { newField(d); d.Reach = 9 },
	func(d *resourcev1.Document) { newField(d); d.Reach = 0 },
}

// change adds, replaces, spoils or removes a document.
func (w world) change(t *rapid.T, kinds []string) {
	t.Helper()
	pick := func(label string, from ...string) string { return rapid.SampledFrom(from).Draw(t, label) }
	list := func(label string, from ...string) string {
		return "[" + strings.Join(slices.Compact(slices.Sorted(slices.Values(rapid.SliceOfN(rapid.SampledFrom(from), 0, 3).Draw(t, label)))), ", ") + "]"
	}
	kind, namespace := pick("kind", kinds...), pick("namespace", "shop", "bank")
	var name, spec string
	switch kind {
	case "Environment":
		namespace, name, spec = "", "aws", "{}"
	case "Upstream":
		name, spec = pick("name", "u", "v"), fmt.Sprintf(`{endpoints: ["a:%s"], tls: {}}`, pick("port", "1", "2"))
	case "IdentityProvider":
		name, spec = pick("name", "login", "other"), fmt.Sprintf(`{issuer: %s, jwksUrl: "https://a", audiences: [a]}`, pick("issuer", "a", "b"))
	case "Route":
		name = pick("name", "r", "s", "t", "u")
		spec = fmt.Sprintf(`{hosts: [%s], paths: %s, methods: %s, upstream: %s, authentication: {identityProviders: %s, anonymous: true, clientCertificates: %s}}`,
			pick("host", "a.example", "b.example", `"*.example"`), list("paths", `"/"`, `"/x"`, `"/x/{id}"`, `"/**"`), list("methods", "GET", "PUT"),
			pick("upstream", "u", "u", "v"), list("providers", "login", "login", "other"), pick("certificates", "true", "false"))
	case "Policy":
		name = pick("name", "p", "q", "o")
		effect, principals := "ALLOW", pick("principals", "{anonymous: true}", "{authenticated: true}", "{group: ann}", "{group: ann, identityProvider: login}", `{spiffe: "spiffe://a/**"}`)
		if rapid.Bool().Draw(t, "deny") {
			effect = "DENY"
		}
		routes := pick("routes", "{all: true}", "{labels: {app: x}}", "{labels: {app: y, tier: gold}}", "{names: [r]}", "{names: [s, t]}")
		when := pick("when", `""`, `""`, `condition("c")`, `'!condition("d")'`, `request.path.inSet("s")`, `'!request.path.inSet("s") && condition("c")'`)
		spec = fmt.Sprintf(`{routes: %s, effect: %s, principals: [%s], methods: %s, paths: %s, when: %s}`, routes, effect, principals, list("methods", "GET", "PUT"), list("paths", `"/x/**"`, `"/"`), when)
	case "Condition":
		name = pick("name", "c", "d")
		spec = fmt.Sprintf(`{when: %s}`, pick("when", `"true"`, `"false"`, `condition("c")`, `condition("d")`, `request.path.inSet("s")`))
	case "Set":
		name, spec = "s", pick("members", "{ids: [/x]}", "{ids: [/, /x/1]}", "{cidrs: [10.0.0.0/8]}")
	}
	key := kind + "/" + strings.TrimPrefix(namespace+"/", "/") + name
	if rapid.IntRange(0, 5).Draw(t, "remove") == 0 {
		delete(w, key)
		return
	}
	labels := pick("labels", "{}", "{app: x}", "{app: y}", "{app: y, tier: gold}")
	metadata := fmt.Sprintf("{namespace: %s, name: %s, labels: %s}", namespace, name, labels)
	if namespace == "" {
		metadata = fmt.Sprintf("{name: %s}", name)
	}
	w[key] = documents(t, fmt.Sprintf("{apiVersion: sallyport/v1, kind: %s, metadata: %s, spec: %s}", kind, metadata, spec))[0]
	if rapid.IntRange(0, 7).Draw(t, "spoil") == 0 {
		w[key] = spoil(t, w[key], rapid.SampledFrom(edits).Draw(t, "edit"))
	}
}

var allKinds = []string{"Environment", "Upstream", "IdentityProvider", "Route", "Route", "Route", "Policy", "Policy", "Policy", "Set", "Condition"}

func drawWorld(t *rapid.T) world {
	// Without what everything refers to little would be enforced.
	w := world{}
	for _, namespace := range []string{"shop", "bank"} {
		for key, spec := range map[string]string{
			"Upstream/%s/u":             `{endpoints: ["a:1"], tls: {}}`,
			"IdentityProvider/%s/login": `{issuer: a, jwksUrl: "https://a", audiences: [a]}`,
		} {
			key = fmt.Sprintf(key, namespace)
			f := strings.Split(key, "/")
			w[key] = documents(t, fmt.Sprintf("{apiVersion: sallyport/v1, kind: %s, metadata: {namespace: %s, name: %s}, spec: %s}", f[0], f[1], f[2], spec))[0]
		}
	}
	for range rapid.IntRange(0, 20).Draw(t, "documents") {
		w.change(t, allKinds)
	}
	return w
}

func everyRequest() []req {
	var all []req
	for _, method := range []string{"GET", "PUT"} {
		for _, host := range []string{"a.example", "b.example", "c.example"} {
			for _, path := range []string{"/", "/x", "/x/1", "/y"} {
				for _, who := range []string{"-", "ann", "bob", "spiffe://a/b"} {
					all = append(all, req(strings.Join([]string{method, host, path, who}, " ")))
				}
			}
		}
	}
	return all
}

func TestEnforcedRootIsThatOfAllButTheRejects(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := compile.Compile(nil, snap(t, 1, drawWorld(t).documents()))
		checkRoot(t, table)
		if len(table.Rejects()) == 0 && table.EnforcedRoot() != table.Head().Root {
			t.Fatalf("root differs without rejects")
		}
	})
}

// Whatever is not understood, nobody gets in who would not have otherwise.
func TestRejectingNeverAllows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		whole := compile.Compile(nil, snap(t, 1, w.documents()))
		name := rapid.SampledFrom(w.names()).Draw(t, "name")
		w[name] = spoil(t, w[name], rapid.SampledFrom(edits).Draw(t, "edit"))
		partial := compile.Compile(nil, snap(t, 2, w.documents()))
		for _, r := range everyRequest() {
			if r.allowed(partial) && !r.allowed(whole) {
				t.Fatalf("without %s, %s: %s, and with it: %s", name, r, r.answer(partial), r.answer(whole))
			}
		}
	})
}

// A table made from the one before is the table made from nothing.
func TestCompilingOnIsCompilingAnew(t *testing.T) {
	all := everyRequest()
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		table := compile.Compile(nil, snap(t, 1, w.documents()))
		for revision := range rapid.IntRange(1, 6).Draw(t, "revisions") {
			kinds := allKinds
			if rapid.IntRange(0, 2).Draw(t, "policies only") > 0 {
				kinds = []string{"Policy", "Policy", "Set", "Condition"}
			}
			for range rapid.IntRange(0, 3).Draw(t, "changes") {
				w.change(t, kinds)
			}
			s := snap(t, revision+2, w.documents())
			before := answers(table, all)
			next, anew := compile.Compile(table, s), compile.Compile(nil, s)
			if answers(table, all) != before {
				t.Fatalf("the table before has changed")
			}
			table = next
			if got, want := answers(table, all), answers(anew, all); got != want {
				t.Fatalf("revision %d answers\n%s, anew\n%s", revision+2, got, want)
			}
			if got, want := fmt.Sprint(table.Rejects()), fmt.Sprint(anew.Rejects()); got != want {
				t.Fatalf("revision %d rejects %s, anew %s", revision+2, got, want)
			}
			if unavailable(table) != unavailable(anew) {
				t.Fatalf("revision %d denies\n%s, anew\n%s", revision+2, unavailable(table), unavailable(anew))
			}
			if table.Snapshot() != s || table.Head().Revision != s.Head().Revision {
				t.Fatalf("is of another snapshot")
			}
			checkRoot(t, table)
		}
	})
}

func unavailable(table *compile.Table) string {
	var b strings.Builder
	for _, r := range everyRequest() {
		f := strings.Fields(string(r))
		if found, _ := table.Match(ask(f[0], f[1], f[2])); found != nil {
			fmt.Fprintln(&b, r, found.Unavailable)
		}
	}
	return b.String()
}

// A proxy lives through many changes: no table may hold on to those before.
func TestTablesDoNotHoldTheirPredecessors(t *testing.T) {
	table := compile.Compile(nil, snap(t, 1, documents(t, fleet)))
	first := weak.Make(table)
	for i, name := range []string{"a", "b", "c"} {
		more := fmt.Sprintf("{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: %s}, spec: {routes: {all: true}, effect: DENY}}", name)
		table = compile.Compile(table, snap(t, i+2, append(documents(t, fleet), documents(t, more)...)))
	}
	runtime.GC()
	if first.Value() != nil {
		t.Error("the first table is still there")
	}
	runtime.KeepAlive(table)
}
