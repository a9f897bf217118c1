package gateway_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
)

func (w *world) svid(i *issuer.Issuer, id identity.ID, ttl time.Duration, audiences ...string) string {
	w.t.Helper()
	raw, err := i.IssueJWT(id, ttl, audiences...)
	w.must(err)
	return raw
}

// Workloads prove who they are by JWT-SVIDs of the Workload API's trust domains,
// each verified with its own keys; every trick stands beside what passes.
func TestJWTSVIDs(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	partner, impostor, third := w.partner("partner.example"), w.partner("prod.example"), w.partner("third.example")
	w.issuer.FederateJWT("partner.example", partner.JWTBundle())
	spec := strings.Replace(taking(w.usual(plaintext(up.address())), "identityProviders: [login], jwtSvids: {audiences: [orders, shop]}"),
		`{spiffe: "spiffe://prod.example/ns/shop/*"}`, `{spiffe: "spiffe://prod.example/ns/shop/*"}, {spiffe: "spiffe://partner.example/**"}`, 1)
	w.apply(spec)
	const web identity.ID = "spiffe://prod.example/ns/shop/web"
	c := w.client(true, w.tls(host))
	with := func(raw string) string {
		_, got := w.sent(c, http.Header{"Authorization": {"Bearer " + raw}})
		if strings.HasPrefix(got, "GET ") {
			return ""
		}
		return got
	}
	until(t, "the keys of the Workload API", func() bool { return with(w.svid(partner, "spiffe://partner.example/a", 0, "orders")) == "" })
	good := w.svid(w.issuer, web, 0, "orders")
	forge := func(change func(jwt.MapClaims)) string { return w.forged(good, change) }
	for name, tc := range map[string]struct{ raw, want string }{
		"as it should be":                     {good, ""},
		"again":                               {good, ""},
		"second audience":                     {w.svid(w.issuer, web, 0, "billing", "shop"), ""},
		"of another trust domain":             {w.svid(partner, "spiffe://partner.example/web", 0, "orders"), ""},
		"a token of a provider":               {w.tokens.sign(nil), ""},
		"another workload":                    {w.svid(w.issuer, "spiffe://prod.example/other", 0, "orders"), "no_matching_policy"},
		"for another audience":                {w.svid(w.issuer, web, 0, "billing"), "token_wrong_audience"},
		"expired":                             {w.svid(w.issuer, web, -time.Minute, "orders"), "token_expired"},
		"by an impostor of the domain":        {w.svid(impostor, web, 0, "orders"), "token_unknown_key"},
		"of a domain that nobody trusts":      {w.svid(third, "spiffe://third.example/web", 0, "orders"), "token_wrong_issuer"},
		"one character of the signature":      {good[:len(good)-3] + "AAA", "token_bad_signature"},
		"with a provider's issuer, no group":  {w.tokens.sign(jwt.MapClaims{"sub": string(web), "groups": []string{}}), "no_matching_policy"},
		"a subject in upper case":             {forge(func(c jwt.MapClaims) { c["sub"] = "spiffe://PROD.example/ns/shop/web" }), "token_bad_claim"},
		"a subject with an escape":            {forge(func(c jwt.MapClaims) { c["sub"] = "spiffe://prod.example/ns%2fshop/web" }), "token_bad_claim"},
		"a subject that ends with a slash":    {forge(func(c jwt.MapClaims) { c["sub"] = "spiffe://prod.example/ns/shop/web/" }), "token_bad_claim"},
		"a trust domain as subject":           {forge(func(c jwt.MapClaims) { c["sub"] = "spiffe://prod.example" }), "token_bad_claim"},
		"somebody else's subject, own key":    {w.crossed(partner, web), "token_unknown_key"},
		"not a SPIFFE ID, and no provider's":  {forge(func(c jwt.MapClaims) { c["sub"] = "web" }), "token_wrong_issuer"},
		"another subject, the same signature": {forge(func(c jwt.MapClaims) { c["sub"] = "spiffe://prod.example/ns/shop/root" }), "token_bad_signature"},
	} {
		got := with(tc.raw)
		if got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
	// What was verified is good for the audiences of each route, and while the
	// domain is trusted.
	both := w.svid(partner, "spiffe://partner.example/b", 0, "orders")
	if got := with(both); got != "" {
		t.Errorf("before: %q", got)
	}
	w.apply(strings.Replace(spec, "audiences: [orders, shop]", "audiences: [shop]", 1))
	if got := with(both); got != "token_wrong_audience" {
		t.Errorf("with other audiences: %q", got)
	}
	w.apply(spec)
	w.issuer.FederateJWT("partner.example", nil)
	until(t, "the trust domain is gone", func() bool { return with(both) == "token_wrong_issuer" })
	w.set(func() { w.ahead = 6 * time.Minute })
	if got := with(good); got != "token_expired" {
		t.Errorf("later: %q", got)
	}
}

// forged is a token with other claims and the signature of before.
func (w *world) forged(raw string, change func(jwt.MapClaims)) string {
	w.t.Helper()
	parts := strings.Split(raw, ".")
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	w.must(err)
	var claims jwt.MapClaims
	w.must(json.Unmarshal(text, &claims))
	change(claims)
	text, err = json.Marshal(claims)
	w.must(err)
	parts[1] = base64.RawURLEncoding.EncodeToString(text)
	return strings.Join(parts, ".")
}

// crossed is a token that another domain's authority signed for one of ours.
func (w *world) crossed(by *issuer.Issuer, id identity.ID) string {
	w.t.Helper()
	return w.forged(w.svid(by, "spiffe://partner.example/web", 0, "orders"), func(c jwt.MapClaims) { c["sub"] = string(id) })
}

// A route that wants both a certificate and a JWT-SVID wants them of one
// workload.
func TestJWTSVIDBesideCertificate(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(taking(w.usual(plaintext(up.address())), "jwtSvids: {audiences: [orders]}, clientCertificates: true, require: ALL"))
	const web identity.ID = "spiffe://prod.example/ns/shop/web"
	header := func(id identity.ID) http.Header {
		return http.Header{"Authorization": {"Bearer " + w.svid(w.issuer, id, 0, "orders")}}
	}
	own, other := w.client(true, w.as(w.tls(host), web)), w.client(true, w.as(w.tls(host), "spiffe://prod.example/ns/shop/db"))
	until(t, "the keys of the Workload API", func() bool { status, _ := w.sent(own, header(web)); return status == 200 })
	if status, got := w.sent(other, header(web)); status != 401 || got != "certificate_untrusted" {
		t.Errorf("over another's connection: %d %s", status, got)
	}
	if status, got := w.sent(own, http.Header{}); status != 401 || got != "credentials_missing" {
		t.Errorf("the certificate alone: %d %s", status, got)
	}
}

// A weak key of a bundle is nobody's.
func TestWeakJWTAuthority(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	t.Setenv("GODEBUG", "rsa1024min=0")
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	w.must(err)
	b64 := base64.RawURLEncoding.EncodeToString
	w.issuer.FederateJWT("weak.example", fmt.Appendf(nil, `{"keys":[{"kty":"RSA","use":"jwt-svid","kid":"k","n":%q,"e":%q}]}`, b64(key.N.Bytes()), b64(big.NewInt(int64(key.E)).Bytes())))
	partner := w.partner("partner.example")
	w.issuer.FederateJWT("partner.example", partner.JWTBundle())
	w.apply(strings.Replace(taking(w.usual(plaintext(up.address())), "jwtSvids: {audiences: [orders]}"), `spiffe://prod.example/ns/shop/*"`, `spiffe://partner.example/**"`, 1))
	c := w.client(true, w.tls(host))
	until(t, "the others' keys", func() bool {
		status, _ := w.sent(c, http.Header{"Authorization": {"Bearer " + w.svid(partner, "spiffe://partner.example/web", 0, "orders")}})
		return status == 200
	})
	weak := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{"sub": "spiffe://weak.example/web", "aud": "orders", "exp": time.Now().Add(time.Minute).Unix()})
	weak.Header["kid"] = "k"
	raw, err := weak.SignedString(key)
	w.must(err)
	if status, got := w.sent(c, http.Header{"Authorization": {"Bearer " + raw}}); status != 401 || got != "token_wrong_issuer" {
		t.Errorf("%d %s", status, got)
	}
}
