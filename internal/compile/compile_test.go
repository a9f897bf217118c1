package compile_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/request"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/route"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

const fleet = `
apiVersion: sallyport/v1
kind: Environment
metadata: {name: aws}
spec: {configurationAge: {limit: 60s, action: DENY}, securityAge: {limit: 90s, action: SERVE}}
---
{apiVersion: sallyport/v1, kind: Listener, metadata: {namespace: edge, name: https}, spec: {address: ":8443", tls: {workloadIdentity: true}}}
---
{apiVersion: sallyport/v1, kind: IdentityProvider, metadata: {namespace: shop, name: login}, spec: {issuer: "https://login.example", jwksUrl: "https://login.example/keys", audiences: [shop]}}
---
{apiVersion: sallyport/v1, kind: IdentityProvider, metadata: {namespace: shop, name: partners}, spec: {issuer: "https://partners.example", jwksUrl: "https://partners.example/keys", audiences: [shop]}}
---
{apiVersion: sallyport/v1, kind: Upstream, metadata: {namespace: shop, name: orders}, spec: {endpoints: ["orders.internal:443"], tls: {}}}
---
{apiVersion: sallyport/v1, kind: Upstream, metadata: {namespace: bank, name: ledger}, spec: {endpoints: ["ledger.internal:443"], tls: {}}}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: orders, labels: {app: orders}}
spec:
  hosts: [shop.example]
  paths: [/orders, "/orders/{id}"]
  upstream: orders
  authentication: {identityProviders: [login], clientCertificates: true}
  timeout: 5s
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: carts, labels: {app: carts}}
spec: {hosts: [shop.example], paths: [/carts/**], methods: [GET], upstream: orders, authentication: {identityProviders: [login, partners], anonymous: true}}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: rest, labels: {app: rest}}
spec: {hosts: ["*.example", shop.example], upstream: orders, authentication: {anonymous: true}}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: bank, name: ledger, labels: {app: orders}}
spec: {hosts: [bank.example], upstream: ledger, authentication: {clientCertificates: true}}
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: orders}
spec:
  routes: {labels: {app: orders}}
  effect: ALLOW
  principals: [{group: ann, identityProvider: login}, {spiffe: "spiffe://prod.example/**"}]
  when: request.method != "PATCH"
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: no-deletes}
spec: {routes: {names: [orders, rest]}, effect: DENY, methods: [DELETE]}
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: everybody}
spec: {routes: {all: true}, effect: ALLOW, methods: [GET], principals: [{anonymous: true}]}
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: sleeps}
spec: {routes: {labels: {app: returns}}, effect: DENY}
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: bank, name: ledger}
spec: {routes: {all: true}, effect: ALLOW, principals: [{spiffe: "spiffe://prod.example/ledger"}]}
`

// requests meet every route of the fleet.
var requests = []req{
	"GET shop.example /orders/7 ann",
	"GET shop.example /orders/7 bob",
	"DELETE shop.example /orders/7 ann",
	"PATCH shop.example /orders/7 ann",
	"GET shop.example /orders spiffe://prod.example/web",
	"GET shop.example /orders -",
	"GET shop.example /carts/7/items -",
	"GET shop.example /carts/7/items ann",
	"GET shop.example /elsewhere -",
	"DELETE shop.example /elsewhere -",
	"GET www.example /orders -",
	"GET bank.example / spiffe://prod.example/ledger",
	"GET bank.example / spiffe://prod.example/web",
	"GET nowhere.invalid / ann",
}

const fleetAnswers = `GET shop.example /orders/7 ann: allowed by shop/orders
GET shop.example /orders/7 bob: no_matching_policy
DELETE shop.example /orders/7 ann: denied_by_policy
PATCH shop.example /orders/7 ann: no_matching_policy
GET shop.example /orders spiffe://prod.example/web: allowed by shop/orders
GET shop.example /orders -: unauthenticated
GET shop.example /carts/7/items -: allowed by shop/everybody
GET shop.example /carts/7/items ann: no_matching_policy
GET shop.example /elsewhere -: allowed by shop/everybody
DELETE shop.example /elsewhere -: denied_by_policy
GET www.example /orders -: allowed by shop/everybody
GET bank.example / spiffe://prod.example/ledger: allowed by bank/ledger
GET bank.example / spiffe://prod.example/web: no_matching_policy
GET nowhere.invalid / ann: no route
`

