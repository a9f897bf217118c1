package resource_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// of returns a resource of a kind with the given spec in YAML flow style.
func of(kind, spec string) string {
	namespace := "namespace: shop, "
	if !resource.Kind(kind).Namespaced() {
		namespace = ""
	}
	return fmt.Sprintf("{apiVersion: sallyport/v1, kind: %s, metadata: {%sname: x}, spec: %s}", kind, namespace, spec)
}

// listenerOf is a Listener with the given clientIp.
func listenerOf(clientIP string) string {
	return of("Listener", `{address: ":443", tls: {workloadIdentity: true}, clientIp: `+clientIP+`}`)
}

const goodRoute = `{hosts: [a.example], upstream: u, authentication: {anonymous: true}}`

func TestDecodeFindsAllProblems(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string // "field reason"
	}{
		{of("Route", goodRoute), nil},
		{"{}", []string{"apiVersion required", "kind required"}},
		{"{apiVersion: v2, kind: Rout, metadata: {name: X}}", []string{"apiVersion invalid_value", "kind unknown_kind"}},
		{"{apiVersion: sallyport/v1, kind: Route, spec: " + goodRoute + "}", []string{"metadata.name required", "metadata.namespace required"}},
		{"{apiVersion: sallyport/v1, kind: Environment, metadata: {namespace: shop, name: aws}}", []string{"metadata.namespace invalid_value"}},
		{"{apiVersion: sallyport/v1, kind: Environment, metadata: {name: Aws_1}}", []string{"metadata.name invalid_value"}},
		{"{apiVersion: sallyport/v1, kind: Environment, metadata: {name: -aws}}", []string{"metadata.name invalid_value"}},
		{"{apiVersion: sallyport/v1, kind: Environment, metadata: {name: " + strings.Repeat("a", 64) + "}}", []string{"metadata.name invalid_value"}},
		{"{apiVersion: sallyport/v1, kind: Environment, metadata: {name: a, labels: {'': a, b: é, -c: d, ok: '', long: " + strings.Repeat("a", 129) + "}}}",
			[]string{`metadata.labels[""] invalid_value`, `metadata.labels["-c"] invalid_value`, `metadata.labels["b"] invalid_value`, `metadata.labels["long"] invalid_value`}},

		// Everything at once, and nothing that only follows from it.
		{of("Policy", `{routes: {labels: [app]}, efect: ALLOW, principals: {group: shop}, methods: [get, 7, GET, GET], paths: [orders, "/a/{x}", "/a/{y}"], when: true}`), []string{
			"spec.efect unknown_field",
			"spec.methods[1] wrong_type",
			"spec.principals wrong_type",
			"spec.routes.labels wrong_type",
			"spec.when wrong_type",
			"spec.effect invalid_value",
			"spec.methods[0] invalid_value",
			"spec.paths[0] invalid_value",
			"spec.paths[2] invalid_value",
		}},
		{of("Policy", `{routes: {names: [r], all: true}, effect: ALLOW, principals: []}`),
			[]string{"spec.principals invalid_value", "spec.routes invalid_value"}},
		{of("Policy", `{routes: {all: true}, effect: ALLOW, principals: [{}, {group: ""}, {authenticated: false}, {group: a, subject: b}, {spiffe: "spiffe://*/a"}, {spiffe: "spiffe://a/**", identityProvider: p}, {group: g, identityProvider: P}, {subject: "a\nb"}]}`), []string{
			"spec.principals[3].subject conflicting_fields",
			"spec.principals[0] required",
			"spec.principals[1].group invalid_value",
			"spec.principals[2].authenticated invalid_value",
			"spec.principals[4].spiffe invalid_value",
			"spec.principals[5].identityProvider conflicting_fields",
			"spec.principals[6].identityProvider invalid_value",
			"spec.principals[7].subject invalid_value",
		}},
		{of("Policy", `{routes: {all: true}, effect: MAYBE}`), []string{"spec.effect unknown_value"}},
		{of("Policy", `{routes: {all: true}, effect: EFFECT_UNSPECIFIED}`), []string{"spec.effect unknown_value"}},
		{of("Policy", `{routes: {all: true}, effect: 2}`), []string{"spec.effect wrong_type"}},
		{of("Policy", `{routes: {all: true}, effect: DENY, principals: null}`), []string{"spec.principals wrong_type"}},
		{of("Policy", `{routes: {all: true}, effect: DENY, methods: [TRACE, "*", BREW]}`),
			[]string{"spec.methods[0] invalid_value", "spec.methods[1] invalid_value", "spec.methods[2] invalid_value"}},
		{of("Policy", `{routes: {names: [A, b]}, effect: DENY, environments: [Aws, aws, aws]}`),
			[]string{"spec.environments invalid_value", "spec.routes.names[0] invalid_value"}},

		{of("Route", `{upstream: Up, authentication: {}}`), []string{"spec.hosts invalid_value", "spec.authentication invalid_value", "spec.upstream invalid_value"}},
		{of("Route", `{hosts: [A.example, "a.example:443", "*", "*.10.0.0.1", "a.*", "", "a..b"], upstream: u, authentication: {identityProviders: [P]}}`), []string{
			"spec.hosts[5] invalid_value", "spec.hosts[0] invalid_value", "spec.hosts[1] invalid_value", "spec.hosts[2] invalid_value",
			"spec.hosts[3] invalid_value", "spec.hosts[4] invalid_value", "spec.hosts[6] invalid_value", "spec.authentication.identityProviders[0] invalid_value",
		}},
		{of("Route", `{hosts: [a], upstream: u, authentication: {anonymous: true}, timeout: 30}`), []string{"spec.timeout wrong_type"}},
		{of("Route", `{hosts: [a], upstream: u, authentication: {anonymous: true}, timeout: 5 m}`), []string{"spec.timeout invalid_value"}},
		{of("Route", `{hosts: [a], upstream: u, authentication: {anonymous: true}, timeout: 0s}`), []string{"spec.timeout invalid_value"}},
		{of("Route", `{hosts: [a], upstream: u, authentication: {anonymous: true}, timeout: 3601s}`), []string{"spec.timeout invalid_value"}},
		{of("Route", `{hosts: [a], upstream: u, authentication: {anonymous: true}, headers: [{name: x-a, exact: ""}, {name: x-b, prefix: "a "}, {name: x-c, present: false}], query: [{name: a.b, present: true}]}`), nil},
		{of("Route", `{hosts: [a], upstream: u, authentication: {anonymous: true}, headers: [{name: x-a}, {exact: a}, {name: Host, exact: a}, {name: x-b, exact: "a\nb"}, {name: x-c, exact: a}, {name: X-C, exact: b}, {name: x-d, exact: a, prefix: b}], query: [{name: a, exact: x, present: 1}]}`), []string{
			"spec.headers[6].prefix conflicting_fields", "spec.query[0].present conflicting_fields",
			"spec.headers[0] required", "spec.headers[1].name required", "spec.headers[2] invalid_value",
			"spec.headers[3] invalid_value", "spec.headers[5].name invalid_value",
		}},
		{of("Route", `{hosts: [a], upstream: u, authentication: {anonymous: true}, headers: [{name: x-a, exact: a}, {name: x-b, exact: a}, {name: x-c, exact: a}, {name: x-d, exact: a}, {name: x-e, exact: a}], query: [{name: a, exact: a}, {name: b, exact: a}, {name: c, exact: a}, {name: d, exact: a}]}`), []string{"spec.query invalid_value"}},
		{of("Route", `{hosts: [a], upstream: u, authentication: {anonymous: true}, encodedSlashes: KEEP}`), nil},
		{of("Route", `{hosts: [a], paths: [/a, "/b/{id}"], upstream: u, authentication: {anonymous: true}, encodedSlashes: KEEP}`), nil},
		{of("Route", `{hosts: [a], paths: [/a], upstream: u, authentication: {anonymous: true}, encodedSlashes: REFUSE}`), nil},
		{of("Route", `{hosts: [a], paths: [/a, /b/c], upstream: u, authentication: {anonymous: true}, encodedSlashes: KEEP}`), []string{"spec.encodedSlashes invalid_value"}},
		{of("Route", `{hosts: [a], paths: ["/a%2Fb", "/{id}"], upstream: u, authentication: {anonymous: true}, encodedSlashes: DECODE}`), []string{"spec.encodedSlashes unknown_value", "spec.paths[0] invalid_value"}},
		{of("Route", `{hosts: [a], authentication: {anonymous: true}}`), []string{"spec.upstream invalid_value"}},
		{of("Route", `{hosts: [a], upstream: u, redirect: {host: b.example}, authentication: {anonymous: true}}`), []string{"spec.upstream invalid_value"}},
		{of("Route", `{hosts: [a], redirect: {status: 307, scheme: http, host: "b.example:8080", path: /x/**}, authentication: {anonymous: true}}`), nil},
		{of("Route", `{hosts: [a], redirect: {status: 200, scheme: ftp, host: "b.example"}, authentication: {anonymous: true}}`), []string{
			"spec.redirect.status invalid_value", "spec.redirect.scheme invalid_value",
		}},
		{of("Route", `{hosts: [a], redirect: {host: "b.example/"}, authentication: {anonymous: true}}`), []string{"spec.redirect.host invalid_value"}},
		{of("Route", `{hosts: [a], redirect: {scheme: https}, authentication: {anonymous: true}}`), []string{"spec.redirect invalid_value"}},
		{of("Route", `{hosts: [a], redirect: {host: b}, rewrite: {host: c}, authentication: {anonymous: true}}`), []string{"spec.redirect invalid_value"}},
		{of("Route", `{hosts: [a], upstream: u, rewrite: {}, authentication: {anonymous: true}}`), []string{"spec.rewrite invalid_value"}},
		{of("Route", `{hosts: [a], paths: ["/{id}", /x], upstream: u, rewrite: {host: "c:80", path: "/y/{id}"}, authentication: {anonymous: true}}`), []string{
			"spec.rewrite.host invalid_value", "spec.rewrite.path invalid_value",
		}},
		{of("Route", `{hosts: [a], upstream: u, authentication: {anonymous: true}, requestHeaders: {remove: [x-a, cookie, via, VIA], set: [{name: X-A, value: a}, {name: x-b, value: "a\nb"}, {value: c}, {name: x-c}], add: [{name: x-forwarded-for, value: a}]}, responseHeaders: {remove: [X-A, server], set: [{name: Set-Cookie, value: a=b}]}}`), []string{
			"spec.requestHeaders.set[2].name required", "spec.requestHeaders.remove[3] invalid_value", "spec.requestHeaders.set[0].name invalid_value",
			"spec.requestHeaders.set[1].value invalid_value", "spec.requestHeaders.add[0].name invalid_value", "spec.responseHeaders.set[0].name invalid_value",
		}},
		{of("Route", `{hosts: [a], upstream: u, authentication: {anonymous: true}, cors: {}}`), []string{"spec.cors.origins invalid_value"}},
		{of("Route", `{hosts: [a], upstream: u, authentication: {anonymous: true}, cors: {origins: ["https://a.example", "http://a.example"], methods: [get], requestHeaders: [authorization, x_a, connection], responseHeaders: [etag, "a b"], maxAge: 0s}}`), []string{
			"spec.cors.maxAge invalid_value", "spec.cors.origins[1] invalid_value", "spec.cors.methods[0] invalid_value",
			"spec.cors.requestHeaders[1] invalid_value", "spec.cors.requestHeaders[2] invalid_value", "spec.cors.responseHeaders[1] invalid_value",
		}},
		{of("Route", `{hosts: [a], split: {shares: [{upstream: u, weight: 1}, {upstream: u}, {upstream: V}, {upstream: w, weight: 10001}], header: x-user}, authentication: {anonymous: true}}`), []string{
			"spec.split.shares[3].weight invalid_value", "spec.split.shares[1].upstream invalid_value", "spec.split.shares[2].upstream invalid_value", "spec.split.header invalid_value",
		}},
		{of("Route", `{hosts: [a], split: {shares: [{upstream: u, weight: 1}], principal: false}, authentication: {anonymous: true}}`), []string{"spec.split.shares invalid_value", "spec.split.principal invalid_value"}},
		{of("Route", `{hosts: [a], upstream: u, authentication: {anonymous: true}, idleTimeout: 0.5s, errorPages: {statuses: [200, 500, 600]}}`), []string{
			"spec.idleTimeout invalid_value", "spec.errorPages.statuses[0] invalid_value", "spec.errorPages.statuses[2] invalid_value",
		}},
		{of("ApiKey", `{owner: "spiffe://prod.example/web", scopes: ["a b", "a\nb"], groups: ["a\nb"], secrets: [{id: "sp_7Kq2mZ0aXw9B", sha256: "9F86", createdAt: 2026-11-26T20:00:00Z}, {id: 7Kq2mZ0aXw9B, createdAt: 2026-11-26T20:00:00Z, notAfter: 2026-11-26T20:00:00Z}, {id: 7Kq2mZ0aXw9B, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08, createdAt: yesterday}]}`), []string{
			"spec.secrets[2].createdAt invalid_value", "spec.secrets[1].notAfter invalid_value", "spec.secrets[1].sha256 required",
			"spec.owner invalid_value", "spec.scopes[0] invalid_value", "spec.scopes[1] invalid_value", "spec.groups[0] invalid_value",
			"spec.secrets[0].id invalid_value", "spec.secrets[0].sha256 invalid_value", "spec.secrets[2].id invalid_value",
		}},
		{strings.Replace(of("TrustDomain", `{trustDomain: "*.partner.example", bundle: "{}"}`), "namespace: shop, ", "", 1), []string{"spec.trustDomain invalid_value", "spec.bundle invalid_value"}},
		{strings.Replace(of("TrustDomain", `{trustDomain: Partner.example, bundle: rubbish}`), "namespace: shop, ", "", 1), []string{"spec.trustDomain invalid_value", "spec.bundle invalid_value"}},
		{strings.Replace(of("TrustDomain", `{trustDomain: "spiffe://partner.example", bundleFile: partner.pem, bundle: "{"}`), "namespace: shop, ", "", 1), []string{"spec.bundleFile conflicting_fields", "spec.trustDomain invalid_value", "spec.bundle invalid_value"}},
		{strings.Replace(of("TrustDomain", `{trustDomain: partner.example, bundleEndpoint: {url: "https://bundles.partner.example/bundle.json", web: {}}}`), "namespace: shop, ", "", 1), nil},
		{strings.Replace(of("TrustDomain", `{trustDomain: partner.example, bundleEndpoint: {url: "https://bundles.partner.example:8443/?x=y", spiffe: {endpointSpiffeId: "spiffe://partner.example/spire/server", bootstrap: '{"keys":[{}]}'}}}`), "namespace: shop, ", "", 1), nil},
		{strings.Replace(of("TrustDomain", `{trustDomain: partner.example, bundleEndpoint: {url: "https://127.0.0.1:8443", web: {}, allowPrivateAddresses: true}}`), "namespace: shop, ", "", 1), nil},
		{strings.Replace(of("TrustDomain", `{trustDomain: partner.example, bundleEndpoint: {url: "https://127.0.0.1:8443", web: {}}}`), "namespace: shop, ", "", 1), []string{"spec.bundleEndpoint.url invalid_value"}},
		{strings.Replace(of("TrustDomain", `{trustDomain: partner.example, bundleEndpoint: {url: "https://169.254.169.254", web: {}, allowPrivateAddresses: true}}`), "namespace: shop, ", "", 1), []string{"spec.bundleEndpoint.url invalid_value"}},
		{strings.Replace(of("TrustDomain", `{trustDomain: partner.example, bundleEndpoint: {url: "http://127.0.0.1:8443", web: {}, allowPrivateAddresses: true}}`), "namespace: shop, ", "", 1), []string{"spec.bundleEndpoint.url invalid_value"}},
		{strings.Replace(of("TrustDomain", `{trustDomain: partner.example, bundleEndpoint: {url: "http://bundles.partner.example", web: {}}}`), "namespace: shop, ", "", 1), []string{"spec.bundleEndpoint.url invalid_value"}},
		{strings.Replace(of("TrustDomain", `{trustDomain: partner.example, bundleEndpoint: {url: "https://me@bundles.partner.example", web: {}}}`), "namespace: shop, ", "", 1), []string{"spec.bundleEndpoint.url invalid_value"}},
		{strings.Replace(of("TrustDomain", `{trustDomain: partner.example, bundleEndpoint: {url: bundles.partner.example, web: {}}}`), "namespace: shop, ", "", 1), []string{"spec.bundleEndpoint.url invalid_value"}},
		{strings.Replace(of("TrustDomain", `{trustDomain: partner.example, bundleEndpoint: {url: "https://bundles.partner.example"}}`), "namespace: shop, ", "", 1), []string{"spec.bundleEndpoint required"}},
		{strings.Replace(of("TrustDomain", `{trustDomain: partner.example, bundleEndpoint: {web: {}}}`), "namespace: shop, ", "", 1), []string{"spec.bundleEndpoint.url required"}},
		{strings.Replace(of("TrustDomain", `{trustDomain: partner.example, bundleEndpoint: {url: "https://a.example", web: {}, spiffe: {endpointSpiffeId: "spiffe://partner.example/a", bootstrap: '{"keys":[{}]}'}}}`), "namespace: shop, ", "", 1), []string{"spec.bundleEndpoint.web conflicting_fields"}},
		{strings.Replace(of("TrustDomain", `{trustDomain: partner.example, bundleEndpoint: {url: "https://a.example", spiffe: {endpointSpiffeId: "spiffe://hub.example/a"}}}`), "namespace: shop, ", "", 1), []string{"spec.bundleEndpoint.spiffe.bootstrap required"}},
		{strings.Replace(of("TrustDomain", `{trustDomain: partner.example, bundleEndpoint: {url: "https://a.example", spiffe: {bootstrap: rubbish}}}`), "namespace: shop, ", "", 1), []string{"spec.bundleEndpoint.spiffe.endpointSpiffeId required", "spec.bundleEndpoint.spiffe.bootstrap invalid_value"}},
		{strings.Replace(of("TrustDomain", `{trustDomain: partner.example, bundleEndpoint: {url: "https://a.example", spiffe: {endpointSpiffeId: "spiffe://partner.example/*", bootstrap: '{"keys":[{}]}'}}}`), "namespace: shop, ", "", 1), []string{"spec.bundleEndpoint.spiffe.endpointSpiffeId invalid_value"}},
		{strings.Replace(of("TrustDomain", `{trustDomain: partner.example}`), "namespace: shop, ", "", 1), []string{"spec required"}},
		{of("ApiKey", `{secrets: []}`), []string{"spec.secrets invalid_value"}},
		{of("Policy", `{routes: {all: true}, effect: ALLOW, principals: [{key: "shop/k"}, {key: k, identityProvider: p}]}`), []string{
			"spec.principals[0].key invalid_value", "spec.principals[1].identityProvider conflicting_fields",
		}},
		{of("Route", `{hosts: [a], upstream: u, authentication: {identity_providers: [p], identityProviders: [q]}}`), []string{"spec.authentication.identityProviders duplicate_field"}},

		{of("Upstream", `{endpoints: ["a.example:443"]}`), []string{"spec required"}},
		{of("Upstream", `{endpoints: ["a.example:443"], tls: {}, spiffe: {}}`), []string{"spec.tls conflicting_fields", "spec.spiffe.peerIds invalid_value"}},
		{of("Upstream", `{endpoints: [], tls: {caFile: ca.pem, serverName: "a:443"}}`),
			[]string{"spec.endpoints invalid_value", "spec.tls.caFile invalid_value", "spec.tls.serverName invalid_value"}},
		{of("Upstream", `{endpoints: ["a.example:443"], tls: {}, balancing: {method: HASH}}`), []string{"spec.balancing.hash required"}},
		{of("Upstream", `{endpoints: ["a.example:443"], tls: {}, balancing: {hash: {header: x-a}, slowStart: 0.5s, panicThreshold: 101}}`), []string{
			"spec.balancing.slowStart invalid_value", "spec.balancing.panicThreshold invalid_value",
			"spec.balancing.hash conflicting_fields",
		}},
		{of("Upstream", `{endpoints: ["a.example:443"], tls: {}, balancing: {method: HASH, hash: {header: cookie}}}`), []string{"spec.balancing.hash.header invalid_value"}},
		{of("Upstream", `{endpoints: ["a.example:443"], tls: {}, balancing: {method: HASH, hash: {cookie: "a b"}}}`), []string{"spec.balancing.hash.cookie invalid_value"}},
		{of("Upstream", `{endpoints: ["a.example:443"], tls: {}, balancing: {method: HASH, hash: {cookie: __Host-sallyport-session}}}`), []string{"spec.balancing.hash.cookie invalid_value"}},
		{of("Upstream", `{endpoints: ["a.example:443"], tls: {}, balancing: {method: RANDOM, hash: {principal: false}}}`), []string{
			"spec.balancing.method unknown_value", "spec.balancing.hash.principal invalid_value",
		}},
		{of("Upstream", `{endpoints: ["a.example:443"], tls: {}, ejection: {off: true, baseTime: 10s}, retries: {off: true, attempts: 2}}`), []string{
			"spec.ejection.off conflicting_fields", "spec.retries.off conflicting_fields",
		}},
		{of("Upstream", `{endpoints: ["a.example:443"], tls: {}, circuitLimits: {maxPending: 10}}`), []string{"spec.circuitLimits.maxPending conflicting_fields"}},
		{of("Upstream", `{endpoints: ["a.example:443"], tls: {}, healthCheck: {}}`), []string{
			"spec.healthCheck required",
		}},
		{of("Upstream", `{endpoints: ["a.example:443"], tls: {}, healthCheck: {http: {path: healthz, host: "A:443", statuses: [{from: 299, to: 200}, {from: 100, to: 600}]}}}`), []string{
			"spec.healthCheck.http.statuses[1].from invalid_value", "spec.healthCheck.http.statuses[1].to invalid_value",
			"spec.healthCheck.http.path invalid_value", "spec.healthCheck.http.host invalid_value", "spec.healthCheck.http.statuses[0] invalid_value",
		}},
		{of("Upstream", `{endpoints: ["a.example:443"], tls: {}, healthCheck: {http: {path: "/a%2Fb"}, interval: 0.5s, timeout: 61s, healthyThreshold: 101}}`), []string{
			"spec.healthCheck.interval invalid_value", "spec.healthCheck.timeout invalid_value", "spec.healthCheck.healthyThreshold invalid_value",
			"spec.healthCheck.http.path invalid_value",
		}},
		{of("Upstream", `{endpoints: ["127.0.0.1:443"], plaintext: {}, healthCheck: {grpc: {service: "a b"}}}`), []string{
			"spec.healthCheck.grpc conflicting_fields",
		}},
		{of("Upstream", `{endpoints: ["127.0.0.1:443"], tls: {}, healthCheck: {grpc: {service: "a b"}}}`), []string{
			"spec.healthCheck.grpc.service invalid_value",
		}},
		{of("Upstream", `{endpoints: ["a.example:443", "b.example:443", "c.example:443", "d.example:443"], tls: {}, locality: {threshold: 101, zones: {"A.example:443": eu/a, "a.example:443": eu/a/1, "b.example:443": "eu/", "c.example:443": "eu//a", "d.example:443": "e u"}}}`), []string{
			"spec.locality.threshold invalid_value", `spec.locality.zones["A.example:443"] invalid_value`, `spec.locality.zones["a.example:443"] invalid_value`,
			`spec.locality.zones["b.example:443"] invalid_value`, `spec.locality.zones["c.example:443"] invalid_value`, `spec.locality.zones["d.example:443"] invalid_value`,
		}},
		{of("Upstream", `{endpoints: ["a.example:443"], tls: {}, locality: {threshold: 50}}`), []string{"spec.locality.zones invalid_value"}},
		{of("Upstream", `{endpoints: ["192.0.2.1:443", "[2001:db8::1]:443", "localhost:443"], tls: {}, resolution: {interval: 30s}}`), []string{
			"spec.resolution conflicting_fields",
		}},
		{of("Upstream", `{endpoints: ["192.0.2.1:443", "a.example:443"], tls: {}, resolution: {interval: 500ms, addresses: IPV5}}`), []string{
			"spec.resolution.addresses unknown_value", "spec.resolution.interval invalid_value",
		}},
		{of("Upstream", `{endpoints: ["a.example:443"], tls: {}, ejection: {maxTime: 20s}, retries: {on: [RESET, RESET], attempts: 11, perTryTimeout: 0s}, circuitLimits: {maxRequests: 1000001}}`), []string{
			"spec.retries.attempts invalid_value", "spec.retries.on invalid_value", "spec.retries.perTryTimeout invalid_value", "spec.circuitLimits.maxRequests invalid_value", "spec.ejection.maxTime invalid_value",
		}},
		{of("Upstream", `{endpoints: ["a", "a:0", "a:65536", "a:080", ":443", "fd00::7:443", "A:443", "a:443"], tls: {}}`), []string{
			"spec.endpoints[0] invalid_value", "spec.endpoints[1] invalid_value", "spec.endpoints[2] invalid_value", "spec.endpoints[3] invalid_value",
			"spec.endpoints[4] invalid_value", "spec.endpoints[5] invalid_value", "spec.endpoints[6] invalid_value",
		}},
		{of("Upstream", `{endpoints: ["127.0.0.1:80", "10.0.0.1:80", "localhost.example:80"], plaintext: {}}`),
			[]string{"spec.endpoints[1] invalid_value", "spec.endpoints[2] invalid_value"}},
		{of("Upstream", `{endpoints: ["a:1"], spiffe: {peerIds: ["spiffe://a/b/"]}}`), []string{"spec.spiffe.peerIds[0] invalid_value"}},

		{of("Listener", `{address: ":443"}`), []string{"spec.tls required"}},
		{of("Listener", `{address: "edge.example:443", tls: {workloadIdentity: true, certificates: [{certificateFile: a}], minVersion: "1.3"}}`), []string{
			"spec.tls.minVersion unknown_value", "spec.tls.certificates[0].privateKeyFile required",
			"spec.address invalid_value", "spec.tls.certificates[0].certificateFile invalid_value",
		}},
		{of("Listener", `{address: "443", tls: {}}`), []string{"spec.tls invalid_value", "spec.address invalid_value"}},
		{of("Listener", `{address: "1.2.3.4:x", tls: {workloadIdentity: true}}`), []string{"spec.address invalid_value"}},
		{listenerOf(`{direct: {}}`), nil},
		{listenerOf(`{forwarded: {header: X_FORWARDED_FOR, trustedHops: 2}}`), nil},
		{listenerOf(`{forwarded: {header: FORWARDED, trustedCidrs: [10.0.0.0/8, "2001:db8::/32"]}}`), nil},
		{listenerOf(`{proxyProtocol: {trustedCidrs: [10.0.0.1/32], required: true}}`), nil},
		{listenerOf(`{}`), []string{"spec.clientIp required"}},
		{listenerOf(`{direct: {}, proxyProtocol: {trustedCidrs: [10.0.0.1/32]}}`), []string{"spec.clientIp.proxyProtocol conflicting_fields"}},
		{listenerOf(`{forwarded: {trustedHops: 1}}`), []string{"spec.clientIp.forwarded.header invalid_value"}},
		{listenerOf(`{forwarded: {header: FORWARDED}}`), []string{"spec.clientIp.forwarded invalid_value"}},
		{listenerOf(`{forwarded: {header: FORWARDED, trustedHops: 0}}`), []string{"spec.clientIp.forwarded invalid_value"}},
		{listenerOf(`{forwarded: {header: FORWARDED, trustedHops: 1, trustedCidrs: [10.0.0.0/8]}}`), []string{"spec.clientIp.forwarded invalid_value"}},
		{listenerOf(`{forwarded: {header: FORWARDED, trustedHops: 17}}`), []string{"spec.clientIp.forwarded.trustedHops invalid_value"}},
		{listenerOf(`{forwarded: {header: FORWARDED, trustedHops: -1}}`), []string{"spec.clientIp.forwarded.trustedHops wrong_type"}},
		{listenerOf(`{forwarded: {header: FORWARDED, trustedHops: 1.5}}`), []string{"spec.clientIp.forwarded.trustedHops wrong_type"}},
		{listenerOf(`{forwarded: {header: FORWARDED, trustedHops: 4294967297}}`), []string{"spec.clientIp.forwarded.trustedHops wrong_type"}},
		{listenerOf(`{forwarded: {header: FORWARDED, trustedHops: "1"}}`), []string{"spec.clientIp.forwarded.trustedHops wrong_type"}},
		{listenerOf(`{proxyProtocol: {required: true}}`), []string{"spec.clientIp.proxyProtocol.trustedCidrs invalid_value"}},
		{listenerOf(`{proxyProtocol: {trustedCidrs: [10.0.0.1, 10.1.0.0/8, 010.0.0.0/8, 10/8, 0.0.0.0/0, "::/0", "::ffff:10.0.0.0/104", "fe80::%eth0/64"]}}`), []string{
			"spec.clientIp.proxyProtocol.trustedCidrs[0] invalid_value", "spec.clientIp.proxyProtocol.trustedCidrs[1] invalid_value",
			"spec.clientIp.proxyProtocol.trustedCidrs[2] invalid_value", "spec.clientIp.proxyProtocol.trustedCidrs[3] invalid_value",
			"spec.clientIp.proxyProtocol.trustedCidrs[4] invalid_value", "spec.clientIp.proxyProtocol.trustedCidrs[5] invalid_value",
			"spec.clientIp.proxyProtocol.trustedCidrs[6] invalid_value", "spec.clientIp.proxyProtocol.trustedCidrs[7] invalid_value",
		}},

		{of("Route", `{hosts: [a], upstream: u, authentication: {identityProviders: [p], requireIntrospection: true, jwtSvids: {audiences: [a]}}}`), []string{"spec.authentication.jwtSvids invalid_value"}},
		{of("Route", `{hosts: [a], upstream: u, authentication: {jwtSvids: {audiences: ["a\nb"]}}}`), []string{"spec.authentication.jwtSvids.audiences[0] invalid_value"}},
		{of("Route", `{hosts: [a], upstream: u, authentication: {jwtSvids: {}}}`), []string{"spec.authentication.jwtSvids.audiences invalid_value"}},
		{of("IdentityProvider", `{issuer: a, jwksUrl: "https://a"}`), []string{"spec.audiences invalid_value"}},
		{of("IdentityProvider", `{issuer: a, jwksUrl: "https://a", audiences: [b], x509: {caFile: /a, subject: SAN_DNS}}`), []string{"spec.x509 invalid_value"}},
		{of("IdentityProvider", `{issuer: a, x509: {names: ["a\nb"]}}`), []string{"spec.x509 required"}},
		{of("IdentityProvider", `{issuer: a, x509: {caFile: ca.pem, ca: b, subject: SAN_DNS}}`), []string{"spec.x509.caFile conflicting_fields", "spec.x509.ca invalid_value"}},
		{of("IdentityProvider", `{issuer: a, x509: {ca: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", crlFile: x, subject: SAN_DNS, names: [a.example, "*.a.example", "*", "a.*.example", "*a.example", A.example]}}`), []string{
			"spec.x509.ca invalid_value", "spec.x509.crlFile invalid_value", "spec.x509.names[2] invalid_value", "spec.x509.names[3] invalid_value",
			"spec.x509.names[4] invalid_value", "spec.x509.names[5] invalid_value",
		}},
		{of("IdentityProvider", `{issuer: a, x509: {caFile: /a, subject: SAN_EMAIL, names: ["a@a.example", "*@a.example", "@a.example", "a*@a.example", "*b@a.example", "a@A.example", "a@b@c"]}}`), []string{
			"spec.x509.names[2] invalid_value", "spec.x509.names[3] invalid_value", "spec.x509.names[4] invalid_value", "spec.x509.names[5] invalid_value", "spec.x509.names[6] invalid_value",
		}},
		{of("IdentityProvider", `{issuer: a, x509: {caFile: /a, subject: SAN_URI, names: ["https://a/b", "https://a/*", "SPIFFE://a/b"]}}`), []string{
			"spec.x509.names[1] invalid_value", "spec.x509.names[2] invalid_value",
		}},
		{of("IdentityProvider", `{issuer: "https://a\u0001", jwksUrl: "http://keys.example/", audiences: [""], leeway: 121s}`),
			[]string{"spec.audiences[0] invalid_value", "spec.leeway invalid_value", "spec.issuer invalid_value", "spec.jwksUrl invalid_value"}},
		{of("Enrollment", `{spiffeId: "https://a/b", environment: "*", labels: {a: [b]}}`),
			[]string{`spec.labels["a"] wrong_type`, "spec.spiffeId invalid_value", "spec.environment invalid_value"}},
		{of("Environment", `{configurationAge: {limit: 29s}}`), []string{"spec.configurationAge.limit invalid_value", "spec.configurationAge.action invalid_value"}},
		{of("Revocation", `{token: {issuer: "https://login.example", id: a1}, expiresAt: "2026-11-26T09:30:00.5+01:00", reason: laptop stolen}`), nil},
		{of("Revocation", `{subject: {issuer: "https://login.example", id: ann}, issuedBefore: "2026-11-26T08:30:00Z"}`), nil},
		{of("Revocation", `{spiffeId: "spiffe://prod.example/ns/shop/web"}`), nil},
		{of("Revocation", `{everyone: true, issuedBefore: "2026-11-26T08:30:00Z"}`), nil},
		{of("Revocation", `{}`), []string{"spec required"}},
		{of("Revocation", `{reason: nothing in particular, phone: mine}`), []string{"spec.phone unknown_field"}},
		{of("Revocation", `{device: laptop}`), nil},
		{of("Revocation", `{device: Lap top}`), []string{"spec.device invalid_value"}},

		{of("Device", `{match: {spiffeId: "spiffe://prod.example/laptop/7"}, expiresAt: "2026-11-27T08:30:00Z"}`), nil},
		{of("Device", `{match: {certificates: [`+strings.Repeat("0a", 32)+`], keys: [`+strings.Repeat("A", 43)+`], certified: {issuer: i, id: d}},
			os: macos, compliant: false, expiresAt: "2026-11-27T08:30:00Z"}`), nil},
		{of("Device", `{}`), []string{"spec.match required", "spec.expiresAt required"}},
		{of("Device", `{match: {}, expiresAt: "2026-11-27T08:30:00Z"}`), []string{"spec.match invalid_value"}},
		{of("Device", `{match: {spiffeId: "spiffe://prod.example/laptop/*"}, expiresAt: "2026-11-27T08:30:00Z"}`), []string{"spec.match.spiffeId invalid_value"}},
		{of("Device", `{match: {certified: {issuer: i}}, compliant: "yes", expiresAt: "2026-11-27T08:30:00Z"}`),
			[]string{"spec.compliant wrong_type", "spec.match.certified.id required"}},
		{of("Device", `{match: {certificates: [`+strings.Repeat("0A", 32)+`], keys: [`+strings.Repeat("A", 42)+`B]}, os: "a\u0001", expiresAt: "2026-11-27T08:30:00Z"}`),
			[]string{"spec.match.certificates[0] invalid_value", "spec.match.keys[0] invalid_value", "spec.os invalid_value"}},
		{of("Device", `{match: {keys: [`+strings.Repeat("A", 43)+`, `+strings.Repeat("A", 43)+`]}, expiresAt: "2026-11-27T08:30:00Z"}`),
			[]string{"spec.match.keys invalid_value"}},
		{"{apiVersion: sallyport/v1, kind: Device, metadata: {namespace: shop, name: x}, spec: {match: {spiffeId: \"spiffe://a/b\"}, expiresAt: \"2026-11-27T08:30:00Z\"}}", []string{"metadata.namespace invalid_value"}},
		{of("Revocation", `{key: k, issuer: i}`), []string{"spec.key conflicting_fields"}},
		{of("Revocation", `{token: {id: a1, jti: a1}}`), []string{"spec.token.jti unknown_field", "spec.token.issuer required"}},
		{of("Revocation", `{session: {issuer: "a\u0001", id: ""}}`), []string{"spec.session.id required", "spec.session.issuer invalid_value"}},
		{of("Revocation", `{everyone: false, issuedBefore: now}`), []string{"spec.issuedBefore invalid_value", "spec.everyone invalid_value"}},
		{of("Revocation", `{everyone: true}`), []string{"spec invalid_value"}},
		{of("Revocation", `{issuer: "https://login.example"}`), []string{"spec invalid_value"}},
		{of("Revocation", `{spiffeId: "spiffe://prod.example/ns/*/web", expiresAt: 1795681800}`),
			[]string{"spec.expiresAt wrong_type", "spec.spiffeId invalid_value"}},
		{of("Revocation", `{spiffeId: prod.example/web, expiresAt: "2026-11-26"}`), []string{"spec.expiresAt invalid_value", "spec.spiffeId invalid_value"}},
		{of("Revocation", `{key: k, expiresAt: "2026-11-26T24:30:00Z", issuedBefore: {seconds: 1}}`),
			[]string{"spec.expiresAt invalid_value", "spec.issuedBefore wrong_type"}},
		{"{apiVersion: sallyport/v1, kind: Revocation, metadata: {namespace: shop, name: x}, spec: {key: k}}", []string{"metadata.namespace invalid_value"}},
		// What travels in the security lane goes by a name that no environment has.
		{`{apiVersion: sallyport/v1, kind: Environment, metadata: {name: "@security"}}`, []string{"metadata.name invalid_value"}},
		{of("Enrollment", `{spiffeId: "spiffe://a/b", environment: "@security"}`), []string{"spec.environment invalid_value"}},
		{of("Upstream", `{environments: ["@security"], endpoints: ["a:1"], tls: {}}`), []string{"spec.environments[0] invalid_value"}},
		{of("Environment", `{configurationAge: []}`), []string{"spec.configurationAge wrong_type"}},
		{of("Environment", `{"a b": 1, "`+strings.Repeat("x", 300)+`": 2}`),
			[]string{`spec["a b"] unknown_field`, `spec["` + strings.Repeat("x", 64) + `..."] unknown_field`}},
	} {
		_, problems := resource.Decode(parse(t, c.text)[0].Resource)
		var got []string
		for _, p := range problems.Kept {
			got = append(got, p.Field+" "+p.Reason)
			if p.Message == "" || len(p.Message) > 400 || strings.ContainsAny(p.Message, "\n\x01") {
				t.Errorf("%s\nmessage of %s: %q", c.text, p.Field, p.Message)
			}
		}
		if !slices.Equal(got, c.want) || problems.Total != len(c.want) {
			t.Errorf("%s\ngot  %s\nwant %s", c.text, strings.Join(got, "\n     "), strings.Join(c.want, "\n     "))
		}
	}
}

