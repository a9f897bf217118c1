package admission_test

import (
	"testing"

	"github.com/sallyport/sallyport/controlplane/admission"
	"github.com/sallyport/sallyport/internal/resource"
)

// shop is a fleet in which everything refers to something.
const shop = `
	Environment aws {}
	Environment gcp {}
	Enrollment aws {spiffeId: "spiffe://prod.example/proxy/aws/**", environment: aws}
	Listener edge/https {address: ":443", tls: {workloadIdentity: true, clientCertificates: OPTIONAL}, clientIp: {direct: {}}}
	IdentityProvider shop/login {issuer: "https://login.example", jwksUrl: "https://login.example/keys", audiences: [shop]}
	Upstream shop/orders {endpoints: ["orders.internal:443"], tls: {}}
	Upstream shop/aws-only {environments: [aws], endpoints: ["legacy.internal:443"], tls: {}}
	Route shop/orders app=orders tier=gold {hosts: [shop.example], paths: ["/v1/orders/**"], methods: [GET, POST], upstream: orders, authentication: {identityProviders: [login]}}
	Route shop/status app=status {hosts: [shop.example], paths: ["/status"], upstream: orders, authentication: {anonymous: true}}
	Upstream shop/exports {endpoints: ["exports.internal:443"], tls: {}}
	ApiKey shop/export {secrets: [{id: AAAABBBBCCCC, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08, createdAt: 2026-11-26T08:00:00Z}]}
	Route shop/keyed app=keyed {hosts: [shop.example], paths: ["/export"], upstream: exports, authentication: {apiKeys: true}}
	Policy shop/exports {routes: {labels: {app: keyed}}, effect: ALLOW, principals: [{key: export}]}
	Policy shop/reads {routes: {labels: {app: orders}}, effect: ALLOW, principals: [{group: shop}], methods: [GET]}
	Policy shop/watch {routes: {names: [status]}, effect: ALLOW, principals: [{anonymous: true}]}
`