func TestCompile(t *testing.T) {
	s := snap(t, 7, documents(t, fleet))
	table := compile.Compile(nil, s)
	if len(table.Rejects()) > 0 {
		t.Fatalf("rejects %v", table.Rejects())
	}
	fail(t, "answers", answers(table, requests), fleetAnswers)
	if table.EnforcedRoot() != s.Head().Root {
		t.Errorf("enforced root is not the snapshot's")
	}
	if table.Head().Revision != 7 || table.Snapshot() != s {
		t.Errorf("head %+v", table.Head().Statement)
	}
	if limit, action := table.Staleness(); limit != time.Minute || action != resourcev1.StalenessAction_STALENESS_ACTION_DENY {
		t.Errorf("staleness %s %s", limit, action)
	}
	if limit, action := table.SecurityStaleness(); limit != 90*time.Second || action != resourcev1.StalenessAction_STALENESS_ACTION_SERVE {
		t.Errorf("staleness of revocations %s %s", limit, action)
	}

	orders, _ := table.Match(ask("GET", "shop.example", "/orders"))
	if orders.Timeout != 5*time.Second || !orders.Authentication.GetClientCertificates() || orders.Authentication.GetAnonymous() || orders.Labels["app"] != "orders" ||
		orders.Upstream.Spec.GetEndpoints()[0] != "orders.internal:443" || len(orders.Providers) != 1 {
		t.Errorf("route %+v", orders)
	}
	carts, _ := table.Match(ask("GET", "shop.example", "/carts/7"))
	if carts.Timeout != 30*time.Second || carts.Upstream != orders.Upstream || len(carts.Providers) != 2 {
		t.Errorf("route %+v", carts)
	}
	if _, result := table.Match(ask("POST", "bank.example", "//")); result.Found() {
		t.Error("a path that is not canonical was found")
	}

	var names []string
	for _, l := range table.Listeners() {
		names = append(names, l.Key.String()+" "+l.Spec.GetAddress())
	}
	for _, u := range table.Upstreams() {
		names = append(names, u.Key.String())
	}
	for _, p := range table.Providers() {
		names = append(names, p.Key.String()+" "+p.Spec.GetIssuer())
	}
	want := []string{
		"Listener/edge/https :8443", "Upstream/bank/ledger", "Upstream/shop/orders",
		"IdentityProvider/shop/login https://login.example", "IdentityProvider/shop/partners https://partners.example",
	}
	if !slices.Equal(names, want) {
		t.Errorf("got %q", names)
	}
}

// A route says for itself whether escaped slashes are parts of segments, and one that
// does not leaves no request to the next.
func TestEscapedSlashesAreForRoutesThatKeepThem(t *testing.T) {
	route := func(name, spec string) string {
		return "\n---\n{apiVersion: sallyport/v1, kind: Route, metadata: {namespace: shop, name: " + name +
			"}, spec: {hosts: [files.example], " + spec + ", upstream: orders, authentication: {anonymous: true}}}"
	}
	once := compile.Compile(nil, snap(t, 7, documents(t, fleet+route("kept", `paths: ["/files/{id}", /files/a], encodedSlashes: KEEP`)+
		route("strict", `paths: ["/strict/{id}"], encodedSlashes: REFUSE, cors: {origins: ["https://app.example"]}`)+route("rest", `encodedSlashes: KEEP, methods: [GET]`))))
	if len(once.Rejects()) > 0 {
		t.Fatalf("rejects %v", once.Rejects())
	}
	for _, c := range []struct{ method, path, want string }{
		{"GET", "/files/a", "kept"},
		{"GET", "/files/a%2Fb", "kept"},
		{"GET", "/files%2Fa", "rest"},
		{"GET", "/.sallyportal%2Fa", "rest"},
		{"GET", "/.sallyport%2Fa", ""}, // the gateway's own, for whoever splits there
		{"GET", "/strict/a", "strict"},
		{"GET", "/strict/a%2Fb", ""},
		{"GET", "/strict/a/b%2Fc", "rest"},
		{"POST", "/a%2Fb", ""},
	} {
		got := ""
		r, result := once.Match(ask(c.method, "files.example", c.path))
		if r != nil {
			got = r.Key.Name
		}
		if got != c.want || result.Found() != (r != nil) {
			t.Errorf("%s %s: %q, want %q", c.method, c.path, got, c.want)
		}
	}
	asks := ask("OPTIONS", "files.example", "/strict/a%2Fb")
	asks.Header = map[string][]string{"Origin": {"https://app.example"}, "Access-Control-Request-Method": {"GET"}}
	if once.Preflight(asks) != nil {
		t.Error("a preflight is for a request that would be refused")
	}
	then := compile.Compile(once, snap(t, 8, documents(t, fleet+route("kept", `paths: ["/files/{id}", /files/a]`))))
	if r, _ := then.Match(ask("GET", "files.example", "/files/a%2Fb")); r != nil {
		t.Errorf("%v keeps what it does not any more", r.Key)
	}
}

