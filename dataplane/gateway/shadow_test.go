package gateway_test

import (
	"strings"
	"testing"
)

// A policy in shadow turns nothing round: records and metrics say what it would
// have.
func TestShadow(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.usual(plaintext(up.address())) + `
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: no-reads}
spec: {routes: {names: [orders]}, effect: DENY, methods: [GET], mode: SHADOW}
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: deletes}
spec: {routes: {names: [orders]}, effect: ALLOW, principals: [{authenticated: true}], methods: [DELETE], mode: SHADOW}
`)
	c := w.client(false, w.tls(host))
	for _, q := range []struct {
		method string
		status int
		shadow string
	}{
		{"GET", 200, `"shadow":{"policy":"shop/no-reads","allow":false,"reason":"denied_by_policy"}`},
		{"DELETE", 403, `"shadow":{"policy":"shop/deletes","allow":true,"reason":"allowed_by_policy"}`},
		{"POST", 200, ""},
	} {
		res, body := w.ask(c, q.method, "/v1/orders", nil)
		id := res.Header.Get("Sallyport-Decision-Id")
		w.records.of(t, "decision", id)
		line := ""
		for l := range strings.Lines(w.records.all()) {
			if strings.Contains(l, id) && strings.Contains(l, `"type":"decision"`) {
				line = l
			}
		}
		if res.StatusCode != q.status || strings.Contains(line, `"shadow"`) != (q.shadow != "") || !strings.Contains(line, q.shadow) {
			t.Errorf("%s: %d %s, recorded %s", q.method, res.StatusCode, body, line)
		}
		if strings.Contains(body, "no-reads") || strings.Contains(body, "deletes") {
			t.Errorf("%s: the answer names a policy: %s", q.method, body)
		}
	}
	for series, want := range map[string]string{
		`sallyport_shadow_decisions_total{route="shop/orders",would_have="deny"}`:  "1",
		`sallyport_shadow_decisions_total{route="shop/orders",would_have="allow"}`: "1",
	} {
		if got := w.metric(series); got != want {
			t.Errorf("%s is %q, want %s", series, got, want)
		}
	}
}
