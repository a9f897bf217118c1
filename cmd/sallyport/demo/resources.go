package demo

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

// revocation takes the issuer.
const revocation = `apiVersion: sallyport/v1
kind: Revocation
metadata: {name: carol-left}
spec:
  subject: {issuer: %q, id: carol}
  reason: has left the company
`
