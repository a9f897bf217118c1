package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// newAuthority serves keys by discovery, and answers for opaque tokens.
func newAuthority(t *testing.T, keys string) *httptest.Server {
	t.Helper()
	var server *httptest.Server
	server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := `{"active":false}`
		switch {
		case r.URL.Path == "/.well-known/openid-configuration":
			answer = fmt.Sprintf(`{"issuer":%q,"jwks_uri":"%[1]s/keys"}`, server.URL)
		case r.URL.Path == "/keys":
			answer = keys
		case r.FormValue("token") == "opaque":
			answer = fmt.Sprintf(`{"active":true,"sub":"alice","aud":"orders","groups":["shop"],"exp":%d}`, time.Now().Add(time.Hour).Unix())
		}
		_, _ = io.WriteString(w, answer) // the gateway is gone
	}))
	t.Cleanup(server.Close)
	return server
}

// Each field of an IdentityProvider does in a running gateway what it says.
func TestIdentityProviderFields(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	authority := newAuthority(t, w.tokens.set)
	secret := filepath.Join(w.dir, "secret")
	w.must(os.WriteFile(secret, []byte("secret\n"), 0o600))
	endpoint := fmt.Sprintf("introspection: {endpoint: %q, clientId: proxy, clientSecretFile: %q", authority.URL+"/introspect", secret)
	inline := fmt.Sprintf("issuer: %q, jwks: %q", "https://login.example", w.tokens.set)
	in := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	with := func(pairs ...any) string {
		claims := jwt.MapClaims{}
		for i := 0; i < len(pairs); i += 2 {
			claims[pairs[i].(string)] = pairs[i+1]
		}
		return w.tokens.sign(claims)
	}
	for _, c := range []struct{ name, fields, bearer, want string }{
		{"jwks", inline, with(), "allowed_by_policy"},
		{"discovery", fmt.Sprintf("issuer: %q, discovery: true", authority.URL), with("iss", authority.URL), "allowed_by_policy"},
		{"algorithms", inline + ", algorithms: [RS256, PS256]", with(), "token_algorithm"},
		{"tokenTypes", inline + `, tokenTypes: ["at+jwt"]`, with(), "token_wrong_type"},
		{"tokenTypes, none", inline + `, tokenTypes: [absent]`, with(), "token_wrong_type"},
		{"requiredClaims, met", inline + `, requiredClaims: [{claim: org.id, values: [a, b]}]`, with("org", map[string]any{"id": "b"}), "allowed_by_policy"},
		{"requiredClaims", inline + `, requiredClaims: [{claim: org.id, values: [a, b]}]`, with("org", map[string]any{"id": "c"}), "token_wrong_claim"},
		{"subjectClaim", inline + `, subjectClaim: email`, with(), "token_bad_claim"},
		{"groupsClaim, met", inline + `, groupsClaim: realm.roles`, with("groups", nil, "realm", map[string]any{"roles": []string{"shop"}}), "allowed_by_policy"},
		{"groupsClaim", inline + `, groupsClaim: realm.roles`, with(), "no_matching_policy"},
		{"leeway, none", inline + `, leeway: 0s`, with("exp", in(-5*time.Second)), "token_expired"},
		{"leeway, usual", inline, with("exp", in(-5*time.Second)), "allowed_by_policy"},
		{"maxLifetime", inline + `, maxLifetime: 60s`, with("iat", in(0)), "token_long_lived"},
		{"introspection", "issuer: a, " + endpoint + "}", "opaque", "allowed_by_policy"},
		{"introspection beside keys, opaque", inline + ", " + endpoint + "}", "opaque", "allowed_by_policy"},
		{"introspection beside keys, JWT", inline + ", " + endpoint + "}", with(), "allowed_by_policy"},
		{"introspection of another token", "issuer: a, " + endpoint + "}", "opaque2", "token_inactive"},
		{"introspection without secret", "issuer: a, " + strings.Replace(endpoint, secret, secret+"2", 1) + "}", "opaque", "introspection_unavailable"},
		{"requireIntrospection", inline + ", " + endpoint + "} REQUIRED", with(), "token_inactive"},
		{"requireIntrospection, opaque", inline + ", " + endpoint + "} REQUIRED", "opaque", "allowed_by_policy"},
	} {
		fields, required := strings.CutSuffix(c.fields, " REQUIRED")
		yaml := strings.Replace(w.usual(plaintext(up.address())), "spec: {issuer: ", "spec: {"+fields+", allowPrivateAddresses: true, audiences: [orders]} #", 1)
		if required {
			yaml = strings.Replace(yaml, "clientCertificates: true}", "requireIntrospection: true}", 1)
		}
		w.apply(yaml)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+host+"/v1/orders/7", nil)
		w.must(err)
		r.Header.Set("Authorization", "Bearer "+c.bearer)
		res, err := w.client(true, w.tls(host)).Do(r)
		w.must(err)
		body := w.read(res)
		if d := w.records.of(t, "decision", res.Header.Get("Sallyport-Decision-Id")); d.Reason != c.want {
			t.Errorf("%s: %s, want %s: %d %s", c.name, d.Reason, c.want, res.StatusCode, body)
		}
	}
}
