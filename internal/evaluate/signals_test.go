package evaluate_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/evaluate"
	"github.com/sallyport/sallyport/internal/resource"
)

// bench has one policy that permits by a condition, and one that forbids by it.
const bench = `
{apiVersion: sallyport/v1, kind: Environment, metadata: {name: prod}}
---
{apiVersion: sallyport/v1, kind: IdentityProvider, metadata: {namespace: shop, name: login}, spec: {issuer: "https://login.example", discovery: true, audiences: [shop]}}
---
{apiVersion: sallyport/v1, kind: Upstream, metadata: {namespace: shop, name: all}, spec: {endpoints: ["127.0.0.1:9000"], plaintext: {}}}
---
{apiVersion: sallyport/v1, kind: Route, metadata: {namespace: shop, name: permitted}, spec: {hosts: [permitted.example], upstream: all, authentication: {identityProviders: [login], anonymous: true}}}
---
{apiVersion: sallyport/v1, kind: Route, metadata: {namespace: shop, name: forbidden}, spec: {hosts: [forbidden.example], upstream: all, authentication: {identityProviders: [login], anonymous: true}}}
---
{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: everybody}, spec: {routes: {names: [forbidden]}, effect: ALLOW, principals: [{authenticated: true}, {anonymous: true}]}}
---
{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: permits}, spec: {routes: {names: [permitted]}, effect: ALLOW, principals: [{authenticated: true}, {anonymous: true}], when: %[1]q}}
---
{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: forbids}, spec: {routes: {names: [forbidden]}, effect: DENY, when: %[1]q}}
`

// What a condition comes to, and what is expected then of a request that is permitted
// by it, and of one that is forbidden.
type outcome struct{ permitted, forbidden string }

var (
	holds = outcome{
		"{decision: allow, policy: shop/permits, reason: allowed_by_policy}", "{decision: deny, policy: shop/forbids, reason: denied_by_policy}",
	}
	fails = outcome{
		"{decision: deny, reason: no_matching_policy}", "{decision: allow, policy: shop/everybody, reason: allowed_by_policy}",
	}
	unknown = outcome{
		"{decision: deny, policy: shop/permits, reason: evaluation_error}", "{decision: deny, policy: shop/forbids, reason: evaluation_error}",
	}
)