// What belongs into the security lane would be in force nowhere in a snapshot of
// an environment: there it is rejected, and everything denied.
func TestRevocationsAreNotForSnapshots(t *testing.T) {
	all := append(documents(t, fleet), documents(t, `{apiVersion: sallyport/v1, kind: Revocation, metadata: {name: stray}, spec: {key: k-1}}`)...)
	table := compile.Compile(nil, snap(t, 1, all))
	checkRoot(t, table)
	if names := rejected(table); len(names) != 1 || names[0].Name != "stray" {
		t.Errorf("rejects %v", table.Rejects())
	}
	for _, r := range requests {
		if r.allowed(table) {
			t.Errorf("%s: %s", r, r.answer(table))
		}
	}
}

func TestNothingDeniesAll(t *testing.T) {
	for name, table := range map[string]*compile.Table{
		"nil": nil, "zero": {}, "of nothing": compile.Compile(nil, nil), "empty": compile.Compile(nil, snap(t, 1, nil)),
	} {
		if r, result := table.Match(ask("GET", "shop.example", "/")); r != nil || result.Found() || (result.Allow() != nil && len(result.Allow()) > 0) {
			t.Errorf("%s: matches %v", name, r)
		}
		if table.EnforcedRoot() != compile.Compile(nil, nil).EnforcedRoot() || len(table.Rejects())+len(table.Listeners())+len(table.Upstreams())+len(table.Providers()) > 0 {
			t.Errorf("%s: holds something", name)
		}
		if limit, action := table.Staleness(); limit != 15*time.Minute || action != resourcev1.StalenessAction_STALENESS_ACTION_SERVE {
			t.Errorf("%s: staleness %s %s", name, limit, action)
		}
		if limit, action := table.SecurityStaleness(); limit != 5*time.Minute || action != resourcev1.StalenessAction_STALENESS_ACTION_SERVE {
			t.Errorf("%s: staleness of revocations %s %s", name, limit, action)
		}
		if d := table.Policies().Decide(nil); d.Allow {
			t.Errorf("%s: allows", name)
		}
	}
	if (*compile.Table)(nil).Snapshot() != nil || !(*compile.Table)(nil).Head().IsZero() {
		t.Error("the nil table has a snapshot")
	}
}

// denying returns the routes, as namespace/name, that deny for a rejection.
func denying(t *testing.T, table *compile.Table) string {
	t.Helper()
	var names []string
	for _, r := range []req{"GET shop.example /orders x", "GET shop.example /carts/1 x", "GET shop.example /x x", "GET bank.example / x"} {
		f := strings.Fields(string(r))
		found, _ := table.Match(ask(f[0], f[1], f[2]))
		if found == nil {
			t.Fatalf("%s: no route", r)
		}
		if found.Unavailable != "" {
			names = append(names, found.ID().String())
		}
	}
	return strings.Join(names, " ")
}

const allRoutes = "shop/orders shop/carts shop/rest bank/ledger"

