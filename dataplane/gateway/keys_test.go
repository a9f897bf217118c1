package gateway_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/apikey"
)

// keyResource is an ApiKey, of which each secret ends when it is told to.
func keyResource(namespace, name string, ends map[apikey.Key]time.Time) string {
	var secrets []string
	for k, end := range ends {
		secrets = append(secrets, fmt.Sprintf(`{id: %q, sha256: "%x", createdAt: %s, notAfter: %s}`,
			k.ID, apikey.Digest(k.Text), end.Add(-time.Hour).UTC().Format(time.RFC3339), end.UTC().Format(time.RFC3339)))
	}
	return fmt.Sprintf(`
---
apiVersion: sallyport/v1
kind: ApiKey
metadata: {namespace: %s, name: %s}
spec: {scopes: ["orders:read"], secrets: [%s]}
`, namespace, name, strings.Join(secrets, ", "))
}

// taking is what a route takes as proof, in place of the usual.
func taking(yaml, authentication string) string {
	return strings.Replace(yaml, "authentication: {identityProviders: [login], clientCertificates: true}", "authentication: {"+authentication+"}", 1)
}

// sent asks for a path with header fields, and returns the reason of the denial
// or what the upstream got.
func (w *world) sent(c *http.Client, fields http.Header) (int, string) {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), "GET", "https://"+host+"/v1/orders", nil)
	w.must(err)
	r.Header = fields
	res, err := c.Do(r)
	w.must(err)
	body := w.read(res)
	if res.Header.Get("Content-Type") == "application/problem+json" {
		return res.StatusCode, w.problem(body).Reason
	}
	return res.StatusCode, body
}

func TestAPIKeys(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	one, old, theirs := apikey.New(), apikey.New(), apikey.New()
	changed := one.Text[:20] + "!" + one.Text[21:]
	soon := time.Now().Add(time.Minute)
	spec := taking(w.usual(plaintext(up.address())), "apiKeys: true, identityProviders: [login]") +
		keyResource("shop", "export", map[apikey.Key]time.Time{one: soon.Add(time.Hour), old: soon}) +
		keyResource("pay", "export", map[apikey.Key]time.Time{theirs: soon})
	w.apply(strings.Replace(spec, "{group: shop}", `{group: shop}, {key: export}`, 1))
	for _, http2 := range []bool{false, true} {
		c := w.client(http2, w.tls(host))
		for _, tc := range []struct {
			name   string
			fields http.Header
			status int
			reason string // empty for what is let through
		}{
			{"as it should be", http.Header{"X-Api-Key": {one.Text}}, 200, ""},
			{"in another case", http.Header{"x-api-KEY": {one.Text}}, 200, ""},
			{"rotated, within the overlap", http.Header{"X-Api-Key": {old.Text}}, 200, ""},
			{"one character changed", http.Header{"X-Api-Key": {changed}}, 401, "api_key_malformed"},
			{"of another namespace", http.Header{"X-Api-Key": {theirs.Text}}, 401, "api_key_invalid"},
			{"twice", http.Header{"X-Api-Key": {one.Text, one.Text}}, 400, "header_duplicate"},
			{"as a bearer token", http.Header{"Authorization": {"Bearer " + one.Text}}, 401, "token_malformed"},
			{"beside a bad token", http.Header{"X-Api-Key": {one.Text}, "Authorization": {"Bearer x"}}, 401, "token_malformed"},
			{"with an underscore", http.Header{"X_Api_Key": {one.Text}}, 401, "credentials_missing"},
			{"in a cookie", http.Header{"Cookie": {"X-Api-Key=" + one.Text}}, 401, "credentials_missing"},
			{"none", http.Header{}, 401, "credentials_missing"},
		} {
			status, got := w.sent(c, tc.fields)
			if status != tc.status || tc.reason != "" && got != tc.reason {
				t.Errorf("HTTP/2 %t, %s: %d %s", http2, tc.name, status, got)
			}
			if tc.name != "in a cookie" && strings.Contains(got, "sp_") {
				t.Errorf("HTTP/2 %t, %s: the key went on: %s", http2, tc.name, got)
			}
		}
	}
	// Time passes for those who are connected already.
	w.set(func() { w.ahead = 2 * time.Minute })
	if status, got := w.sent(w.client(true, w.tls(host)), http.Header{"X-Api-Key": {old.Text}}); status != 401 || got != "api_key_expired" {
		t.Errorf("after the overlap: %d %s", status, got)
	}
	until(t, "the records name the key", func() bool {
		return strings.Contains(w.records.all(), `"key":"shop/export","key_id":"`+one.ID+`"`)
	})
	if strings.Contains(w.records.all(), one.Text) {
		t.Error("the records show the key")
	}
}

// A route that takes no keys leaves the field to the upstream; conditions never
// see a key.
func TestAPIKeyIsShownToNobodyElse(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	k := apikey.New()
	spec := w.usual(plaintext(up.address())) + keyResource("shop", "export", map[apikey.Key]time.Time{k: time.Now().Add(time.Hour)})
	w.apply(spec)
	token := http.Header{"Authorization": {"Bearer " + w.tokens.sign(nil)}, "X-Api-Key": {k.Text}}
	c := w.client(false, w.tls(host))
	if status, got := w.sent(c, token.Clone()); status != 200 || !strings.Contains(got, "X-Api-Key: "+k.Text) {
		t.Errorf("a field for the upstream: %d %s", status, got)
	}
	peeks := taking(spec, "apiKeys: true") + `
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: peeks}
spec: {routes: {names: [orders]}, effect: ALLOW, principals: [{key: export}], when: '!("x-api-key" in request.headers) && "orders:read" in principal.scopes'}
`
	w.apply(peeks)
	if status, got := w.sent(c, http.Header{"X-Api-Key": {k.Text}}); status != 200 {
		t.Errorf("to a condition: %d %s", status, got)
	}
	// Without its resource the key is nobody's, at once and on open connections.
	w.apply(taking(w.usual(plaintext(up.address())), "apiKeys: true"))
	if status, got := w.sent(c, http.Header{"X-Api-Key": {k.Text}}); status != 401 || got != "api_key_invalid" {
		t.Errorf("after it was deleted: %d %s", status, got)
	}
}
