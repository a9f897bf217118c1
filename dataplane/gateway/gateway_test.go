package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/identity"
)

func TestDecisions(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.usual(plaintext(up.address())))
	for _, c := range []struct {
		name   string
		method string
		path   string
		bearer string
		as     identity.ID
		status int
		reason string
	}{
		{"alice may", "GET", "/v1/orders/7", w.tokens.sign(nil), "", 200, "allowed_by_policy"},
		{"a workload may", "GET", "/v1/orders/7", "", "spiffe://prod.example/ns/shop/web", 200, "allowed_by_policy"},
		{"another workload may not", "GET", "/v1/orders/7", "", "spiffe://prod.example/ns/bank/web", 403, "no_matching_policy"},
		{"bob may not", "GET", "/v1/orders/7", w.tokens.sign(jwt.MapClaims{"groups": []string{"bank"}}), "", 403, "no_matching_policy"},
		{"not this method", "DELETE", "/v1/orders/7", w.tokens.sign(nil), "", 403, "no_matching_policy"},
		{"nobody", "GET", "/v1/orders/7", "", "", 401, "credentials_missing"},
		{"for somebody else", "GET", "/v1/orders/7", w.tokens.sign(jwt.MapClaims{"aud": "bank"}), "", 401, "token_wrong_audience"},
		{"expired", "GET", "/v1/orders/7", w.tokens.sign(jwt.MapClaims{"exp": 1_000_000_000}), "", 401, "token_expired"},
		{"rubbish", "GET", "/v1/orders/7", "rubbish", "", 401, "token_malformed"},
		{"a bad token and a good certificate", "GET", "/v1/orders/7", "rubbish", "spiffe://prod.example/ns/shop/web", 401, "token_malformed"},
		{"no route", "GET", "/v2/orders/7", w.tokens.sign(nil), "", 404, "no_route"},
		{"path trick", "GET", "/v1/orders/..%2fadmin", w.tokens.sign(nil), "", 400, "path_ambiguous_escape"},
	} {
		for _, http2 := range []bool{false, true} {
			cfg := w.tls(host)
			if c.as != "" {
				w.as(cfg, c.as)
			}
			r, err := http.NewRequestWithContext(t.Context(), c.method, "https://"+host+c.path, nil)
			w.must(err)
			if c.bearer != "" {
				r.Header.Set("Authorization", "Bearer "+c.bearer)
			}
			before := up.requests.Load()
			res, err := w.client(http2, cfg).Do(r)
			w.must(err)
			body := w.read(res)
			d := w.records.of(t, "decision", res.Header.Get("Sallyport-Decision-Id"))
			if res.StatusCode != c.status || d.Reason != c.reason || d.Allow != (c.status == 200) {
				t.Errorf("%s, HTTP/2 %t: %d %s, recorded %+v", c.name, http2, res.StatusCode, body, d)
			}
			if got := up.requests.Load() - before; got != 0 != d.Allow {
				t.Errorf("%s, HTTP/2 %t: the upstream saw %d requests", c.name, http2, got)
			}
			if res.Header.Get("Sallyport-Revision") != "1" || d.Revision != 1 || d.Environment != "aws" || d.Epoch != 1 {
				t.Errorf("%s: revision %q, recorded %+v", c.name, res.Header.Get("Sallyport-Revision"), d)
			}
			if c.status == 200 {
				continue
			}
			p := w.problem(body)
			if p.Reason != c.reason || p.Status != c.status || p.Revision != 1 || p.DecisionID != d.DecisionID || d.Status != c.status ||
				p.Type != "urn:sallyport:problem:"+c.reason || p.Title != http.StatusText(c.status) || p.Detail == "" ||
				res.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s: %s %v", c.name, body, res.Header)
			}
			if (res.Header.Get("Www-Authenticate") != "") != (c.status == 401) {
				t.Errorf("%s: challenged with %q", c.name, res.Header.Get("Www-Authenticate"))
			}
			if strings.Contains(body, "orders-allow") {
				t.Errorf("%s: the answer names a policy: %s", c.name, body)
			}
		}
	}
}