func TestWhatIsRefusedAndWhy(t *testing.T) {
	for name, c := range map[string]struct{ apply, want string }{
		"upstream is missing": {
			`Route shop/a {hosts: [a.example], upstream: nowhere, authentication: {anonymous: true}}`,
			`0 Route/shop/a spec.upstream: dangling_reference: there is no Upstream/shop/nowhere`,
		},
		"upstream of another namespace": {
			`Route bank/a {hosts: [a.example], upstream: orders, authentication: {anonymous: true}}`,
			`0 Route/bank/a spec.upstream: dangling_reference: there is no Upstream/bank/orders`,
		},
		"identity provider is missing": {
			`Route shop/a {hosts: [a.example], upstream: orders, authentication: {identityProviders: [login, sso]}}`,
			`0 Route/shop/a spec.authentication.identityProviders[1]: dangling_reference: there is no IdentityProvider/shop/sso`,
		},
		"route by name is missing": {
			`Policy shop/a {routes: {names: [orders, gone]}, effect: DENY}`,
			`0 Policy/shop/a spec.routes.names[1]: dangling_reference: there is no Route/shop/gone`,
		},
		"provider of a principal is missing": {
			`Policy shop/a {routes: {names: [orders]}, effect: ALLOW, principals: [{group: a}, {subject: b, identityProvider: sso}]}`,
			`0 Policy/shop/a spec.principals[1].identityProvider: dangling_reference: there is no IdentityProvider/shop/sso`,
		},
		"key of a principal is missing": {
			`Policy shop/a {routes: {names: [keyed]}, effect: ALLOW, principals: [{key: export}, {key: gone}]}`,
			`0 Policy/shop/a spec.principals[1].key: dangling_reference: there is no ApiKey/shop/gone`,
		},
		"condition by name is missing": {
			`Condition shop/c {when: 'condition("gone") || signals.ip.inSet("gone")'}
			 Policy shop/a {routes: {names: [orders]}, effect: DENY, when: 'true && condition("lost")'}`,
			`0 Condition/shop/c spec.when 1:11: dangling_reference: there is no Condition/shop/gone
			 0 Condition/shop/c spec.when 1:39: dangling_reference: there is no Set/shop/gone
			 1 Policy/shop/a spec.when 1:19: dangling_reference: there is no Condition/shop/lost`,
		},
		"condition of another namespace": {
			`Condition bank/c {when: "true"}
			 Policy shop/a {routes: {names: [orders]}, effect: DENY, when: 'condition("c")'}`,
			`1 Policy/shop/a spec.when 1:11: dangling_reference: there is no Condition/shop/c`,
		},
		"conditions in a circle": {
			`Condition shop/a {when: 'condition("b")'}
			 Condition shop/b {when: 'true || condition("a")'}`,
			`0 Condition/shop/a spec.when 1:11: invalid_cel: Condition "b": Condition "a" refers to itself
			 1 Condition/shop/b spec.when 1:19: invalid_cel: Condition "a": Condition "b" refers to itself`,
		},
		"a condition that is wrong": {
			`Condition shop/c {when: 'signals.pi == "x"'}
			 Policy shop/a {routes: {names: [orders]}, effect: DENY, when: 'condition("c")'}`,
			`0 Condition/shop/c spec.when 1:8: invalid_cel: undefined field 'pi'
			 1 Policy/shop/a spec.when 1:11: invalid_cel: Condition "c": undefined field 'pi'`,
		},
		"a set of another type": {
			`Set shop/office {cidrs: [10.0.0.0/8]}
			 Set shop/staff {ids: [ann]}
			 Policy shop/a {routes: {names: [orders]}, effect: DENY, when: 'principal.id.inSet("office")'}
			 Policy shop/b {routes: {names: [orders]}, effect: DENY, when: 'signals.ip.inSet("staff")'}`,
			`2 Policy/shop/a spec.when 1:20: invalid_cel: Set "office" has cidrs: look up an address, as signals.ip
			 3 Policy/shop/b spec.when 1:18: invalid_cel: Set "staff" has ids: look up a text, as principal.id`,
		},
		"a set that is not everywhere": {
			`Set shop/office {environments: [aws], cidrs: [10.0.0.0/8]}
			 Policy shop/a {routes: {names: [orders]}, effect: DENY, when: 'signals.ip.inSet("office")'}`,
			`1 Policy/shop/a spec.when 1:18: not_everywhere: Set/shop/office is not in every environment that this is in`,
		},
		"sets that make no sense": {
			`Set shop/a {cidrs: [10.0.0.1/8, office, 300.0.0.1, "fe80::1%eth0"]}
			 Set shop/b {ids: [""]}
			 Set shop/c {ids: [a], cidrs: [10.0.0.0/8]}
			 Set shop/d {}`,
			`0 Set/shop/a spec.cidrs[0]: invalid_value: "10.0.0.1/8" has bits of a host: the network is 10.0.0.0/8
			 0 Set/shop/a spec.cidrs[1]: invalid_value: "office" is no network, as 10.0.0.0/8, and no address
			 0 Set/shop/a spec.cidrs[2]: invalid_value: "300.0.0.1" is no network, as 10.0.0.0/8, and no address
			 0 Set/shop/a spec.cidrs[3]: invalid_value: "fe80::1%eth0" is no network, as 10.0.0.0/8, and no address
			 1 Set/shop/b spec.ids[0]: invalid_value: has 1 to 1024 bytes
			 2 Set/shop/c spec: invalid_value: give either cidrs or ids
			 3 Set/shop/d spec: invalid_value: give either cidrs or ids`,
		},
		"key where none is taken": {
			`Policy shop/a {routes: {names: [orders]}, effect: ALLOW, principals: [{key: export}]}`,
			`0 Policy/shop/a spec.principals: never_fires: no route that it selects takes what would prove one of them`,
		},
		"keys with one ID": {
			`ApiKey shop/other {secrets: [{id: AAAABBBBDDDD, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08, createdAt: 2026-11-26T08:00:00Z}, {id: AAAABBBBCCCC, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08, createdAt: 2026-11-26T08:00:00Z}]}`,
			`0 ApiKey/shop/other spec.secrets[1].id: key_conflict: ApiKey/shop/export has the ID AAAABBBBCCCC`,
		},
		"key with the ID of another namespace and environment": {
			`ApiKey bank/other {environments: [aws], secrets: [{id: AAAABBBBCCCC, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08, createdAt: 2026-11-26T08:00:00Z}]}`,
			`0 ApiKey/bank/other spec.secrets[0].id: key_conflict: ApiKey/shop/export has the ID AAAABBBBCCCC`,
		},
		"two bundles of one trust domain": {
			`TrustDomain a {trustDomain: partner.example, bundleFile: /a}
			 TrustDomain b {trustDomain: partner.example, bundleFile: /b}`,
			`0 TrustDomain/a spec.trustDomain: trust_domain_conflict: TrustDomain/b is of it as well
			 1 TrustDomain/b spec.trustDomain: trust_domain_conflict: TrustDomain/a is of it as well`,
		},
		"environment is missing": {
			`Upstream shop/a {environments: [aws, azure], endpoints: ["a:1"], tls: {}}`,
			`0 Upstream/shop/a spec.environments[1]: dangling_reference: there is no Environment/azure`,
		},
		"environment of an enrollment is missing": {
			`Enrollment azure {spiffeId: "spiffe://prod.example/proxy/azure/*", environment: azure}`,
			`0 Enrollment/azure spec.environment: dangling_reference: there is no Environment/azure`,
		},
		"upstream is not everywhere": {
			`Route shop/a {hosts: [a.example], upstream: aws-only, authentication: {anonymous: true}}`,
			`0 Route/shop/a spec.upstream: not_everywhere: Upstream/shop/aws-only is not in every environment that this is in`,
		},
		"upstream is elsewhere": {
			`Route shop/a {environments: [gcp], hosts: [a.example], upstream: aws-only, authentication: {anonymous: true}}`,
			`0 Route/shop/a spec.upstream: not_everywhere: Upstream/shop/aws-only is not in every environment that this is in`,
		},
		"named route is not everywhere": {
			`Route shop/a {environments: [aws], hosts: [a.example], upstream: orders, authentication: {anonymous: true}}
			 Policy shop/a {routes: {names: [a]}, effect: DENY}`,
			`1 Policy/shop/a spec.routes.names[0]: not_everywhere: Route/shop/a is not in every environment that this is in`,
		},
		"what others need leaves an environment": {
			`Upstream shop/orders {environments: [aws], endpoints: ["orders.internal:443"], tls: {}}`,
			`-1 Route/shop/orders spec.upstream: not_everywhere: Upstream/shop/orders is not in every environment that this is in
			 -1 Route/shop/status spec.upstream: not_everywhere: Upstream/shop/orders is not in every environment that this is in`,
		},
		"condition does not compile": {
			`Policy shop/a {routes: {all: true}, effect: DENY, when: "request.method == 7 && nobody.knows"}`,
			`0 Policy/shop/a spec.when 1:16: invalid_cel: found no matching overload for '_==_' applied to '(string, int)'
			 0 Policy/shop/a spec.when 1:24: invalid_cel: undeclared reference to 'nobody'`,
		},
		"condition is no condition": {
			`Policy shop/a {routes: {all: true}, effect: DENY, when: "request.method"}`,
			`0 Policy/shop/a spec.when 1:1: invalid_cel: is of type string, not bool`,
		},
		"selects no route": {
			`Policy shop/a {routes: {labels: {app: order}}, effect: DENY}`,
			`0 Policy/shop/a spec.routes: never_fires: selects no route`,
		},
		"selects by labels that no route has together": {
			`Policy shop/a {routes: {labels: {app: status, tier: gold}}, effect: DENY}`,
			`0 Policy/shop/a spec.routes: never_fires: selects no route`,
		},
		"namespace without routes": {
			`Policy bank/a {routes: {all: true}, effect: DENY}`,
			`0 Policy/bank/a spec.routes: never_fires: selects no route`,
		},
		"selects routes of other environments": {
			`Route bank/a {environments: [aws], hosts: [a.example], upstream: b, authentication: {anonymous: true}}
			 Upstream bank/b {endpoints: ["b:1"], tls: {}}
			 Policy bank/c {environments: [gcp], routes: {all: true}, effect: DENY}`,
			`2 Policy/bank/c spec.routes: never_fires: selects no route`,
		},
		"methods that no route takes": {
			`Policy shop/a {routes: {names: [orders]}, effect: DENY, methods: [PUT, DELETE]}`,
			`0 Policy/shop/a spec.methods: never_fires: no route that it selects takes PUT or DELETE`,
		},
		"paths that no route has": {
			`Policy shop/a {routes: {all: true}, effect: DENY, paths: ["/v1/order/{id}", "/status/*"]}`,
			`0 Policy/shop/a spec.paths: never_fires: no route that it selects has such a path`,
		},
		"principals that no route can tell": {
			`Policy shop/a {routes: {names: [status]}, effect: ALLOW, principals: [{group: shop}, {spiffe: "spiffe://prod.example/**"}, {authenticated: true}]}
			 Policy shop/b {routes: {names: [orders]}, effect: DENY, principals: [{anonymous: true}]}`,
			`0 Policy/shop/a spec.principals: never_fires: no route that it selects takes what would prove one of them
			 1 Policy/shop/b spec.principals: never_fires: no route that it selects takes what would prove one of them`,
		},
		"principals of a provider whose tokens no route takes": {
			`IdentityProvider shop/sso {issuer: "https://sso.example", jwksUrl: "https://sso.example/keys", audiences: [shop]}
			 Policy shop/a {routes: {all: true}, effect: ALLOW, principals: [{group: shop, identityProvider: sso}]}`,
			`1 Policy/shop/a spec.principals: never_fires: no route that it selects takes what would prove one of them`,
		},
		"keys that are none": {
			`IdentityProvider shop/a {issuer: "https://a.example", audiences: [a], jwks: "keys"}
			 IdentityProvider shop/b {issuer: "https://a.example", audiences: [a], jwks: '{"keys":[]}'}
			 IdentityProvider shop/c {issuer: "https://a.example", audiences: [a], jwks: '{"keys":[{"kty":"oct","kid":"a","k":"AA"}]}'}
			 IdentityProvider shop/d {issuer: "https://a.example", audiences: [a], jwks: '{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}]}'}`,
			`0 IdentityProvider/shop/a spec.jwks: invalid_value: jwks cannot be used: parse key set: not a strict JSON object
			 1 IdentityProvider/shop/b spec.jwks: invalid_value: jwks cannot be used: parse key set: no usable key
			 2 IdentityProvider/shop/c spec.jwks: invalid_value: jwks cannot be used: parse key set: key 0 is private or symmetric
			 3 IdentityProvider/shop/d spec.jwks: invalid_value: jwks cannot be used: parse key set: key 0 is private or symmetric`,
		},
		"introspection by a provider that cannot be asked": {
			`Route shop/a {hosts: [a.example], upstream: orders, authentication: {identityProviders: [login, asked, pki], requireIntrospection: true}}
			 IdentityProvider shop/pki {issuer: "https://pki.example", x509: {caFile: /a, subject: SAN_DNS}}
			 IdentityProvider shop/asked {issuer: "https://asked.example", audiences: [shop], introspection: {endpoint: "https://asked.example/introspect", clientId: a, clientSecretFile: /a}}`,
			`0 Route/shop/a spec.authentication.identityProviders[0]: never_fires: IdentityProvider/shop/login has no introspection, which requireIntrospection wants of it`,
		},
		"sign-in where nobody can, and on paths that are the gateway's": {
			`Route shop/a {hosts: [a.example], upstream: orders, authentication: {signIn: {identityProvider: login}}}
			 Route shop/b {hosts: [b.example], upstream: orders, authentication: {signIn: {identityProvider: nobody}}}
			 Route shop/c {hosts: [c.example], paths: ["/.sallyport", "/.sallyport/logout", "/.sallyports"], upstream: orders, authentication: {anonymous: true}}`,
			`0 Route/shop/a spec.authentication.signIn.identityProvider: dangling_reference: IdentityProvider/shop/login has no signIn
			 1 Route/shop/b spec.authentication.signIn.identityProvider: dangling_reference: there is no IdentityProvider/shop/nobody
			 2 Route/shop/c spec.paths[0]: invalid_value: "/.sallyport" is the gateway's own
			 2 Route/shop/c spec.paths[1]: invalid_value: "/.sallyport" is the gateway's own`,
		},
		"a change that leaves others without effect": {
			`Route shop/orders app=order tier=gold {hosts: [shop.example], paths: ["/v1/orders/**"], upstream: orders, authentication: {identityProviders: [login]}}
			 Route shop/status app=status {hosts: [shop.example], paths: ["/status"], upstream: orders, authentication: {clientCertificates: true}}`,
			`-1 Policy/shop/reads spec.routes: never_fires: selects no route after this change
			 -1 Policy/shop/watch spec.principals: never_fires: no route that it selects takes what would prove one of them after this change`,
		},
		"a change of labels alone": {
			`Route shop/orders app=order tier=gold {hosts: [shop.example], paths: ["/v1/orders/**"], methods: [GET, POST], upstream: orders, authentication: {identityProviders: [login]}}`,
			`-1 Policy/shop/reads spec.routes: never_fires: selects no route after this change`,
		},
		"a change of methods alone": {
			`Route shop/orders app=orders tier=gold {hosts: [shop.example], paths: ["/v1/orders/**"], methods: [POST], upstream: orders, authentication: {identityProviders: [login]}}`,
			`-1 Policy/shop/reads spec.methods: never_fires: no route that it selects takes GET after this change`,
		},
		"a change of authentication alone": {
			`Route shop/orders app=orders tier=gold {hosts: [shop.example], paths: ["/v1/orders/**"], methods: [GET, POST], upstream: orders, authentication: {clientCertificates: true}}`,
			`-1 Policy/shop/reads spec.principals: never_fires: no route that it selects takes what would prove one of them after this change`,
		},
		"route that exists": {
			`Route shop/a {hosts: [a.example, shop.example], paths: ["/v1/orders/**"], methods: [PUT, POST], upstream: orders, authentication: {anonymous: true}}`,
			`0 Route/shop/a spec.paths: route_conflict: POST shop.example/v1/orders/** is taken by Route/shop/orders`,
		},
		"route of another namespace": {
			`Upstream bank/b {endpoints: ["b:1"], tls: {}}
			 Route bank/a {environments: [gcp], hosts: [shop.example], paths: ["/status"], upstream: b, authentication: {anonymous: true}}`,
			`1 Route/bank/a spec.paths: route_conflict: shop.example/status is taken by Route/shop/status`,
		},
		"two new routes": {
			`Route shop/a {environments: [aws], hosts: [a.example], paths: ["/x/{id}"], upstream: orders, authentication: {anonymous: true}}
			 Route shop/b {hosts: [a.example], paths: ["/x/*", "/y"], upstream: orders, authentication: {anonymous: true}}
			 Route shop/c {hosts: [a.example], paths: ["/x/{name}"], upstream: orders, authentication: {anonymous: true}}`,
			`1 Route/shop/b spec.paths: route_conflict: a.example/x/* is taken by Route/shop/a
			 2 Route/shop/c spec.paths: route_conflict: a.example/x/* is taken by Route/shop/a`,
		},
		"address of another listener": {
			`Listener edge/more {environments: [gcp], address: "10.0.0.1:443", tls: {workloadIdentity: true}}`,
			`0 Listener/edge/more spec.address: address_conflict: 10.0.0.1:443 is taken by Listener/edge/https`,
		},
		"proxies of another environment": {
			`Enrollment gcp {spiffeId: "spiffe://prod.example/proxy/*/gcp-1", environment: gcp}`,
			`0 Enrollment/gcp spec.spiffeId: enrollment_conflict: Enrollment/aws matches some of the same SPIFFE IDs, such as spiffe://prod.example/proxy/aws/gcp-1`,
		},
		"twice in one request": {
			`Environment azure {}
			 Environment azure {configurationAge: {limit: 60s, action: DENY}}`,
			`1 Environment/azure : duplicate_resource: is in this request twice`,
		},
		"everything at once, in the order of the request": {
			`Route shop/a {hosts: [a.example], upstream: nowhere, authentication: {anonymous: true}}
			 Policy shop/b {routes: {names: [gone]}, effect: DENY, when: "1"}
			 Environment azure {colour: red}
			 Upstream shop/c {environments: [gone], endpoints: ["a:1"], tls: {}}`,
			`0 Route/shop/a spec.upstream: dangling_reference: there is no Upstream/shop/nowhere
			 1 Policy/shop/b spec.when 1:1: invalid_cel: is of type int, not bool
			 1 Policy/shop/b spec.routes.names[0]: dangling_reference: there is no Route/shop/gone
			 2 Environment/azure spec.colour: unknown_field: "colour" is no field of Environment
			 3 Upstream/shop/c spec.environments[0]: dangling_reference: there is no Environment/gone`,
		},
		"what is broken is not missing as well": {
			`Upstream shop/a {endpoints: [nowhere], tls: {}}
			 Route shop/a app=a {hosts: [], upstream: a, authentication: {anonymous: true}}
			 Route shop/b {hosts: [b.example], upstream: a, authentication: {anonymous: true}}
			 Policy shop/a {routes: {labels: {app: a}}, effect: DENY}
			 Policy shop/b {routes: {names: [a]}, effect: DENY}`,
			`0 Upstream/shop/a spec.endpoints[0]: invalid_value: "nowhere" is not host:port
			 1 Route/shop/a spec.hosts: invalid_value: must contain at least 1 item(s)`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, shop)
			plan, problems := f.apply(t, c.apply)
			same(t, texts(problems), c.want)
			if plan != nil {
				t.Error("there is a plan in spite of problems")
			}
		})
	}
}