func TestNewerDocumentsAreRejectedAndDenyWhatTheyControl(t *testing.T) {
	type edit = func(*resourcev1.Document)
	newReach := func(d *resourcev1.Document) { newField(d); d.Reach = 9 }
	unspecified := func(d *resourcev1.Document) { newField(d); d.Reach = 0 }
	references := func(d *resourcev1.Document) { newField(d); d.Reach = resourcev1.Reach_REACH_REFERENCES }
	newSelector := func(d *resourcev1.Document) { newField(d); d.Routes.ProtoReflect().SetUnknown(newer()) }
	noSelector := func(d *resourcev1.Document) { newField(d); d.Routes = nil }
	newKind := func(reach resourcev1.Reach) edit {
		return func(d *resourcev1.Document) { d.Kind, d.Reach = "Quota", reach }
	}
	for _, c := range []struct {
		document string
		name     string
		edit     edit
		denying  string
	}{
		{"Policy/shop/orders", "field", newField, "shop/orders"},
		{"Policy/shop/orders", "field of the envelope", newEnvelope, "shop/orders"},
		{"Policy/shop/orders", "unreadable", noSpec, "shop/orders"},
		{"Policy/shop/orders", "enum", func(d *resourcev1.Document) { d.Spec = append(d.Spec, 3<<3, 7) }, "shop/orders"},
		{"Policy/shop/no-deletes", "field", newField, "shop/orders shop/rest"},
		{"Policy/shop/everybody", "field", newField, "shop/orders shop/carts shop/rest"},
		{"Policy/shop/sleeps", "field", newField, ""},
		{"Policy/bank/ledger", "field", newField, "bank/ledger"},
		{"Policy/shop/orders", "reach", newReach, allRoutes},
		{"Policy/shop/orders", "no reach", unspecified, "shop/orders shop/carts shop/rest"},
		{"Policy/shop/orders", "reach that no policy has", references, "shop/orders shop/carts shop/rest"},
		{"Policy/shop/orders", "selector", newSelector, "shop/orders shop/carts shop/rest"},
		{"Policy/shop/orders", "no selector", noSelector, "shop/orders shop/carts shop/rest"},
		{"Policy/shop/orders", "kind", newKind(resourcev1.Reach_REACH_ROUTES), "shop/orders"},
		{"Policy/shop/orders", "kind that reaches further", newKind(resourcev1.Reach_REACH_ENVIRONMENT), allRoutes},
		{"Policy/shop/orders", "kind that reaches its namespace", newKind(resourcev1.Reach_REACH_UNSPECIFIED), "shop/orders shop/carts shop/rest"},
		{"Policy/shop/sleeps", "kind that none names", newKind(resourcev1.Reach_REACH_REFERENCES), ""},
		{"Upstream/shop/orders", "field", newField, "shop/orders shop/carts shop/rest"},
		{"Upstream/bank/ledger", "unreadable", noSpec, "bank/ledger"},
		{"IdentityProvider/shop/login", "field", newField, "shop/orders shop/carts"},
		{"IdentityProvider/shop/partners", "field", newField, "shop/carts"},
		{"Listener/edge/https", "field", newField, ""},
		{"Environment/aws", "field", newField, allRoutes},
		{"Environment/aws", "unreadable", noSpec, allRoutes},
		{"Environment/aws", "no reach", unspecified, allRoutes},
		{"Environment/aws", "reach that no environment has", references, allRoutes},
		{"Route/shop/carts", "field", newField, "shop/carts"},
		{"Route/shop/carts", "field of the envelope", newEnvelope, "shop/carts"},
		{"Route/shop/rest", "field", newField, "shop/rest"},
		{"Route/shop/carts", "unreadable", noSpec, allRoutes},
		{"Route/shop/carts", "reach", newReach, allRoutes},
	} {
		t.Run(c.document+" "+c.name, func(t *testing.T) {
			all := documents(t, fleet)
			i := named(t, all, c.document)
			all[i] = spoil(t, all[i], c.edit)
			key := func() resource.Key { e, _ := resource.ParseEnvelope(all[i]); return e.Key }()
			table := compile.Compile(nil, snap(t, 1, all))
			if got := table.Rejects(); len(got) != 1 || got[0].Key != key || got[0].Reason == "" || len(got[0].Reason) > 1024 {
				t.Fatalf("rejects %v", got)
			}
			// An unreadable route has no place of its own.
			if c.document == "Route/shop/carts" && c.name == "unreadable" {
				if r, _ := table.Match(ask("GET", "shop.example", "/carts/1")); r == nil || r.Key.Name != "rest" || r.Unavailable == "" {
					t.Errorf("falls through to %+v", r)
				}
				return
			}
			if got := denying(t, table); got != c.denying {
				t.Errorf("denying: %q, want %q", got, c.denying)
			}
			for _, r := range []req{"GET shop.example /orders x", "GET shop.example /carts/1 x", "GET bank.example / x"} {
				f := strings.Fields(string(r))
				if found, _ := table.Match(ask(f[0], f[1], f[2])); found.Unavailable != "" && !strings.HasPrefix(found.Unavailable, key.String()+": ") {
					t.Errorf("%s: unavailable for %q", found.Key, found.Unavailable)
				}
			}
			checkRoot(t, table)
		})
	}
}

// Who asks package policy alone is told the same.
func TestUnavailableRoutesAreSoInThePolicies(t *testing.T) {
	all := documents(t, fleet)
	i := named(t, all, "Policy/shop/no-deletes")
	all[i] = spoil(t, all[i], newField)
	table := compile.Compile(nil, snap(t, 1, all))
	d := table.Policies().Decide(inputOf("GET", "shop", "orders", "ann"))
	if d.Allow || d.Reason != "control_unavailable" || !strings.Contains(d.Detail, "Policy/shop/no-deletes was rejected") {
		t.Errorf("got %+v", d)
	}
}

func TestMissingReferencesAreRejected(t *testing.T) {
	for _, c := range []struct {
		without  string
		rejected []string
		denying  string
	}{
		{"Upstream/shop/orders", []string{"Route/shop/carts", "Route/shop/orders", "Route/shop/rest"}, "shop/orders shop/carts shop/rest"},
		{"IdentityProvider/shop/partners", []string{"Route/shop/carts"}, "shop/carts"},
		{"IdentityProvider/shop/login", []string{"Policy/shop/orders", "Route/shop/carts", "Route/shop/orders"}, "shop/orders shop/carts"},
		{"Environment/aws", nil, ""},
	} {
		all := documents(t, fleet)
		i := named(t, all, c.without)
		table := compile.Compile(nil, snap(t, 1, slices.Delete(all, i, i+1)))
		var names []string
		for _, r := range table.Rejects() {
			names = append(names, r.Key.String())
			if want := "refers to " + c.without + ", which is not there"; r.Reason != want {
				t.Errorf("without %s: %s is rejected for %q", c.without, r.Key, r.Reason)
			}
		}
		if !slices.Equal(names, c.rejected) || denying(t, table) != c.denying {
			t.Errorf("without %s: rejects %q, denying %q", c.without, names, denying(t, table))
		}
		checkRoot(t, table)
	}
	all := documents(t, fleet)
	i := named(t, all, "Route/shop/rest")
	table := compile.Compile(nil, snap(t, 1, slices.Delete(all, i, i+1)))
	if got := rejected(table); len(got) != 1 || got[0].Name != "no-deletes" {
		t.Errorf("without a named route: rejects %v", got)
	}
	if r, _ := table.Match(ask("GET", "shop.example", "/orders")); r.Unavailable == "" {
		t.Error("the other route that it names does not deny")
	}
}

