package admission_test

import (
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sallyport/sallyport/controlplane/admission"
	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// line draws a resource of a small world, in which much fits and much does not.
func line(t *rapid.T) string {
	pick := func(label string, from ...string) string { return rapid.SampledFrom(from).Draw(t, label) }
	list := func(label string, from ...string) string {
		return "[" + strings.Join(rapid.SliceOfNDistinct(rapid.SampledFrom(from), 0, 2, rapid.ID[string]).Draw(t, label), ", ") + "]"
	}
	environments := func() string { return list("environments", "aws", "gcp", "aws", "gcp", "eu") }
	namespace := pick("namespace", "shop", "bank")
	labels := pick("labels", "", "app=x", "app=y", "app=x tier=gold")
	switch pick("kind", "Environment", "Enrollment", "Listener", "IdentityProvider", "Upstream", "Route", "Route", "Route", "Policy", "Policy", "Policy") {
	case "Environment":
		return fmt.Sprintf("Environment %s {%s}", pick("name", "aws", "gcp", "eu"), pick("age", "", "configurationAge: {limit: 60s, action: DENY}"))
	case "Enrollment":
		return fmt.Sprintf(`Enrollment %s {spiffeId: "spiffe://prod.example/%s", environment: %s}`, pick("name", "a", "b", "c"),
			pick("pattern", "a", "b", "*", "a/**", "a/b", "*/b"), pick("environment", "aws", "gcp", "eu"))
	case "Listener":
		return fmt.Sprintf(`Listener %s/%s {environments: %s, address: "%s", tls: {workloadIdentity: true, clientCertificates: %s}}`, namespace, pick("name", "l", "m"),
			environments(), pick("address", ":1", "10.0.0.1:1", ":0", "[::]:1", "0.0.0.0:2", "127.0.0.1:2"),
			pick("client certificates", "OPTIONAL", "REQUIRED", "CLIENT_CERTIFICATES_UNSPECIFIED"))
	case "IdentityProvider":
		return fmt.Sprintf(`IdentityProvider %s/%s {environments: %s, issuer: a, %s}`, namespace, pick("name", "i", "j"), environments(),
			pick("by", `jwksUrl: "https://a/keys", audiences: [a]`, `x509: {caFile: /a, subject: SAN_DNS}`))
	case "Upstream":
		return fmt.Sprintf(`Upstream %s/%s {environments: %s, endpoints: ["a:1"], tls: {}}`, namespace, pick("name", "u", "v"), environments())
	case "Route":
		return fmt.Sprintf(`Route %s/%s %s {environments: %s, hosts: [%s], paths: %s, methods: %s, upstream: %s, authentication: {identityProviders: %s, anonymous: %s, clientCertificates: %s}}`,
			namespace, pick("name", "r", "s", "t"), labels, environments(), pick("host", "a.example", "b.example", `"*.example"`),
			list("paths", `"/"`, `"/x/{id}"`, `"/x/**"`), list("methods", "GET", "PUT"), pick("upstream", "u", "u", "v"), list("providers", "i", "j"), pick("anonymous", "true", "false"), pick("certificates", "true", "false"))
	}
	return fmt.Sprintf(`Policy %s/%s {environments: %s, routes: %s, effect: DENY, principals: %s, methods: %s, paths: %s, when: "%s"}`,
		namespace, pick("name", "p", "q", "o"), environments(), pick("routes", "{all: true}", "{labels: {app: x}}", "{labels: {app: x, tier: gold}}", "{names: [r]}", "{names: [s, t]}"),
		pick("principals", "[]", "[{anonymous: true}]", "[{group: g}]", "[{group: g, identityProvider: i}]", `[{spiffe: "spiffe://a/**"}]`, "[{authenticated: true}]"),
		list("methods", "GET", "PUT"), list("paths", `"/"`, `"/x/y"`, `"/z"`), pick("when", "", "", "true", "request.method == 'GET'", "nothing"))
}

// begin is what a fleet starts from, lest all be refused for what is missing.
const begin = `
	Environment aws {}
	Environment gcp {}
	Upstream shop/u {endpoints: ["a:1"], tls: {}}
	Upstream bank/u {endpoints: ["a:1"], tls: {}}
	IdentityProvider shop/i {issuer: a, jwksUrl: "https://a/keys", audiences: [a]}
	Route shop/r app=x {hosts: [a.example], paths: ["/r"], upstream: u, authentication: {identityProviders: [i], anonymous: true}}
`

// step draws a change and commits it if it is admitted.
func (f *fleet) step(t *rapid.T) {
	var r *admission.Request
	if rapid.IntRange(0, 3).Draw(t, "delete") == 0 && len(f.documents) > 0 {
		present := slices.SortedFunc(func(yield func(resource.Key) bool) {
			for key := range f.documents {
				if !yield(key) {
					return
				}
			}
		}, resource.Key.Compare)
		r = admission.NewDelete(rapid.SliceOfNDistinct(rapid.SampledFrom(present), 1, 3, rapid.ID[resource.Key]).Draw(t, "keys"))
	} else {
		r = admission.NewApply(resources(t, strings.Join(rapid.SliceOfN(rapid.Custom(line), 1, 4).Draw(t, "resources"), "\n")), now)
	}
	if rapid.Bool().Draw(t, "removals allowed") {
		r.AllowRemovals()
	}
	before := f.Dump()
	plan, _ := f.Plan(r)
	if f.Dump() != before {
		t.Fatalf("planning changed the state from\n%s\nto\n%s", before, f.Dump())
	}
	if plan != nil {
		f.advance(t, plan)
	}
}

// What is admitted, every proxy can enforce: this is what Apply promises.
func TestWhatIsAdmittedCompilesEverywhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newFleet(t, begin)
		tables := map[string]*compile.Table{}
		for range rapid.IntRange(1, 16).Draw(t, "steps") {
			f.step(t)
			for environment, set := range f.environments(t) {
				table := compile.Compile(tables[environment], sign(t, environment, f.Revision(), set))
				if len(table.Rejects()) > 0 {
					t.Fatalf("%s rejects %v", environment, table.Rejects())
				}
				if table.EnforcedRoot() != set.Root() {
					t.Fatalf("%s does not enforce all that it has", environment)
				}
				tables[environment] = table
			}
		}
	})
}