func TestWhatOthersNeedOfARoute(t *testing.T) {
	f := newFleet(t, shop+`
		Policy shop/stop {routes: {names: [orders]}, effect: DENY, paths: ["/v1/orders/{id}"]}`)
	_, problems := f.apply(t, `Route shop/orders app=orders tier=gold {hosts: [shop.example], paths: ["/v2/**"], methods: [GET, POST], upstream: orders, authentication: {identityProviders: [login]}}`)
	same(t, texts(problems), `-1 Policy/shop/stop spec.paths: never_fires: no route that it selects has such a path after this change`)
	_, problems = f.apply(t, `Route shop/orders app=orders {hosts: [other.example], paths: ["/v1/orders/**"], methods: [GET, POST], upstream: orders, authentication: {identityProviders: [login]}}`)
	same(t, texts(problems), ``)
}

func TestWhatIsAdmitted(t *testing.T) {
	for name, apply := range map[string]string{
		"route in the environment of its upstream": `
			Route shop/a {environments: [aws], hosts: [a.example], upstream: aws-only, authentication: {anonymous: true}}`,
		"references within the request": `
			Policy new/p {environments: [eu], routes: {names: [r]}, effect: ALLOW, principals: [{group: g, identityProvider: i}]}
			Route new/r {environments: [eu], hosts: [new.example], upstream: u, authentication: {identityProviders: [i]}}
			IdentityProvider new/i {issuer: "https://a", jwksUrl: "https://a/keys", audiences: [a]}
			Upstream new/u {environments: [eu, aws], endpoints: ["u:1"], tls: {}}
			Policy new/q {environments: [eu], routes: {names: [r]}, effect: DENY, methods: [PUT]}
			Environment eu {}`,
		"same requests in another environment": `
			Route shop/a {environments: [aws], hosts: [a.example], upstream: orders, authentication: {anonymous: true}}
			Route shop/b {environments: [gcp], hosts: [a.example], upstream: orders, authentication: {anonymous: true}}`,
		"same path for other methods": `
			Route shop/a {hosts: [shop.example], paths: ["/v1/orders/**"], methods: [PUT], upstream: orders, authentication: {anonymous: true}}
			Route shop/b {hosts: [shop.example], paths: ["/v1/orders/**"], upstream: orders, authentication: {anonymous: true}}`,
		"a more special path": `
			Route shop/a {hosts: [shop.example], paths: ["/v1/orders/{id}"], upstream: orders, authentication: {anonymous: true}}`,
		"a route that takes over from one that moves away": `
			Route shop/status app=status {hosts: [status.example], paths: ["/status"], upstream: orders, authentication: {anonymous: true}}
			Route shop/new {hosts: [shop.example], paths: ["/status"], upstream: orders, authentication: {anonymous: true}}`,
		"listeners that do not meet": `
			Listener edge/a {address: "10.0.0.1:8443", tls: {workloadIdentity: true}}
			Listener edge/b {address: "10.0.0.2:8443", tls: {workloadIdentity: true}}
			Listener edge/c {environments: [aws], address: "10.0.0.3:8443", tls: {workloadIdentity: true}}
			Listener edge/d {environments: [gcp], address: "10.0.0.3:8443", tls: {workloadIdentity: true}}
			Listener edge/e {address: "[2001:db8::1]:9443", tls: {workloadIdentity: true}}
			Listener edge/f {address: "0.0.0.0:9443", tls: {workloadIdentity: true}}
			Listener edge/g {address: "127.0.0.1:0", tls: {workloadIdentity: true}}
			Listener edge/h {address: "127.0.0.1:0", tls: {workloadIdentity: true}}`,
		"enrollments that do not meet": `
			Enrollment more {spiffeId: "spiffe://prod.example/proxy/aws-special", environment: aws, approval: MANUAL}
			Enrollment gcp {spiffeId: "spiffe://prod.example/proxy/gcp/**", environment: gcp}
			Enrollment dev {spiffeId: "spiffe://dev.example/proxy/aws/**", environment: gcp}`,
		"conditions of the request's own": `
			Policy shop/a {routes: {all: true}, effect: DENY, when: "request.method == 'GET' && 'shop' in principal.groups"}`,
		"policy for some environments of its routes": `
			Policy shop/a {environments: [gcp], routes: {all: true}, effect: DENY, paths: ["/v1/orders/{id}"]}`,
		"one of the principals can be told": `
			Policy shop/a {routes: {names: [orders]}, effect: ALLOW, principals: [{anonymous: true}, {authenticated: true}]}`,
		"environment in the request that its resources name": `
			Enrollment eu {spiffeId: "spiffe://prod.example/proxy/eu/**", environment: eu}
			Environment eu {}`,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, shop)
			if _, problems := f.apply(t, apply); problems.Total > 0 {
				t.Fatal(texts(problems))
			}
			if plan, problems := f.apply(t, apply); problems.Total > 0 || len(plan.Changes) > 0 {
				t.Errorf("the same again: %d changes, problems: %s", len(plan.Changes), texts(problems))
			}
		})
	}
}

