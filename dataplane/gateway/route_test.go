package gateway_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// canary is a Route shop/canary like that of usual, for requests with X-Canary: 1
// and version=2, where nobody is let in.
const canary = `
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: canary}
spec: {hosts: [api.shop.example], paths: ["/v1/**"], headers: [{name: x-canary, exact: "1"}], query: [{name: version, exact: "2"}], upstream: orders, authentication: {identityProviders: [login]}}
`

// What a request is taken by is what it is decided by, over either protocol, and
// fields that end at the gateway are not looked at.
func TestRoutesByHeaderAndQuery(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.usual(plaintext(up.address())) + canary)
	for _, http2 := range []bool{false, true} {
		c := w.client(http2, w.tls(host))
		for _, q := range []struct {
			path    string
			header  http.Header
			want    int
			route   string
			because string
		}{
			{"/v1/orders", nil, 200, "shop/orders", "allowed_by_policy"},
			{"/v1/orders?version=2", http.Header{"X-Canary": {"1"}}, 403, "shop/canary", "no_matching_policy"},
			{"/v1/orders?version=%32", http.Header{"x-canary": {"1"}}, 403, "shop/canary", "no_matching_policy"},
			{"/v1/orders?version=2", http.Header{"X-Canary": {"2"}}, 200, "shop/orders", "allowed_by_policy"},
			{"/v1/orders?version=2", http.Header{"X_Canary": {"1"}}, 200, "shop/orders", "allowed_by_policy"}, // is no header here
			{"/v1/orders?version=2", http.Header{"X-Canary": {"1", "1"}}, 400, "", "route_ambiguous"},
			{"/v1/orders?version=2&version=3", http.Header{"X-Canary": {"1"}}, 400, "", "route_ambiguous"},
			{"/v1/orders?version=2&version=3", nil, 200, "shop/orders", "allowed_by_policy"},
		} {
			r, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+host+q.path, nil)
			w.must(err)
			if q.header != nil {
				r.Header = q.header.Clone()
			}
			r.Header.Set("Authorization", "Bearer "+w.tokens.sign(nil))
			res, err := c.Do(r)
			w.must(err)
			body := w.read(res)
			got := w.records.of(t, "decision", res.Header.Get("Sallyport-Decision-Id"))
			if res.StatusCode != q.want || got.Route != q.route || got.Reason != q.because {
				t.Errorf("HTTP/2 %v, %s %v: %d by %q for %s: %s", http2, q.path, q.header, res.StatusCode, got.Route, got.Reason, body)
			}
		}
	}
	res, _ := w.raw("GET /v1/orders?version=2 HTTP/1.1\r\nHost: api.shop.example\r\nAuthorization: Bearer TOKEN\r\nConnection: X-Canary\r\nX-Canary: 1\r\n\r\n")
	if res.StatusCode != 200 {
		t.Errorf("with the field named in Connection: %d", res.StatusCode)
	}
}

// An open stream stays with the conditions that it was let through by.
func TestStreamsKeepWhatTheyWereRoutedBy(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	more := make(chan struct{})
	up.answerWith(func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, "begun")
		_ = http.NewResponseController(rw).Flush()
		<-more
		_, _ = io.WriteString(rw, " and ended")
	})
	allowed := strings.Replace(canary, "identityProviders: [login]", "anonymous: true", 1) + `
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: canary-allow}
spec: {routes: {names: [canary]}, effect: ALLOW, principals: [{anonymous: true}]}
`
	w.apply(w.usual(plaintext(up.address())) + allowed)
	r, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+host+"/v1/orders?version=2", nil)
	w.must(err)
	r.Header.Set("X-Canary", "1")
	res, err := w.client(true, w.tls(host)).Do(r)
	w.must(err)
	w.apply(w.usual(plaintext(up.address())) + allowed)
	w.again()
	close(more)
	if body := w.read(res); res.StatusCode != 200 || body != "begun and ended" {
		t.Errorf("%d %q", res.StatusCode, body)
	}
	if got := w.records.of(t, "decision", res.Header.Get("Sallyport-Decision-Id")).Route; got != "shop/canary" {
		t.Errorf("by %s", got)
	}
}