// Looking only at what a change touches is enough: what was admitted piece by
// piece is admitted as one request to an empty fleet, too.
func TestWhatIsAdmittedPieceByPieceIsAdmittedAtOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newFleet(t, begin)
		for range rapid.IntRange(1, 16).Draw(t, "steps") {
			f.step(t)
		}
		var all []*adminv1.Resource
		for _, v := range f.documents {
			r, err := resource.Present(v.Document)
			if err != nil {
				t.Fatalf("%v", err)
			}
			all = append(all, r)
		}
		anew := &fleet{documents: f.documents}
		plan, problems := anew.commit(t, admission.NewApply(all, now))
		if problems.Total > 0 {
			t.Fatalf("refused at once:\n%s", texts(problems))
		}
		if len(plan.Changes) != len(all) {
			t.Fatalf("%d changes, want %d", len(plan.Changes), len(all))
		}
		if anew.Dump() != f.Dump() {
			t.Fatalf("the state is\n%s\nand at once\n%s", f.Dump(), anew.Dump())
		}
	})
}

func sign(t failer, environment string, revision snapshot.Revision, set *snapshot.Set) *snapshot.Snapshot {
	t.Helper()
	signer := snapshot.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	head, err := signer.SignHead(snapshot.Statement{
		Epoch: 1, Environment: environment, Revision: revision, Root: set.Root(), Documents: set.Len(),
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
	s, err := snapshot.Assemble(head, set)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return s
}
