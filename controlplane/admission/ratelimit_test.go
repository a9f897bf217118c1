package admission_test

import (
	"strings"
	"testing"
)

func TestRateLimitsThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ apply, want string }{
		"as it should be": {
			`RateLimit shop/a {routes: {all: true}, key: [{clientAddress: {}}, {expression: "request.method"}], requests: 10, period: 1s, when: 'request.method != "GET"', cost: "2"}`, ``,
		},
		"without anything": {`RateLimit shop/a {}`, `
			0 RateLimit/shop/a spec.routes: required: value is required
			0 RateLimit/shop/a spec.requests: invalid_value: must be greater than or equal to 1 and less than or equal to 1000000000
			0 RateLimit/shop/a spec.period: required: value is required`},
		"selects nothing": {
			`RateLimit shop/a {routes: {labels: {app: none}}, requests: 1, period: 1s}`,
			`0 RateLimit/shop/a spec.routes: never_fires: selects no route`,
		},
		"a route that is not there": {
			`RateLimit shop/a {routes: {names: [gone]}, requests: 1, period: 1s}`,
			`0 RateLimit/shop/a spec.routes.names[0]: dangling_reference: there is no Route/shop/gone`,
		},
		"too fast": {
			`RateLimit shop/a {routes: {all: true}, requests: 1000000000, period: 1s}`,
			`0 RateLimit/shop/a spec.requests: invalid_value: is more than 1,000,000 in a second`,
		},
		"a burst without end": {
			`RateLimit shop/a {routes: {all: true}, requests: 1, period: 24h, burst: 31}`,
			`0 RateLimit/shop/a spec.burst: invalid_value: takes more than 30 days to come back`,
		},
		"part of a key that says nothing": {
			`RateLimit shop/a {routes: {all: true}, key: [{}], requests: 1, period: 1s}`,
			`0 RateLimit/shop/a spec.key[0]: required: give one of clientAddress, principal, issuer, header, route, serverName, expression`,
		},
		"header that is none": {
			`RateLimit shop/a {routes: {all: true}, key: [{header: "X Tenant"}], requests: 1, period: 1s}`,
			`0 RateLimit/shop/a spec.key[0].header: invalid_value: is no name of a header field`,
		},
		"key that is no text": {
			`RateLimit shop/a {routes: {all: true}, key: [{route: true}, {expression: "principal.claims.tenant"}], requests: 1, period: 1s}`,
			`0 RateLimit/shop/a spec.key[1].expression 1:1: invalid_cel: may be of any type; say which, as in string(principal.claims.tenant)`,
		},
		"cost that is no number": {
			`RateLimit shop/a {routes: {all: true}, requests: 1, period: 1s, cost: "1.5"}`,
			`0 RateLimit/shop/a spec.cost 1:1: invalid_cel: is of type double, not int`,
		},
		"condition that is none": {
			`RateLimit shop/a {routes: {all: true}, requests: 1, period: 1s, when: "request.size > 3"}`,
			`0 RateLimit/shop/a spec.when 1:8: invalid_cel: undefined field 'size'`,
		},
		"key that refers to a set": {
			`RateLimit shop/a {routes: {all: true}, key: [{expression: 'signals.ip.inSet("office") ? "in" : "out"'}], requests: 1, period: 1s}`,
			`0 RateLimit/shop/a spec.key[0].expression 1:1: invalid_cel: refers to a Condition or a Set by name, which only conditions can`,
		},
		"condition that refers to nothing": {
			`RateLimit shop/a {routes: {all: true}, requests: 1, period: 1s, when: 'signals.ip.inSet("office")'}`,
			`0 RateLimit/shop/a spec.when 1:18: dangling_reference: there is no Set/shop/office`,
		},
		"address at a listener that does not know it": {
			`Listener edge/https {address: ":443", tls: {workloadIdentity: true, clientCertificates: OPTIONAL}}
			 RateLimit shop/a {routes: {all: true}, key: [{clientAddress: {}}], requests: 1, period: 1s}`,
			`1 RateLimit/shop/a spec.key: ambiguous_listener: looks at the client's address, and Listener/edge/https does not say in clientIp how that is known`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, problems := newFleet(t, shop).apply(t, c.apply)
			same(t, texts(problems), c.want)
		})
	}
}

// What a RateLimit needs does not go away under it.
func TestWhatRateLimitsNeedStays(t *testing.T) {
	f := newFleet(t, shop+`
		Set shop/office {cidrs: [10.0.0.0/8]}
		RateLimit shop/a {routes: {names: [orders]}, requests: 1, period: 1s, when: '!signals.ip.inSet("office")'}`)
	for what, want := range map[string]string{
		"Set shop/office":   `0 Set/shop/office : still_referenced: RateLimit/shop/a refers to it (spec.when)`,
		"Route shop/orders": `0 Route/shop/orders : still_referenced: RateLimit/shop/a refers to it (spec.routes.names[0])`,
	} {
		_, problems := f.delete(t, what)
		if !strings.Contains(texts(problems), want) {
			t.Errorf("%s: %s", what, texts(problems))
		}
	}
}
