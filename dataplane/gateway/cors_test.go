package gateway_test

import (
	"net/http"
	"strings"
	"testing"
)

// A preflight is answered without credentials, for the origins that are named, and
// never reaches the upstream; answers and refusals tell the page's browser, and the
// upstream does not.
func TestCORS(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	up.answerWith(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Access-Control-Allow-Origin", "*")
		rw.Header().Set("Access-Control-Allow-Credentials", "true")
	})
	const page, other = "https://app.example", "https://evil.example"
	w.apply(w.with(plaintext(up.address()), `paths: ["/v1/**"], cors: {origins: ["`+page+`"], requestHeaders: [authorization], responseHeaders: [Sallyport-Decision-Id]}`))
	for _, http2 := range []bool{false, true} {
		c := w.client(http2, w.tls(host))
		ask := func(method, origin, token string, fields ...string) *http.Response {
			t.Helper()
			r, err := http.NewRequestWithContext(t.Context(), method, "https://"+host+"/v1/orders", nil)
			w.must(err)
			r.Header.Set("Origin", origin)
			if token != "" {
				r.Header.Set("Authorization", "Bearer "+token)
			}
			for _, field := range fields {
				name, value, _ := strings.Cut(field, ": ")
				r.Header.Set(name, value)
			}
			res, err := c.Do(r)
			w.must(err)
			w.read(res)
			return res
		}
		for _, q := range []struct {
			name    string
			res     *http.Response
			status  int
			reason  string
			allowed string
		}{
			{"preflight", ask("OPTIONS", page, "", "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization"), 200, "preflight", page},
			{"of another page", ask("OPTIONS", other, "", "Access-Control-Request-Method: POST"), 403, "preflight_refused", ""},
			{"with another header", ask("OPTIONS", page, "", "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: x-other"), 403, "preflight_refused", page},
			{"for no method", ask("OPTIONS", page, "", "Access-Control-Request-Method: BREW"), 401, "credentials_missing", page},
			{"no preflight", ask("OPTIONS", page, w.tokens.sign(nil)), 403, "no_matching_policy", page},
			{"request", ask("GET", page, w.tokens.sign(nil)), 200, "allowed_by_policy", page},
			{"of another page", ask("GET", other, w.tokens.sign(nil)), 200, "allowed_by_policy", ""},
			{"without credentials", ask("GET", page, ""), 401, "credentials_missing", page},
		} {
			h := q.res.Header
			got := w.records.of(t, "decision", h.Get("Sallyport-Decision-Id"))
			if q.res.StatusCode != q.status || got.Reason != q.reason || got.Route != "shop/orders" {
				t.Errorf("HTTP/2 %v, %s: %d %s by %s", http2, q.name, q.res.StatusCode, got.Reason, got.Route)
			}
			if strings.Join(h["Access-Control-Allow-Origin"], " ") != q.allowed || h["Access-Control-Allow-Credentials"] != nil || h.Get("Vary") != "Origin" {
				t.Errorf("HTTP/2 %v, %s: told is %v", http2, q.name, h)
			}
		}
	}
	if n := up.requests.Load(); n != 4 {
		t.Errorf("the upstream was asked %d times", n)
	}
	w.apply(w.usual(plaintext(up.address())))
	res, _ := w.ask(w.client(false, w.tls(host)), "GET", "/v1/orders", nil)
	if res.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("without cors the upstream's does not go through: %v", res.Header)
	}
}

// A route whose control was rejected answers no preflight either.
func TestPreflightOfDenyingRoutes(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	broken := strings.Replace(w.with(plaintext(up.address()), `paths: ["/v1/**"], cors: {origins: ["https://app.example"]}`), "upstream: orders", "upstream: gone", 1)
	w.gateway.Apply(w.compile(broken))
	r, err := http.NewRequestWithContext(t.Context(), "OPTIONS", "https://"+host+"/v1/orders", nil)
	w.must(err)
	r.Header = http.Header{"Origin": {"https://app.example"}, "Access-Control-Request-Method": {"GET"}}
	res, err := w.client(false, w.tls(host)).Do(r)
	w.must(err)
	if body := w.read(res); res.StatusCode != 403 || w.problem(body).Reason != "control_unavailable" {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}