func TestDecodeKeepsItsAnswerSmall(t *testing.T) {
	fields := map[string]*structpb.Value{}
	for i := range 10_000 {
		fields[fmt.Sprintf("field%d%s", i, strings.Repeat("x", 1000))] = structpb.NewNullValue()
	}
	r := parse(t, of("Route", goodRoute))[0].Resource
	r.Spec = &structpb.Struct{Fields: fields}
	_, problems := resource.Decode(r)
	if problems.Total < 10_000 || len(problems.Kept) != resource.MaxProblems {
		t.Errorf("kept %d of %d", len(problems.Kept), problems.Total)
	}
	size := 0
	for _, p := range problems.Kept {
		size += len(p.String())
	}
	if size > 100_000 {
		t.Errorf("they take %d bytes", size)
	}
}

func TestDecodeRefusesWhatNoProxyTakes(t *testing.T) {
	r := parse(t, of("Policy", `{routes: {all: true}, effect: DENY}`))[0].Resource
	var matchers []any
	for range 256 {
		matchers = append(matchers, map[string]any{"spiffe": "spiffe://a/" + strings.Repeat("b", 1500)})
	}
	list, err := structpb.NewList(matchers)
	if err != nil {
		t.Fatal(err)
	}
	r.Spec.Fields["principals"] = structpb.NewListValue(list)
	_, problems := resource.Decode(r)
	if problems.Total != 1 || problems.Kept[0].Reason != resource.ReasonTooLarge {
		t.Errorf("got %v", problems.Kept)
	}
}