// A provider whose own keys cannot be used is rejected, and routes that take its
// tokens deny.
func TestKeysOfAProviderAreRead(t *testing.T) {
	for jwks, want := range map[string]string{
		`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`: "",
		`{"keys":[]}`: "jwks cannot be used: parse key set: no usable key",
	} {
		with := strings.Replace(fleet, `jwksUrl: "https://partners.example/keys"`, "jwks: '"+jwks+"'", 1)
		table := compile.Compile(nil, snap(t, 1, documents(t, with)))
		reason := ""
		for _, r := range table.Rejects() {
			reason += r.Reason
		}
		if reason != want || (denying(t, table) == "shop/carts") != (want != "") {
			t.Errorf("%s: rejected for %q, denying %q", jwks, reason, denying(t, table))
		}
		checkRoot(t, table)
	}
}

// A route that wants its tokens introspected denies when a provider cannot be
// asked.
func TestIntrospectionNeedsAnEndpoint(t *testing.T) {
	const route = `
---
{apiVersion: sallyport/v1, kind: Route, metadata: {namespace: shop, name: strict}, spec: {hosts: [strict.example], upstream: orders, authentication: {identityProviders: [PROVIDER], requireIntrospection: true}}}
---
{apiVersion: sallyport/v1, kind: IdentityProvider, metadata: {namespace: shop, name: asked}, spec: {issuer: "https://asked.example", audiences: [shop], introspection: {endpoint: "https://asked.example/introspect", clientId: a, clientSecretFile: /a}}}
---
{apiVersion: sallyport/v1, kind: IdentityProvider, metadata: {namespace: shop, name: pki}, spec: {issuer: "https://pki.example", x509: {caFile: /a, subject: SAN_DNS}}}
`
	for provider, want := range map[string]string{
		"asked": "", "pki": "", "login": "requires introspection, which IdentityProvider/shop/login does not have",
	} {
		table := compile.Compile(nil, snap(t, 1, documents(t, fleet+strings.Replace(route, "PROVIDER", provider, 1))))
		reason := ""
		for _, r := range table.Rejects() {
			reason += r.Reason
		}
		r, _ := table.Match(ask("GET", "strict.example", "/"))
		if reason != want || (r.Unavailable != "") != (want != "") {
			t.Errorf("%s: rejected for %q, unavailable for %q", provider, reason, r.Unavailable)
		}
		checkRoot(t, table)
	}
}

// A route on which nobody could sign in denies, and says why.
func TestSignInNeedsAClient(t *testing.T) {
	const route = `
---
{apiVersion: sallyport/v1, kind: Route, metadata: {namespace: shop, name: desk}, spec: {hosts: [desk.example], upstream: orders, authentication: {signIn: {identityProvider: PROVIDER}}}}
---
{apiVersion: sallyport/v1, kind: IdentityProvider, metadata: {namespace: shop, name: people}, spec: {issuer: "https://people.example", audiences: [shop], discovery: true, signIn: {clientId: a}}}
`
	for provider, want := range map[string]string{
		"people": "", "login": "has people sign in at IdentityProvider/shop/login, which has no signIn",
	} {
		table := compile.Compile(nil, snap(t, 1, documents(t, fleet+strings.Replace(route, "PROVIDER", provider, 1))))
		reason := ""
		for _, r := range table.Rejects() {
			reason += r.Reason
		}
		r, _ := table.Match(ask("GET", "desk.example", "/"))
		if reason != want || (r.Unavailable != "") != (want != "") || (r.SignIn != nil) != (want == "") {
			t.Errorf("%s: rejected for %q, unavailable for %q", provider, reason, r.Unavailable)
		}
		if want == "" && r.SessionLifetime != 10*time.Hour {
			t.Errorf("sessions last %s", r.SessionLifetime)
		}
		checkRoot(t, table)
	}
}