func TestWhatMayBeDeleted(t *testing.T) {
	for name, c := range map[string]struct{ delete, want string }{
		"what nobody refers to": {`
			Listener edge/https
			Upstream shop/aws-only`, ``},
		"a route with the policies that select it": {`
			Route shop/orders
			Policy shop/reads
			Policy shop/watch
			Route shop/status`, ``},
		"an environment with all that is in it": {`
			Environment aws
			Upstream shop/aws-only
			Enrollment aws`, ``},
		"an environment that nothing names": {`
			Environment gcp`, ``},
		"one thing twice": {`
			Environment gcp
			Environment gcp`, `
			1 Environment/gcp : duplicate_resource: is in this request twice`},
		"an upstream that routes need": {`
			Upstream shop/orders`, `
			0 Upstream/shop/orders : still_referenced: Route/shop/orders refers to it (spec.upstream)
			0 Upstream/shop/orders : still_referenced: Route/shop/status refers to it (spec.upstream)`},
		"an environment that resources name": {`
			Environment aws`, `
			0 Environment/aws : still_referenced: Enrollment/aws refers to it (spec.environment)
			0 Environment/aws : still_referenced: Upstream/shop/aws-only refers to it (spec.environments[0])`},
		"the only route that a policy selects by label": {`
			Route shop/orders`, `
			-1 Policy/shop/reads spec.routes: never_fires: selects no route after this change`},
		"a provider that a route takes tokens of": {`
			IdentityProvider shop/login`, `
			0 IdentityProvider/shop/login : still_referenced: Route/shop/orders refers to it (spec.authentication.identityProviders[0])`},
		"all problems at once": {`
			Upstream shop/gone
			Route shop/status`, `
			0 Upstream/shop/gone : not_found: does not exist
			1 Route/shop/status : still_referenced: Policy/shop/watch refers to it (spec.routes.names[0])`},
	} {
		t.Run(name, func(t *testing.T) {
			_, problems := newFleet(t, shop).delete(t, c.delete)
			same(t, texts(problems), c.want)
		})
	}
}

