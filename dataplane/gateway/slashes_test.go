package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// slashes is the usual, and beside it routes of every sort that keep escaped slashes.
func (w *world) slashes(upstream string) string {
	return w.usual(upstream) + `
---
apiVersion: sallyport/v1
kind: Upstream
metadata: {namespace: shop, name: others}
spec: {` + upstream + `}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: kept}
spec:
  hosts: [api.shop.example]
  paths: ["/kept/{id}/x", /kept/a/x, "/{id}"]
  upstream: orders
  webSocket: true
  authentication: {identityProviders: [login]}
  encodedSlashes: KEEP
  cors: {origins: ["https://app.example"]}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: renamed}
spec:
  hosts: [api.shop.example]
  paths: ["/renamed/{id}"]
  split: {shares: [{upstream: orders, weight: 1}, {upstream: others, weight: 1}]}
  rewrite: {path: "/in/{id}/x"}
  authentication: {identityProviders: [login]}
  encodedSlashes: KEEP
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: moved}
spec: {hosts: [api.shop.example], paths: ["/moved/{id}"], redirect: {status: 308, path: "/kept/{id}/x"}, authentication: {identityProviders: [login]}, encodedSlashes: KEEP}
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: kept}
spec: {routes: {names: [kept, renamed, moved]}, effect: ALLOW, principals: [{group: shop}]}
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: no-secrets}
spec: {routes: {names: [kept]}, effect: DENY, when: 'request.path == "/kept/secret%2Fb/x" || request.path.startsWith("/kept/hidden/")'}
`
}

// An escaped slash is a part of its segment, for whoever looks at the path, where the
// route keeps it, and nowhere else does it get any further than that.
func TestEscapedSlashes(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.slashes(plaintext(up.address())))
	for _, http2 := range []bool{false, true} {
		c := w.client(http2, w.tls(host))
		for _, q := range []struct {
			path   string
			status int
			reason string
			to     string // what the upstream sees, or where the client is sent
		}{
			{"/kept/a%2fb/x", 200, "allowed_by_policy", "/kept/a%2Fb/x"},
			{"/kept/hidden%2Fb/x?y=%2f", 200, "allowed_by_policy", "/kept/hidden%2Fb/x?y=%2f"},
			{"/kept/secret%2fb/x", 403, "denied_by_policy", ""},
			{"/renamed/a%2Fb", 200, "allowed_by_policy", "/in/a%2Fb/x"},
			{"/moved/a%2Fb", 308, "allowed_by_policy", "/kept/a%2Fb/x"},
			{"/kept%2Fa%2Fx", 200, "allowed_by_policy", "/kept%2Fa%2Fx"},
			{"/kept/a%2Fx", 400, "path_ambiguous_escape", ""},
			{"/v1/a%2Fb", 400, "path_ambiguous_escape", ""},
			{"/nowhere/a%2Fb", 400, "path_ambiguous_escape", ""},
			{"/.sallyport/logout%2Fb", 400, "path_ambiguous_escape", ""},
			{"/.sallyport%2Flogout", 400, "path_ambiguous_escape", ""},
		} {
			before := up.requests.Load()
			res, body := w.ask(c, "GET", q.path, nil)
			got := w.records.of(t, "decision", res.Header.Get("Sallyport-Decision-Id"))
			asked, _, _ := strings.Cut(strings.ReplaceAll(q.path, "%2f", "%2F"), "?")
			if res.StatusCode != q.status || got.Reason != q.reason || got.Path != asked {
				t.Errorf("HTTP/2 %v, %s: %d, recorded was %+v", http2, q.path, res.StatusCode, got)
			}
			switch heard := up.requests.Load() - before; {
			case q.status == 200 && !strings.HasPrefix(body, "GET "+q.to+" "):
				t.Errorf("HTTP/2 %v, %s: the upstream saw %.100s", http2, q.path, body)
			case q.status == 308 && res.Header.Get("Location") != q.to:
				t.Errorf("HTTP/2 %v, %s: sent to %s", http2, q.path, res.Header.Get("Location"))
			case q.status != 200 && heard > 0:
				t.Errorf("HTTP/2 %v, %s: the upstream heard of it", http2, q.path)
			}
		}
	}
}

// Browsers are told about requests with an escaped slash what would become of them.
func TestPreflightsWithEscapedSlashes(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	spec := w.slashes(plaintext(up.address()))
	for _, q := range []struct {
		spec   string
		status int
	}{
		{spec, http.StatusOK},
		{strings.Replace(spec, "  encodedSlashes: KEEP\n  cors", "  cors", 1), http.StatusBadRequest},
	} {
		w.apply(q.spec)
		res, _ := w.raw("OPTIONS /kept/a%2Fb/x HTTP/1.1\r\nHost: " + host + "\r\nOrigin: https://app.example\r\nAccess-Control-Request-Method: GET\r\n\r\n")
		if res.StatusCode != q.status {
			t.Errorf("%d, want %d", res.StatusCode, q.status)
		}
	}
	if up.requests.Load() > 0 {
		t.Error("the upstream heard of it")
	}
}

// A WebSocket with an escaped slash is closed when its route does not keep it any more.
func TestOpenWithAnEscapedSlash(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	up.answerWith(echoes)
	spec := w.slashes(plaintext(up.address()))
	w.apply(spec)
	open := func() (*websocket.Conn, *http.Response, error) {
		return websocket.Dial(t.Context(), "wss://"+host+"/kept/a%2Fb/x", &websocket.DialOptions{
			HTTPClient: w.client(false, w.tls(host)), HTTPHeader: http.Header{"Authorization": {"Bearer " + w.tokens.sign(nil)}},
		})
	}
	conn, res, err := open()
	w.must(err)
	t.Cleanup(func() { _ = conn.CloseNow() })
	w.again()
	w.must(say(t.Context(), conn, "still open"))
	w.apply(strings.Replace(spec, "  encodedSlashes: KEEP\n  cors", "  cors", 1))
	_, told := w.hears(conn)
	w.closedBy(res.Header.Get("Sallyport-Decision-Id"), told, "path_ambiguous_escape")
	if _, res, err := open(); err == nil || res.StatusCode != http.StatusBadRequest {
		t.Errorf("who comes now gets %v, %v", res, err)
	}
}