func TestForeignDocumentsAreRejected(t *testing.T) {
	for text, denies := range map[string]string{
		`{apiVersion: sallyport/v1, kind: Environment, metadata: {name: gcp}}`:                                                                                                              allRoutes,
		`{apiVersion: sallyport/v1, kind: Enrollment, metadata: {name: x}, spec: {spiffeId: "spiffe://a/b", environment: aws}}`:                                                             "",
		`{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: bank, name: x}, spec: {environments: [gcp], routes: {all: true}, effect: DENY}}`:                                    "bank/ledger",
		`{apiVersion: sallyport/v1, kind: Listener, metadata: {namespace: edge, name: x}, spec: {environments: [gcp], address: ":1", tls: {workloadIdentity: true}}}`:                       "",
		`{apiVersion: sallyport/v1, kind: Route, metadata: {namespace: bank, name: x}, spec: {environments: [gcp], hosts: [x], upstream: ledger, authentication: {anonymous: true}}}`:       "",
		`{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: bank, name: x}, spec: {environments: [aws, gcp], routes: {all: true}, effect: ALLOW, principals: [{group: a}]}}`:    "none",
		`{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: empty, name: x}, spec: {environments: [aws], routes: {all: true}, effect: ALLOW, principals: [{anonymous: true}]}}`: "none",
	} {
		table := compile.Compile(nil, snap(t, 1, append(documents(t, fleet), documents(t, text)...)))
		if denies == "none" {
			if len(table.Rejects()) != 0 {
				t.Errorf("%s: rejects %v", text, table.Rejects())
			}
		} else if len(table.Rejects()) != 1 || denying(t, table) != denies {
			t.Errorf("%s: rejects %v, denying %q", text, table.Rejects(), denying(t, table))
		}
		checkRoot(t, table)
	}
}

func TestConflictingRoutesDeny(t *testing.T) {
	base := documents(t, fleet)
	bank := func(name, spec string) []byte {
		return documents(t, fmt.Sprintf("{apiVersion: sallyport/v1, kind: Route, metadata: {namespace: bank, name: %s}, spec: {%s, upstream: ledger, authentication: {clientCertificates: true}}}", name, spec))[0]
	}
	for _, c := range []struct {
		name      string
		documents [][]byte
		rejected  string
		denied    []string // method host path
		open      []string
	}{
		{"same path", [][]byte{bank("x", `hosts: [shop.example], paths: ["/orders/{order}", /new]`)}, "Route/bank/x Route/shop/orders",
			[]string{"GET shop.example /orders/7", "GET shop.example /orders", "GET shop.example /new"}, []string{"GET shop.example /carts/1"}},
		{"one method", [][]byte{bank("x", `hosts: [shop.example], paths: [/carts/**], methods: [GET, PUT]`)}, "Route/bank/x Route/shop/carts",
			[]string{"GET shop.example /carts/1", "PUT shop.example /carts/1"}, []string{"GET shop.example /orders"}},
		{"another method", [][]byte{bank("x", `hosts: [shop.example], paths: [/carts/**], methods: [PUT]`)}, "", nil,
			[]string{"GET shop.example /carts/1", "PUT shop.example /carts/1"}},
		{"every path, spelled out", [][]byte{bank("x", `hosts: [bank.example], paths: [/**]`)}, "Route/bank/ledger Route/bank/x",
			[]string{"GET bank.example /"}, []string{"GET shop.example /orders"}},
		{"three", [][]byte{bank("x", `hosts: [x.example], paths: [/a, /b]`), bank("y", `hosts: [x.example], paths: [/b, /c]`), bank("z", `hosts: [x.example], paths: [/c, /d]`)},
			"Route/bank/x Route/bank/y Route/bank/z",
			[]string{"GET x.example /a", "GET x.example /b", "GET x.example /c", "GET x.example /d"}, []string{"GET x.example /e"}},
		{"with one that is rejected anyway", [][]byte{spoil(t, bank("x", `hosts: [bank.example]`), newField)}, "Route/bank/ledger Route/bank/x",
			[]string{"GET bank.example /"}, []string{"GET shop.example /orders"}},
	} {
		table := compile.Compile(nil, snap(t, 1, append(slices.Clone(base), c.documents...)))
		var names []string
		for _, r := range table.Rejects() {
			names = append(names, r.Key.String())
		}
		if got := strings.Join(names, " "); got != c.rejected {
			t.Errorf("%s: rejects %v", c.name, table.Rejects())
		}
		for _, r := range c.denied {
			f := strings.Fields(r)
			if found, _ := table.Match(ask(f[0], f[1], f[2])); found == nil || found.Unavailable == "" {
				t.Errorf("%s: %s finds %+v", c.name, r, found)
			}
		}
		for _, r := range c.open {
			f := strings.Fields(r)
			if found, _ := table.Match(ask(f[0], f[1], f[2])); found == nil || found.Unavailable != "" {
				t.Errorf("%s: %s finds %+v", c.name, r, found)
			}
		}
		checkRoot(t, table)
	}
}

