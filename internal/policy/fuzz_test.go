package policy_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/policy"
)

// FuzzCondition compiles any text and, where that works, decides by it: no
// panic, an ALLOW allows only on a clean true, a DENY lets pass only on a clean
// false.
func FuzzCondition(f *testing.F) {
	for _, seed := range []string{
		`signals.tls.version == "1.3" && principal.groups.exists(g, g == "shop")`,
		`cidr("10.0.0.0/8").containsIP(signals.ip) || request.headers["x-a"].matches("^[a-z]+$")`,
		`principal.claims.a.b[0] in ["x"] ? has(route.labels.x) : signals.time.getHours() < 9`,
		`request.headers == {} || request.headers.all(k, size(k) > 0) && !(principal.id in principal.groups)`,
		`type(dyn(principal.claims)) == map && string(signals.ip) != "" && signals.tls == signals.tls`,
		`principal.groups.map(g, g + g).filter(g, g != "").exists_one(g, g == "shopshop")`,
	} {
		f.Add(seed, "GET", "/v1/orders/7", "x-a", "b")
	}
	f.Fuzz(func(t *testing.T, when, method, path, name, value string) {
		permits, err := policy.Compile(spec(policy.Allow, "p", authenticated(), anonymous(), func(s *policy.Spec) { s.When = when }))
		if err != nil {
			if permits != nil || len(policy.Problems(err)) == 0 {
				t.Fatalf("policy %v beside error %v", permits, err)
			}
			return
		}
		forbids := deny(t, "q", func(s *policy.Spec) { s.When = when })
		all := allow(t, "r", authenticated(), anonymous())
		opposite := map[policy.Reason]policy.Reason{
			policy.ReasonAllowed:         policy.ReasonDenied,
			policy.ReasonNoMatch:         policy.ReasonAllowed,
			policy.ReasonEvaluationError: policy.ReasonEvaluationError,
		}
		for _, in := range []*policy.Input{
			{Route: orders},
			{
				Route: orders, Method: method, Path: path, Header: map[string][]string{name: {value}}, RouteLabels: map[string]string{name: value},
				Principal: &policy.Principal{Kind: policy.User, ID: value, Groups: []string{name, value}, Claims: map[string]any{name: []any{value, 1.5, nil}}},
				ClientIP:  netip.AddrFrom4([4]byte{10, 0, 0, 1}), Now: time.Unix(1, 0), TLSVersion: "1.3",
			},
		} {
			permitted, forbidden := onOrders(permits).Decide(in), onOrders(all, forbids).Decide(in)
			if want, ok := opposite[permitted.Reason]; !ok || forbidden.Reason != want {
				t.Fatalf("as ALLOW %+v, as DENY %+v", permitted, forbidden)
			}
		}
	})
}