func TestDecodeRefusesUnknownFieldsOfTheMessages(t *testing.T) {
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1)
	for field, spoil := range map[string]func(*adminv1.Resource){
		"":         func(r *adminv1.Resource) { r.ProtoReflect().SetUnknown(unknown) },
		"metadata": func(r *adminv1.Resource) { r.GetMetadata().ProtoReflect().SetUnknown(unknown) },
	} {
		r := parse(t, of("Route", goodRoute))[0].Resource
		spoil(r)
		_, problems := resource.Decode(r)
		if problems.Total != 1 || problems.Kept[0].Reason != resource.ReasonUnknownField || problems.Kept[0].Field != field {
			t.Errorf("%q: got %v", field, problems.Kept)
		}
	}
}

func TestDecodeNothing(t *testing.T) {
	if _, problems := resource.Decode(nil); problems.Total != 2 {
		t.Errorf("got %v", problems.Kept)
	}
}

func TestProblemsAreCounted(t *testing.T) {
	var all resource.Problems
	for i := range 300 {
		var of resource.Problems
		of.Add(resource.Problem{Field: "a"})
		of.Add(resource.Problem{Field: "b"})
		all.Join(i, of)
	}
	if all.Total != 600 || len(all.Kept) != resource.MaxProblems || all.Kept[99].Index != 49 {
		t.Errorf("kept %d of %d, the last of resource %d", len(all.Kept), all.Total, all.Kept[99].Index)
	}
}