// A route that takes methods which only a newer build serves must not come to
// take every method.
func TestUnservedMethods(t *testing.T) {
	all := documents(t, fleet)
	i := named(t, all, "Route/shop/carts")
	for _, c := range []struct {
		methods []string
		want    string
	}{
		{[]string{"BREW"}, "rest"},
		{[]string{"BREW", "GET"}, "carts"},
	} {
		all[i] = spoil(t, all[i], func(d *resourcev1.Document) {
			d.Spec = marshal(t, &resourcev1.Route{Hosts: []string{"shop.example"}, Paths: []string{"/carts/**"}, Methods: c.methods})
		})
		table := compile.Compile(nil, snap(t, 1, all))
		if r, _ := table.Match(ask("GET", "shop.example", "/carts/1")); r == nil || r.Key.Name != c.want || len(table.Rejects()) != 1 {
			t.Errorf("%v: GET finds %+v, rejects %v", c.methods, r, table.Rejects())
		}
		if r, result := table.Match(ask("PUT", "shop.example", "/carts/1")); r == nil || r.Key.Name != "rest" || !result.Found() {
			t.Errorf("%v: PUT finds %+v", c.methods, r)
		}
		checkRoot(t, table)
	}
}

// Claims agree with package route on what is in conflict.
func TestClaims(t *testing.T) {
	spec := func(hosts, paths, methods string) *resourcev1.Route {
		return &resourcev1.Route{Hosts: strings.Fields(hosts), Paths: strings.Fields(paths), Methods: strings.Fields(methods)}
	}
	routes := []*resourcev1.Route{
		spec("a", "", ""), spec("a", "/**", ""), spec("a", "/{x}", ""), spec("a", "/{y} /z", ""), spec("a", "/*", "GET"),
		spec("a b", "/v1", "GET PUT"), spec("b", "/v1", "PUT"), spec("*.a", "/v1", "PUT"), spec("b", "/v1/", "PUT"), spec("b", "/v1/**", "PUT"),
	}
	with := func(r *resourcev1.Route, headers, query string) *resourcev1.Route {
		match := func(names string) (all []*resourcev1.FieldMatch) {
			for name := range strings.FieldsSeq(names) {
				all = append(all, &resourcev1.FieldMatch{Name: name, Value: &resourcev1.FieldMatch_Present{Present: true}})
			}
			return all
		}
		r.Headers, r.Query = match(headers), match(query)
		return r
	}
	routes = append(routes, with(spec("a", "", ""), "x-a x-b", "c"), with(spec("a", "", ""), "X-B X-A", "c"), with(spec("a", "", ""), "x-a", "c"))
	entry := func(name string, r *resourcev1.Route) route.Entry[int] {
		e := route.Entry[int]{Namespace: "n", Name: name, Hosts: r.GetHosts(), Paths: r.GetPaths(), Methods: r.GetMethods()}
		for _, m := range r.GetHeaders() {
			e.Conditions = append(e.Conditions, resource.ConditionOf(request.InHeader, m))
		}
		for _, m := range r.GetQuery() {
			e.Conditions = append(e.Conditions, resource.ConditionOf(request.InQuery, m))
		}
		return e
	}
	conflicts := 0
	for i, a := range routes {
		for _, b := range routes[:i] {
			_, err := route.NewTable([]route.Entry[int]{entry("a", a), entry("b", b)})
			share := slices.ContainsFunc(compile.Claims(a), func(c compile.Claim) bool { return slices.Contains(compile.Claims(b), c) })
			if share != (err != nil) {
				t.Errorf("%v and %v: share a claim %v, %v", a, b, share, err)
			}
			if share {
				conflicts++
			}
		}
	}
	if conflicts != 4 {
		t.Errorf("%d conflicts", conflicts)
	}
}

// What a policy selects says its spec: an envelope that claims another reach
// neither loosens nor spreads it.
func TestUnderstoodPoliciesAreBoundByTheirSpec(t *testing.T) {
	for _, reach := range []resourcev1.Reach{0, resourcev1.Reach_REACH_REFERENCES, resourcev1.Reach_REACH_ENVIRONMENT} {
		all := documents(t, fleet)
		i := named(t, all, "Policy/shop/no-deletes")
		all[i] = spoil(t, all[i], func(d *resourcev1.Document) { d.Reach = reach })
		table := compile.Compile(nil, snap(t, 1, all))
		fail(t, reach.String(), answers(table, requests), fleetAnswers)
		checkRoot(t, table)
	}
}

