package policy_test

import (
	"testing"

	"github.com/sallyport/sallyport/internal/policy"
)

func TestLooksAtAddress(t *testing.T) {
	for when, want := range map[string]bool{
		``: false,
		`cidr("10.0.0.0/8").containsIP(signals.ip)`:                   true,
		`signals.ip == ip("10.0.0.1")`:                                true,
		`has(signals.ip)`:                                             true,
		"signals\n  . // the client's\n  ip == ip('10.0.0.1')":        true,
		`signals.geo.country in ["DE", "FR"]`:                         true,
		`has(signals.geo.asn)`:                                        true,
		`signals /* */ .geo == signals.geo`:                           false, // it does not parse
		`signals.tls.geo == "signals.geo"`:                            false,
		`request.method == "GET" || !(string(signals.ip) == "::1")`:   true,
		`principal.groups.exists(g, string(signals.ip) == g)`:         true,
		`signals.tls.version == "1.3" && "vpn" in principal.groups`:   false,
		`signals.tls.sni == "signals.ip"`:                             false,
		`ip(request.headers["x-a"]) == ip("10.0.0.1")`:                false,
		`principal.claims.signals.ip == "10.0.0.1" && signals.tls.ip`: false,
		`signals.ip ==`:                                                    false,
		`signals.denials.address > 10`:                                     true,
		`has(signals.denials.address)`:                                     true,
		`signals.denials == signals.denials`:                               true,
		`signals.denials.principal > 10 || has(signals.denials.principal)`: false,
		`signals.time.getHours() < 6 && ip("10.0.0.1").family() == 4 `:     false,
	} {
		if got := policy.LooksAtAddress(when); got != want {
			t.Errorf("%s: got %t", when, got)
		}
	}
}
