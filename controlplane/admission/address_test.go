package admission_test

import (
	"strings"
	"testing"
)

// byAddress is a Policy that looks at where requests come from.
const byAddress = `Policy shop/near {routes: {names: [orders]}, effect: DENY, when: '!cidr("10.0.0.0/8").containsIP(signals.ip)'}`

// undeclared is shop with a listener that does not say whose its clients'
// addresses are.
var undeclared = strings.Replace(shop, ", clientIp: {direct: {}}", "", 1)

// undeclaredListener is edge/https as it is in undeclared, changed.
const undeclaredListener = `Listener edge/https {address: ":444", tls: {workloadIdentity: true}}`

// A policy that looks at addresses, and a listener that does not say whose they
// are, do not come together, whichever is first.
func TestAmbiguousListeners(t *testing.T) {
	const direct = `Listener edge/https {address: ":443", tls: {workloadIdentity: true}, clientIp: {direct: {}}}`
	for name, c := range map[string]struct{ fleet, apply, want string }{
		"policy": {``, byAddress,
			`0 Policy/shop/near spec.when: ambiguous_listener: looks at the client's address, and Listener/edge/https does not say in clientIp how that is known`},
		"policy and listener": {``, undeclaredListener + "\n" + byAddress,
			`1 Policy/shop/near spec.when: ambiguous_listener: looks at the client's address, and Listener/edge/https does not say in clientIp how that is known`},
		"policy that did not before": {`Policy shop/near {routes: {names: [orders]}, effect: DENY, methods: [POST]}`, byAddress,
			`0 Policy/shop/near spec.when: ambiguous_listener: looks at the client's address, and Listener/edge/https does not say in clientIp how that is known`},
		"policy that asks whether there is one": {``, `Policy shop/near {routes: {names: [orders]}, effect: DENY, when: "!has(signals.ip)"}`,
			`0 Policy/shop/near spec.when: ambiguous_listener: looks at the client's address, and Listener/edge/https does not say in clientIp how that is known`},
		"policy that asks where it is": {``, `Policy shop/near {routes: {names: [orders]}, effect: DENY, when: "signals.geo.country == 'DE'"}`,
			`0 Policy/shop/near spec.when: ambiguous_listener: looks at the client's address, and Listener/edge/https does not say in clientIp how that is known`},
		"condition by name": {``, `Condition shop/near {when: "signals.ip.isLoopback()"}`,
			`0 Condition/shop/near spec.when: ambiguous_listener: looks at the client's address, and Listener/edge/https does not say in clientIp how that is known`},
		"policy that looks at other signals": {``, `Policy shop/near {routes: {names: [orders]}, effect: DENY, when: "signals.tls.version == '1.2'"}`, ``},

		"declared together": {``, direct + "\n" + byAddress, ``},
		"declared before":   {direct, byAddress, ``},
		"declaration is taken back": {direct + "\n" + byAddress, undeclaredListener,
			`0 Listener/edge/https spec.clientIp: ambiguous_listener: Policy/shop/near looks at the client's address: say how that is known, as in direct: {}`},
		"declaration that a condition needs is taken back": {direct + "\nCondition shop/near {when: 'signals.ip.isLoopback()'}", undeclaredListener,
			`0 Listener/edge/https spec.clientIp: ambiguous_listener: Condition/shop/near looks at the client's address: say how that is known, as in direct: {}`},
		"another listener": {direct + "\n" + byAddress, `Listener edge/more {address: ":8443", tls: {workloadIdentity: true}}`,
			`0 Listener/edge/more spec.clientIp: ambiguous_listener: Policy/shop/near looks at the client's address: say how that is known, as in direct: {}`},
		"another listener that declares it": {direct + "\n" + byAddress,
			`Listener edge/more {address: ":8443", tls: {workloadIdentity: true}, clientIp: {proxyProtocol: {trustedCidrs: [10.0.0.0/8]}}}`, ``},
		"both are given up": {direct + "\n" + byAddress,
			undeclaredListener + "\n" + `Policy shop/near {routes: {names: [orders]}, effect: DENY, methods: [POST]}`, ``},

		"listener of another environment": {
			`Listener edge/https {environments: [aws], address: ":443", tls: {workloadIdentity: true}}
			 Listener edge/gcp {environments: [gcp], address: ":443", tls: {workloadIdentity: true}, clientIp: {direct: {}}}`,
			`Policy shop/near {environments: [gcp], routes: {names: [orders]}, effect: DENY, when: "signals.ip.isLoopback()"}`, ``},
		"listener that comes into the environment": {
			`Listener edge/https {environments: [aws], address: ":443", tls: {workloadIdentity: true}}
			 Policy shop/near {environments: [gcp], routes: {names: [orders]}, effect: DENY, when: "signals.ip.isLoopback()"}`,
			`Listener edge/https {environments: [aws, gcp], address: ":443", tls: {workloadIdentity: true}}`,
			`0 Listener/edge/https spec.clientIp: ambiguous_listener: Policy/shop/near looks at the client's address: say how that is known, as in direct: {}`},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, undeclared)
			_, problems := f.apply(t, c.fleet)
			same(t, texts(problems), "")
			_, problems = f.apply(t, c.apply)
			same(t, texts(problems), c.want)
		})
	}
}

// What was admitted before listeners could say it is in nobody's way until it is
// changed.
func TestAmbiguityOfOldIsInNobodysWay(t *testing.T) {
	f := newFleet(t, undeclared)
	_, problems := f.apply(t, `Listener edge/https {address: ":443", tls: {workloadIdentity: true}, clientIp: {direct: {}}}`+"\n"+byAddress)
	same(t, texts(problems), "")
	old, problems := newFleet(t, undeclared).apply(t, undeclaredListener)
	same(t, texts(problems), "")
	f.advance(t, old)

	_, problems = f.apply(t, byAddress+"\n"+undeclaredListener+`
		Environment aws {configurationAge: {limit: 60s, action: DENY}}
		Policy shop/watch {routes: {names: [status]}, effect: ALLOW, principals: [{anonymous: true}], methods: [GET]}`)
	same(t, texts(problems), "")
	_, problems = f.apply(t, `Policy shop/near {routes: {names: [orders]}, effect: DENY, when: "signals.ip.isLoopback()"}`)
	same(t, texts(problems), `0 Policy/shop/near spec.when: ambiguous_listener: looks at the client's address, and Listener/edge/https does not say in clientIp how that is known`)
}
