package gateway_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// with is usual with more in its route's spec.
func (w *world) with(upstream, spec string) string {
	return strings.Replace(w.usual(upstream), `paths: ["/v1/**"], `, spec+", ", 1)
}

// A rewritten request is decided on as it was asked, and sent on and recorded as it
// was rewritten.
func TestRewrite(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.with(plaintext(up.address()), `paths: ["/v1/**"], rewrite: {host: orders.internal, path: "/in/**"}`) + `
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: no-secrets}
spec: {routes: {names: [orders]}, effect: DENY, paths: ["/v1/secret/**"]}
`)
	for _, http2 := range []bool{false, true} {
		c := w.client(http2, w.tls(host))
		for _, q := range []struct{ path, forwarded, recorded string }{
			{"/v1/orders/7?x=%41", "GET /in/orders/7?x=%41 orders.internal ", "orders.internal/in/orders/7"},
			{"/v1", "GET /in orders.internal ", "orders.internal/in"},
			{"/v1/a%20b;c", "GET /in/a%20b;c orders.internal ", "orders.internal/in/a%20b;c"},
		} {
			res, body := w.ask(c, "GET", q.path, nil)
			id := res.Header.Get("Sallyport-Decision-Id")
			if res.StatusCode != 200 || !strings.HasPrefix(body, q.forwarded) || !strings.Contains(body, "X-Forwarded-Host: "+host+"\r\n") {
				t.Errorf("%s: %d %s", q.path, res.StatusCode, body)
			}
			decision, outcome := w.records.of(t, "decision", id), w.records.of(t, "outcome", id)
			if asked, _, _ := strings.Cut(q.path, "?"); decision.Path != asked || decision.Host != host || outcome.Target != q.recorded {
				t.Errorf("%s: recorded are %s%s, and %s", q.path, decision.Host, decision.Path, outcome.Target)
			}
		}
		if res, _ := w.ask(c, "GET", "/v1/secret/x", nil); res.StatusCode != 403 {
			t.Errorf("policies look at what is forwarded: %d", res.StatusCode)
		}
	}
	before := up.requests.Load()
	res, body := w.ask(w.client(false, w.tls(host)), "GET", "/v1/"+strings.Repeat("x", 8188), nil)
	if res.StatusCode != 200 {
		t.Errorf("the longest: %d %.100s", res.StatusCode, body)
	}
	w.apply(w.with(plaintext(up.address()), `paths: ["/v1/**"], rewrite: {path: "/longer/**"}`))
	res, body = w.ask(w.client(false, w.tls(host)), "GET", "/v1/"+strings.Repeat("x", 8188), nil)
	if res.StatusCode != 414 || w.problem(body).Reason != "path_too_long" || up.requests.Load() != before+1 {
		t.Errorf("too long: %d %.100s", res.StatusCode, body)
	}
}

// A redirect is for those who are allowed to ask; no upstream hears of it.
func TestRedirect(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.usual(plaintext(up.address())) + `
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: moved}
spec: {hosts: [api.shop.example], paths: ["/old/{id}"], redirect: {status: 308, path: "/v1/{id}"}, authentication: {identityProviders: [login]}}
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: moved}
spec: {routes: {names: [moved]}, effect: ALLOW, principals: [{group: shop}], methods: [GET, POST]}
`)
	for _, http2 := range []bool{false, true} {
		c := w.client(http2, w.tls(host))
		res, body := w.ask(c, "POST", "/old/a%20b?x=1", strings.NewReader("body"))
		id := res.Header.Get("Sallyport-Decision-Id")
		if res.StatusCode != 308 || res.Header.Get("Location") != "/v1/a%20b?x=1" || body != "" || res.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%d %v %s", res.StatusCode, res.Header, body)
		}
		decision, outcome := w.records.of(t, "decision", id), w.records.of(t, "outcome", id)
		if !decision.Allow || decision.Policy != "shop/moved" || outcome.Status != 308 || outcome.Target != "/v1/a%20b" {
			t.Errorf("recorded are %+v and %+v", decision, outcome)
		}
		if res, _ := w.ask(c, "PUT", "/old/7", nil); res.StatusCode != 403 || res.Header.Get("Location") != "" {
			t.Errorf("what is not allowed: %d %v", res.StatusCode, res.Header)
		}
	}
	if n := up.requests.Load(); n > 0 {
		t.Errorf("the upstream heard of %d", n)
	}
}

// Headers are changed on the way to the upstream and back, after the decision, and
// what the gateway says stays its own.
func TestHeaderChanges(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	up.answerWith(func(rw http.ResponseWriter, r *http.Request) {
		h := rw.Header()
		h["X-Debug"], h["X-Kept"], h["Vary"], h["X-Frame-Options"] = []string{"secret"}, []string{"kept"}, []string{"Accept"}, []string{"ALLOW"}
		h["Trailer"] = []string{"X-Debug, X-Sum"}
		_ = r.Header.Write(rw)
		_, _ = io.WriteString(rw, "\n")
		h.Set("X-Debug", "secret")
		h.Set("X-Sum", "7")
	})
	w.apply(w.with(plaintext(up.address()), `paths: ["/v1/**"],
  requestHeaders: {remove: [authorization, x-drop], set: [{name: x-source, value: edge}], add: [{name: X-List, value: c}]},
  responseHeaders: {remove: [X-Debug], set: [{name: X-Frame-Options, value: DENY}], add: [{name: vary, value: X-Source}, {name: X-New, value: n}]}`))
	for _, http2 := range []bool{false, true} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+host+"/v1/orders", nil)
		w.must(err)
		r.Header = http.Header{"Authorization": {"Bearer " + w.tokens.sign(nil)}, "X-Source": {"client", "twice"}, "X-List": {"a", "b"}, "X-Drop": {"d"}}
		res, err := w.client(http2, w.tls(host)).Do(r)
		w.must(err)
		body := w.read(res)
		if res.StatusCode != 200 || strings.Contains(body, "Bearer") || strings.Contains(body, "X-Drop") ||
			!strings.Contains(body, "X-List: a\r\nX-List: b\r\nX-List: c\r\n") || strings.Count(body, "X-Source: edge\r\n") != 1 || strings.Contains(body, "twice") {
			t.Errorf("HTTP/2 %v: %d, sent on was %s", http2, res.StatusCode, body)
		}
		h := res.Header
		if h["X-Debug"] != nil || h.Get("X-Kept") != "kept" || strings.Join(h["Vary"], ",") != "Accept,X-Source" || strings.Join(h["X-Frame-Options"], ",") != "DENY" || h.Get("X-New") != "n" {
			t.Errorf("HTTP/2 %v: answered was %v", http2, h)
		}
		if res.Trailer["X-Debug"] != nil || res.Trailer.Get("X-Sum") != "7" || len(h["Sallyport-Decision-Id"]) != 1 {
			t.Errorf("HTTP/2 %v: behind it came %v", http2, res.Trailer)
		}
	}
}
