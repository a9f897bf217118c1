package demo

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// firstResources is what the demo begins with.
func (w *world) firstResources() string {
	var docs []string
	for _, p := range w.proxies {
		cloud := strings.TrimSuffix(p.Environment, "-demo")
		docs = append(docs, fmt.Sprintf(environmentText, p.Environment, trustDomain, cloud,
			strings.TrimPrefix(p.URL, "https://"), w.path("proxy-tls.pem"), w.path("proxy-tls-key.pem")))
	}
	docs = append(docs, fmt.Sprintf(apisText, w.described.TokenIssuer, w.samples[0].address, ordersID, w.samples[1].address))
	docs = append(docs, readPolicies)
	return strings.Join(docs, "---\n")
}

const environmentText = `apiVersion: sallyport/v1
kind: Environment
metadata: {name: %[1]s}
spec:
  configurationAge: {limit: 24h, action: SERVE}
---
apiVersion: sallyport/v1
kind: Enrollment
metadata: {name: %[1]s}
spec:
  spiffeId: spiffe://%[2]s/proxy/%[3]s/*
  environment: %[1]s
---
apiVersion: sallyport/v1
kind: Listener
metadata: {namespace: platform, name: %[1]s}
spec:
  environments: [%[1]s]
  address: %[4]q
  tls:
    certificates: [{certificateFile: %[5]q, privateKeyFile: %[6]q}]
    clientCertificates: OPTIONAL
`

const apisText = `apiVersion: sallyport/v1
kind: IdentityProvider
metadata: {namespace: shop, name: demo-tokens}
spec:
  issuer: %[1]s
  jwksUrl: %[1]s/jwks.json
  audiences: [orders]
---
apiVersion: sallyport/v1
kind: Upstream
metadata: {namespace: shop, name: orders}
spec:
  endpoints: [%[2]q]
  spiffe: {peerIds: [%[3]q]}
---
apiVersion: sallyport/v1
kind: Upstream
metadata: {namespace: shop, name: inventory}
spec:
  endpoints: [%[4]q]
  plaintext: {}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: orders, labels: {app: orders}}
spec:
  hosts: [localhost, 127.0.0.1]
  paths: [/v1/orders/**]
  upstream: orders
  authentication: {identityProviders: [demo-tokens], clientCertificates: true}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: inventory, labels: {app: inventory}}
spec:
  hosts: [localhost, 127.0.0.1]
  paths: [/v1/inventory/**]
  upstream: inventory
  authentication: {identityProviders: [demo-tokens]}
`

const readPolicies = `apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: shop-reads}
spec:
  routes: {all: true}
  effect: ALLOW
  principals: [{group: shop}]
  methods: [GET]
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: billing-reads-orders}
spec:
  routes: {labels: {app: orders}}
  effect: ALLOW
  principals: [{spiffe: "spiffe://demo.example/ns/shop/*"}]
  methods: [GET]
`

// writePolicy is the change that the story tells.
const writePolicy = `apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: shop-writes-orders}
spec:
  routes: {names: [orders]}
  effect: ALLOW
  principals: [{group: shop}]
  methods: [POST]
  paths: ["/v1/orders/{id}"]
  when: signals.tls.version == "1.3"
`

// lateDenial is applied while a proxy is catching up.
const lateDenial = `apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: order-13-is-closed}
spec:
  routes: {names: [orders]}
  effect: DENY
  paths: [/v1/orders/13]
`

// saveResources leaves what is applied where people can read it.
func (w *world) saveResources() error {
	return errors.Join(
		os.MkdirAll(w.path("resources"), 0o700),
		os.WriteFile(w.path("resources/1-begin.yaml"), []byte(w.firstResources()), 0o600),
		os.WriteFile(w.path("resources/2-shop-writes-orders.yaml"), []byte(writePolicy), 0o600),
		os.WriteFile(w.path("resources/3-order-13-is-closed.yaml"), []byte(lateDenial), 0o600),
	)
}
