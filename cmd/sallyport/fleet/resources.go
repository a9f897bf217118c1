package fleet

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// firstResources is what a fleet begins with.
func (f *Fleet) firstResources() string {
	var docs []string
	for _, p := range f.Members {
		cloud := strings.TrimSuffix(p.Environment, "-demo")
		docs = append(docs, f.environment(p, cloud, TrustDomain))
	}
	docs = append(docs, fmt.Sprintf(apisText, f.Described.TokenIssuer, f.samples[0].address, OrdersID, f.samples[1].address))
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
  clientIp: {direct: {}}
`

const apisText = `apiVersion: sallyport/v1
kind: IdentityProvider
metadata: {namespace: shop, name: demo-tokens}
spec:
  issuer: %[1]s
  jwksUrl: %[1]s/jwks.json
  allowPrivateAddresses: true # it is on this machine
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

// saveResources leaves what is applied where people can read it.
func (f *Fleet) saveResources() error {
	return errors.Join(
		os.MkdirAll(f.Path("resources"), 0o700),
		os.WriteFile(f.Path("resources/1-begin.yaml"), []byte(f.firstResources()), 0o600),
	)
}