// A rejected document denies until it is replaced, and no longer.
func TestRejectsComeAndGo(t *testing.T) {
	good := documents(t, fleet)
	for _, edit := range []func(*resourcev1.Document){newField, func(d *resourcev1.Document) { newField(d); d.Reach = 9 }} {
		for _, name := range []string{"Policy/shop/no-deletes", "Policy/shop/sleeps", "Upstream/shop/orders", "Route/shop/carts", "Environment/aws"} {
			bad := slices.Clone(good)
			i := named(t, bad, name)
			bad[i] = spoil(t, bad[i], edit)
			before := compile.Compile(nil, snap(t, 1, good))
			table := compile.Compile(before, snap(t, 2, bad))
			fail(t, name+", the table before", answers(before, requests), fleetAnswers)
			if len(table.Rejects()) != 1 {
				t.Errorf("%s: rejects %v", name, table.Rejects())
			}
			fail(t, name, answers(table, requests), answers(compile.Compile(nil, snap(t, 2, bad)), requests))
			table = compile.Compile(table, snap(t, 3, good))
			fail(t, name, answers(table, requests), fleetAnswers)
			if len(table.Rejects()) != 0 {
				t.Errorf("%s: then rejects %v", name, table.Rejects())
			}
			checkRoot(t, table)
		}
	}
}

// A policy that selects nothing is held, until it is gone.
func TestUnboundPoliciesAreHeld(t *testing.T) {
	held := func(table *compile.Table) (names []string) {
		for p := range table.Policies().Policies() {
			names = append(names, p.Key())
		}
		slices.Sort(names)
		return names
	}
	with := documents(t, fleet)
	i := named(t, with, "Policy/shop/sleeps")
	without := slices.Delete(slices.Clone(with), i, i+1)
	table := compile.Compile(nil, snap(t, 1, with))
	want := []string{"bank/ledger", "shop/everybody", "shop/no-deletes", "shop/orders", "shop/sleeps"}
	if got := held(table); !slices.Equal(got, want) {
		t.Errorf("holds %q", got)
	}
	table = compile.Compile(table, snap(t, 2, without))
	if got := held(table); !slices.Equal(got, want[:4]) {
		t.Errorf("without: holds %q", got)
	}
	table = compile.Compile(table, snap(t, 3, with))
	if got := held(table); !slices.Equal(got, want) {
		t.Errorf("again: holds %q", got)
	}
}

func TestIdentityProvidersQualifyGroups(t *testing.T) {
	all := append(documents(t, fleet), documents(t, `{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: carts},
  spec: {routes: {names: [carts]}, effect: ALLOW, principals: [{group: ann, identityProvider: login}, {subject: bob, identityProvider: partners}, {group: eve}]}}`)...)
	table := compile.Compile(nil, snap(t, 1, all))
	for _, c := range []struct {
		provider, name string
		allow          bool
	}{
		{"shop/login", "ann", true}, {"shop/partners", "ann", false},
		{"shop/login", "bob", false}, {"shop/partners", "bob", true},
		{"shop/login", "eve", true}, {"shop/partners", "eve", true},
		{"bank/login", "ann", false},
	} {
		in := inputOf("GET", "shop", "carts", c.name)
		in.Principal.Provider = c.provider
		if d := table.Policies().Decide(in); d.Allow != c.allow {
			t.Errorf("%s of %s: %+v", c.name, c.provider, d)
		}
	}
}

func TestPolicyPointsAtTheProblem(t *testing.T) {
	spec := &resourcev1.Policy{
		Effect: resourcev1.Effect_EFFECT_ALLOW, Routes: &resourcev1.RouteSelector{All: true}, When: "request.method == \"GET\" &&\n  request.nonsense == 1",
		Principals: []*resourcev1.PrincipalMatcher{
			{Match: &resourcev1.PrincipalMatcher_Group{Group: "a"}},
			{Match: &resourcev1.PrincipalMatcher_Subject{Subject: "spiffe://prod.example/web"}},
			{Match: &resourcev1.PrincipalMatcher_Anonymous{Anonymous: true}, IdentityProvider: "login"},
		},
	}
	key := resource.Key{Kind: resource.KindPolicy, Namespace: "shop", Name: "x"}
	var got []string
	for _, p := range compile.Policy(key, spec) {
		got = append(got, fmt.Sprintf("%s %s %s %d:%d", p.Resource, p.Field, p.Reason, p.Line, p.Column))
	}
	want := []string{
		"Policy/shop/x spec.principals[1].subject invalid_value 0:0",
		"Policy/shop/x spec.principals[2].identityProvider invalid_value 0:0",
		"Policy/shop/x spec.when invalid_cel 2:10",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if problems := compile.Policy(key, &resourcev1.Policy{Effect: resourcev1.Effect_EFFECT_DENY}); len(problems) != 0 {
		t.Errorf("got %v", problems)
	}
}