// A plan holds only while the fleet is as it was planned for: what was
// committed meanwhile is found when it is made again.
func TestPlanningAgain(t *testing.T) {
	const route = `Route shop/a {hosts: [a.example], upstream: orders, authentication: {anonymous: true}}`
	for name, c := range map[string]struct {
		request   func(t *testing.T) *admission.Request
		meanwhile func(t *testing.T, f *fleet) resource.Problems
		want      string // "same", "other", or problems
	}{
		"nothing": {
			applying(route), func(*testing.T, *fleet) resource.Problems { return resource.Problems{} }, "same",
		},
		"what does not concern it": {
			applying(route), apply(`Upstream shop/b {endpoints: ["b:1"], tls: {}}`), "same",
		},
		"what it refers to is deleted": {
			applying(`Route shop/a {environments: [aws], hosts: [a.example], upstream: aws-only, authentication: {anonymous: true}}`),
			remove("Upstream shop/aws-only"),
			"0 Route/shop/a spec.upstream: dangling_reference: there is no Upstream/shop/aws-only",
		},
		"another takes its requests": {
			applying(route), apply(`Route shop/b {hosts: [a.example], upstream: orders, authentication: {anonymous: true}}`),
			"0 Route/shop/a spec.paths: route_conflict: a.example/** is taken by Route/shop/b",
		},
		"what it deletes is referred to": {
			deleting("Upstream shop/aws-only"),
			apply(`Route shop/a {environments: [aws], hosts: [a.example], upstream: aws-only, authentication: {anonymous: true}}`),
			"0 Upstream/shop/aws-only : still_referenced: Route/shop/a refers to it (spec.upstream)",
		},
		"what it deletes is deleted": {
			deleting("Environment gcp"), remove("Environment gcp"), "0 Environment/gcp : not_found: does not exist",
		},
		"the same is applied": {applying(route), apply(route), "other"},
		"what it leaves is changed": {
			applying(route + "\nUpstream shop/aws-only {environments: [aws], endpoints: [\"legacy.internal:443\"], tls: {}}"),
			apply(`Upstream shop/aws-only {environments: [aws], endpoints: ["other.internal:443"], tls: {}}`), "other",
		},
		"what it creates is created otherwise": {
			applying(route), apply(`Route shop/a {hosts: [b.example], upstream: orders, authentication: {anonymous: true}}`), "other",
		},
		"a policy that was unchanged is changed": {
			applying(`Policy shop/reads {routes: {labels: {app: orders}}, effect: ALLOW, principals: [{group: shop}], methods: [GET]}`),
			apply(`Policy shop/reads {routes: {labels: {app: orders}}, effect: DENY}`), "other",
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, shop)
			r := c.request(t)
			r.Compile(f.Unknown(r))
			plan, problems := f.Plan(r)
			if problems.Total > 0 {
				t.Fatal(texts(problems))
			}
			if problems := c.meanwhile(t, f); problems.Total > 0 {
				t.Fatal(texts(problems))
			}
			again, problems := f.Plan(r)
			switch {
			case problems.Total > 0:
				same(t, texts(problems), c.want)
			case plan.Same(again) != (c.want == "same"):
				t.Errorf("want %s: %v, then %v", c.want, plan.Types, again.Types)
			}
		})
	}
}