// Each kind of signal, known, unknown and stale, decides as it is described: what is
// unknown is never allowed.
func TestSignals(t *testing.T) {
	for _, c := range []struct {
		when string
		is   map[string]outcome // by what is given, at 2026-11-26T09:00:00Z, a Thursday
	}{
		{`cidr("10.0.0.0/8").containsIP(signals.ip)`, map[string]outcome{
			"signals: {ip: 10.1.2.3}": holds, "signals: {ip: 192.0.2.1}": fails, "signals: {}": unknown,
			`signals: {ip: "::ffff:10.1.2.3"}`: holds, `signals: {ip: "::10.1.2.3"}`: fails,
		}},
		{`signals.geo.country in ["DE", "AT"] && signals.geo.continent == "EU"`, map[string]outcome{
			"signals: {geo: {country: DE, continent: EU}}": holds, "signals: {geo: {country: FR, continent: EU}}": fails,
			"signals: {geo: {city: Berlin}}": unknown, "signals: {ip: 192.0.2.1}": unknown,
		}},
		{`signals.geo.city == "Berlin" || signals.geo.asn == 64500 || signals.geo.as_organization == "Example"`, map[string]outcome{
			"signals: {geo: {asn: 64500}}": holds, "signals: {geo: {city: Paris, asn: 64501, asOrganization: Other}}": fails, "signals: {geo: {city: Paris}}": unknown,
		}},
		{`signals.geo.anonymous && !signals.geo.hosting && (signals.geo.tor || signals.geo.vpn || signals.geo.proxy)`, map[string]outcome{
			"signals: {geo: {tor: true}}": holds, "signals: {geo: {vpn: true, hosting: true}}": fails, "signals: {geo: {anonymous: false}}": fails,
			"signals: {geo: {country: DE}}": unknown, "signals: {}": unknown,
		}},
		{`signals.geo.age < duration("720h")`, map[string]outcome{
			`signals: {geo: {country: DE, built: 2026-11-20T00:00:00Z}}`: holds, `signals: {geo: {country: DE, built: 2026-09-20T00:00:00Z}}`: fails,
			`signals: {geo: {country: DE}}`: unknown, "signals: {}": unknown,
		}},
		{`signals.time.getHours("Europe/Berlin") >= 9 && signals.time.getHours("Europe/Berlin") < 17 && signals.time.getDayOfWeek("Europe/Berlin") in [1, 2, 3, 4, 5]`, map[string]outcome{
			"signals: {}": holds, "signals: {time: 2026-11-26T08:00:00Z}": holds, "signals: {time: 2026-11-26T07:59:59Z}": fails,
			"signals: {time: 2026-11-26T16:00:00Z}": fails, "signals: {time: 2026-11-28T09:00:00Z}": fails, "signals: {time: 2026-07-27T07:00:00Z}": holds,
		}},
		{`signals.tls.version == "1.3" && signals.tls.alpn == "h2" && signals.tls.sni.endsWith(".example")`, map[string]outcome{
			"signals: {tls: {version: '1.3', sni: HOST, alpn: h2}}": holds, "signals: {tls: {version: '1.2', sni: HOST, alpn: h2}}": fails,
			"signals: {tls: {version: '1.3', sni: HOST}}": fails, "signals: {}": fails,
		}},
		{`signals.device.compliant && signals.device.disk_encrypted && signals.device.screen_lock && signals.device.managed`, map[string]outcome{
			"signals: {device: {id: a, compliant: true, diskEncrypted: true, screenLock: true, managed: true}}":  holds,
			"signals: {device: {id: a, compliant: true, diskEncrypted: true, screenLock: false, managed: true}}": fails,
			"signals: {device: {id: a, compliant: true, diskEncrypted: true, managed: true}}":                    unknown, "signals: {}": unknown,
			"signals: {device: {id: a, compliant: true, diskEncrypted: true, screenLock: true, managed: true, expiresAt: 2026-11-26T09:00:00Z}}": unknown,
		}},
		{`signals.device.os == "macos" && signals.device.os_version.startsWith("26.") && signals.device.owner == principal.id`, map[string]outcome{
			"signals: {device: {id: a, os: macos, osVersion: '26.1', owner: ann}}": holds, "signals: {device: {id: a, os: macos, osVersion: '26.1', owner: bob}}": fails,
			"signals: {device: {id: a, os: macos, osVersion: '26.1'}}": unknown,
		}},
		{`signals.time - signals.device.last_seen < duration("24h")`, map[string]outcome{
			"signals: {device: {id: a, lastSeen: 2026-11-26T08:00:00Z}}": holds, "signals: {device: {id: a, lastSeen: 2026-11-25T09:00:00Z}}": fails,
			"signals: {device: {id: a}}": unknown, "signals: {}": unknown,
		}},
		{`has(signals.device) && signals.device.id == "a"`, map[string]outcome{
			"signals: {device: {id: a}}": holds, "signals: {device: {id: b}}": fails, "signals: {}": fails,
			"signals: {device: {id: a, expiresAt: 2026-11-26T08:00:00Z}}": fails,
		}},
		{`signals.denials.principal < 10 && signals.denials.address < 100`, map[string]outcome{
			"signals: {denials: {principal: 9, address: 99}}": holds, "signals: {denials: {principal: 10, address: 0}}": fails,
			"signals: {denials: {principal: 9}}": unknown, "signals: {}": unknown,
		}},
		{`signals.security_age < duration("1m") && signals.configuration_age < duration("1h")`, map[string]outcome{
			"signals: {configurationAge: 59m, securityAge: 59s}": holds, "signals: {configurationAge: 0s, securityAge: 1m}": fails,
			"signals: {configurationAge: 59m}": unknown, "signals: {}": unknown,
		}},
		{`principal.acr == "phrh" && "hwk" in principal.amr`, map[string]outcome{
			"principal: {kind: user, id: ann, acr: phrh, amr: [pin, hwk]}": holds, "principal: {kind: user, id: ann, acr: phrh, amr: [pwd]}": fails,
			"principal: {kind: user, id: ann}": fails, "principal: null": fails,
		}},
		{`signals.time - principal.authenticated_at < duration("15m")`, map[string]outcome{
			"principal: {kind: user, id: ann, authenticatedAt: 2026-11-26T08:50:00Z}": holds, "principal: {kind: user, id: ann, authenticatedAt: 2026-11-26T08:45:00Z}": fails,
			"principal: {kind: user, id: ann}": unknown, "principal: null": unknown,
		}},
	} {
		for given, want := range c.is {
			for host, expect := range map[string]string{"permitted.example": want.permitted, "forbidden.example": want.forbidden} {
				if res := tried(t, c.when, strings.ReplaceAll(given, "HOST", host), host, expect); res != "" {
					t.Errorf("%s\nof %s, at %s: %s", c.when, given, host, res)
				}
			}
		}
	}
}

// tried returns what is wrong with one test.
func tried(t *testing.T, when, given, host, expect string) string {
	t.Helper()
	if !strings.HasPrefix(given, "principal:") {
		given = "principal: {kind: user, id: ann}, " + given
	}
	tests, problems := evaluate.ParseTests("signals_test.yaml", fmt.Appendf(nil,
		"tests:\n  - name: one\n    given: {%s, request: {host: %s, path: /}}\n    expect: %s\n", given, host, expect))
	for _, p := range problems.Kept {
		t.Fatalf("%s: %s", given, p)
	}
	located, problems := resource.ParseYAML(fmt.Appendf(nil, bench, when))
	var parsed []resource.Parsed
	for _, l := range located {
		p, found := resource.Decode(l.Resource)
		problems.Merge(found)
		parsed = append(parsed, p)
	}
	for _, p := range problems.Kept {
		t.Fatalf("%s: %s", when, p)
	}
	table, err := evaluate.Offline("prod", parsed)
	if err != nil || len(table.Rejects()) > 0 {
		t.Fatal(err, table.Rejects())
	}
	return strings.Join(tests[0].Run(table, now).GetFailures(), "; ")
}