func applying(lines string) func(*testing.T) *admission.Request {
	return func(t *testing.T) *admission.Request { return admission.NewApply(resources(t, lines), now) }
}

func deleting(lines string) func(*testing.T) *admission.Request {
	return func(*testing.T) *admission.Request { return deletion(lines) }
}

func apply(lines string) func(*testing.T, *fleet) resource.Problems {
	return func(t *testing.T, f *fleet) resource.Problems { _, problems := f.apply(t, lines); return problems }
}

func remove(lines string) func(*testing.T, *fleet) resource.Problems {
	return func(t *testing.T, f *fleet) resource.Problems { _, problems := f.delete(t, lines); return problems }
}

// A provider at which people sign in stays one, and a policy may go by whom it
// vouches for.
func TestProviderOfSignIn(t *testing.T) {
	people := `IdentityProvider shop/people {issuer: "https://people.example", audiences: [shop], jwksUrl: "https://people.example/keys"`
	f := newFleet(t, shop+"\n"+people+`, signIn: {clientId: a}}
		Route shop/a app=a {hosts: [a.example], upstream: orders, authentication: {signIn: {identityProvider: people}}}
		Policy shop/a {routes: {names: [a]}, effect: ALLOW, principals: [{group: staff, identityProvider: people}, {authenticated: true}]}`)
	_, problems := f.apply(t, people+"}")
	same(t, texts(problems), `-1 Route/shop/a spec.authentication.signIn.identityProvider: dangling_reference: IdentityProvider/shop/people has no signIn`)
}

// A provider that a route needs to ask stays one that can be asked.
func TestProviderThatIsAsked(t *testing.T) {
	asked := `IdentityProvider shop/asked {issuer: "https://asked.example", audiences: [shop], jwksUrl: "https://asked.example/keys"`
	const endpoint = `, introspection: {endpoint: "https://asked.example/introspect", clientId: a, clientSecretFile: /a}`
	f := newFleet(t, shop+"\n"+asked+endpoint+`}
		Route shop/a {hosts: [a.example], upstream: orders, authentication: {identityProviders: [asked], requireIntrospection: true}}`)
	_, problems := f.apply(t, asked+"}")
	same(t, texts(problems), `-1 Route/shop/a spec.authentication.identityProviders[0]: never_fires: IdentityProvider/shop/asked has no introspection, which requireIntrospection wants of it`)
}
