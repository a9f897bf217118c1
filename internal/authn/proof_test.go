package authn_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/token"
)

// holder is a client that has a key.
type holder struct{ key *ecdsa.PrivateKey }

func newHolder(t testing.TB) *holder {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &holder{key}
}

func (h *holder) jwk() map[string]any {
	point, err := h.key.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	return map[string]any{"kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])}
}

// jkt is the thumbprint of the key, made by hand (RFC 7638 §3).
func (h *holder) jkt() string {
	k := h.jwk()
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":"%s","y":"%s"}`, k["x"], k["y"]))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (h *holder) sign(claims jwt.MapClaims) string {
	t := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	t.Header["typ"], t.Header["jwk"] = "dpop+jwt", h.jwk()
	raw, err := t.SignedString(h.key)
	if err != nil {
		panic(err)
	}
	return raw
}

func ath(raw string) string {
	sum := sha256.Sum256([]byte(raw))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// desk is a gate with a client's key, and a token that is bound to it.
type desk struct {
	*gate
	issuer *issuer
	clock  *clock
	holder *holder
	bound  string
	made   int
}

func newDesk(t *testing.T, c authn.Config) *desk {
	t.Helper()
	d := &desk{clock: &clock{}, holder: newHolder(t)}
	d.issuer = overTLS(t, "https://idp.example")
	c.Now, c.Wait = d.clock.now, time.Minute
	d.gate = newGate(t, d.issuer, c)
	d.bound = d.token(jwt.MapClaims{"cnf": map[string]any{"jkt": d.holder.jkt()}, "exp": d.clock.now().Add(time.Hour).Unix()})
	return d
}

func (d *desk) token(claims jwt.MapClaims) string {
	return d.issuer.token("one", d.clock.now(), claims)
}

// proof is a good one for the request of with, but for what claims put over it.
func (d *desk) proof(claims jwt.MapClaims) string {
	d.made++
	all := jwt.MapClaims{
		"jti": fmt.Sprint("proof ", d.made), "htm": "GET", "htu": "https://api.shop.example/v1/orders",
		"iat": d.clock.now().Unix(), "ath": ath(d.bound),
	}
	maps.Copy(all, claims)
	return d.holder.sign(all)
}

// with is GET https://api.shop.example/v1/orders with these credentials.
func with(authorization string, proofs ...string) authn.Credentials {
	c := authn.Credentials{
		Header: map[string][]string{"Authorization": {authorization}},
		Method: "GET", Host: "api.shop.example", Path: "/v1/orders", Authority: "api.shop.example",
	}
	if len(proofs) > 0 {
		c.Header["Dpop"] = proofs
	}
	return c
}

func over(c authn.Credentials, peer authn.Peer) authn.Credentials {
	c.Peer = peer
	return c
}

func (d *desk) outcome(c authn.Credentials, accept authn.Accept) string {
	d.t.Helper()
	return outcome(d.t, d.Authenticator, c, accept, d.clock.now())
}

func demanding(p authn.Proof) authn.Accept {
	accept := shop
	accept.Proof = p
	return accept
}

// A DPoP proof is for one request, one token and one key, once, and now.
func TestProofs(t *testing.T) {
	d := newDesk(t, authn.Config{})
	at := func(after time.Duration) int64 { return d.clock.now().Add(after).Unix() }
	claim := func(name string, value any) authn.Credentials {
		return with("DPoP "+d.bound, d.proof(jwt.MapClaims{name: value}))
	}
	thief := newHolder(t)
	good := d.proof(nil)
	port := with("DPoP "+d.bound, d.proof(jwt.MapClaims{"htu": "https://api.shop.example:8443/v1/orders"}))
	port.Authority = "API.shop.example:8443"
	for _, c := range []struct {
		name string
		cred authn.Credentials
		want string
	}{
		{"as it should be", with("DPoP "+d.bound, good), "alice"},
		{"the same again", with("DPoP "+d.bound, good), "proof_replayed"},
		{"scheme in other case", with("dpop "+d.bound, d.proof(nil)), "alice"},
		{"no proof", with("DPoP " + d.bound), "proof_missing"},
		{"two proofs", with("DPoP "+d.bound, d.proof(nil), d.proof(nil)), "proof_malformed"},
		{"two proofs in one field", with("DPoP "+d.bound, d.proof(nil)+", "+d.proof(nil)), "proof_malformed"},
		{"the token itself as proof", with("DPoP "+d.bound, d.bound), "proof_malformed"},
		{"as Bearer", with("Bearer "+d.bound, d.proof(nil)), "proof_downgraded"},
		{"as Bearer without a proof", with("Bearer " + d.bound), "proof_downgraded"},
		{"token that is bound to nobody", with("DPoP "+d.token(nil), d.proof(nil)), "proof_unbound"},
		{"key of somebody else", with("DPoP "+d.bound, thief.sign(jwt.MapClaims{
			"jti": "x", "htm": "GET", "htu": "https://api.shop.example/v1/orders", "iat": at(0), "ath": ath(d.bound),
		})), "proof_wrong_key"},
		{"signature cut", with("DPoP "+d.bound, good[:len(good)-4]+"AAAA"), "proof_bad_signature"},

		{"for another method", claim("htm", "POST"), "proof_wrong_request"},
		{"for the method in lower case", claim("htm", "get"), "proof_wrong_request"},
		{"for another host", claim("htu", "https://evil.example/v1/orders"), "proof_wrong_request"},
		{"for another path", claim("htu", "https://api.shop.example/v1/orders/7"), "proof_wrong_request"},
		{"for the path with a slash", claim("htu", "https://api.shop.example/v1/orders/"), "proof_wrong_request"},
		{"for the path with dots", claim("htu", "https://api.shop.example/v1/x/../orders"), "proof_wrong_request"},
		{"for another port", claim("htu", "https://api.shop.example:8443/v1/orders"), "proof_wrong_request"},
		{"for a port that is the request's", port, "alice"},
		{"for http", claim("htu", "http://api.shop.example/v1/orders"), "proof_wrong_request"},
		{"for a path alone", claim("htu", "/v1/orders"), "proof_wrong_request"},
		{"for a user", claim("htu", "https://x@api.shop.example/v1/orders"), "proof_wrong_request"},
		{"for nothing", claim("htu", "https://"), "proof_wrong_request"},
		{"in other letters, with the port of https", claim("htu", "HTTPS://API.Shop.example:443/v1/%6Frders"), "alice"},
		{"with query and fragment", claim("htu", "https://api.shop.example/v1/orders?a=b#c"), "alice"},

		{"for another token", claim("ath", ath(d.token(nil))), "proof_wrong_token"},
		{"for no token", claim("ath", ""), "proof_wrong_token"},
		{"as old as may be", claim("iat", at(-60*time.Second)), "alice"},
		{"a second older", claim("iat", at(-61*time.Second)), "proof_not_fresh"},
		{"as new as may be", claim("iat", at(30*time.Second)), "alice"},
		{"a second newer", claim("iat", at(31*time.Second)), "proof_not_fresh"},
		{"past its own end", claim("exp", at(0)), "proof_not_fresh"},
		{"before its own beginning", claim("nbf", at(31*time.Second)), "proof_not_fresh"},
		{"with an end of its own", claim("exp", at(time.Second)), "alice"},
	} {
		if got := d.outcome(c.cred, shop); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// A token that is bound to a certificate is good over connections with it, and
// cnf that is not understood makes it good over none.
func TestBoundToCertificate(t *testing.T) {
	d := newDesk(t, authn.Config{})
	thumbprint := sha256.Sum256([]byte("the certificate"))
	thumb := func(sum [32]byte) string { return base64.RawURLEncoding.EncodeToString(sum[:]) }
	confirmed := func(cnf any) authn.Credentials { return with("Bearer " + d.token(jwt.MapClaims{"cnf": cnf})) }
	mine := authn.Peer{ID: web, Thumbprint: thumbprint, Expires: d.clock.now().Add(time.Second)}
	other, expired := mine, mine
	other.Thumbprint[0]++
	expired.Expires = d.clock.now()
	bound := confirmed(map[string]any{"x5t#S256": thumb(thumbprint)})
	twice := d.token(jwt.MapClaims{"cnf": map[string]any{"x5t#S256": thumb(thumbprint), "jkt": d.holder.jkt()}})
	proof := func() string { return d.proof(jwt.MapClaims{"ath": ath(twice)}) }
	for _, c := range []struct {
		name string
		cred authn.Credentials
		want string
	}{
		{"over its connection", over(bound, mine), "alice"},
		{"over its connection again", over(bound, mine), "alice"},
		{"over another", over(bound, other), "proof_wrong_key"},
		{"without a certificate", bound, "proof_missing"},
		{"with a certificate that has expired", over(bound, expired), "certificate_expired"},
		{"bound to both, with both", over(with("DPoP "+twice, proof()), mine), "alice"},
		{"bound to both, without the certificate", with("DPoP "+twice, proof()), "proof_missing"},
		{"bound to both, without the proof", over(with("DPoP "+twice), mine), "proof_missing"},
		{"bound to both, as Bearer", over(with("Bearer "+twice), mine), "proof_downgraded"},
		{"empty cnf", over(confirmed(map[string]any{}), mine), "confirmation_unknown"},
		{"cnf that is text", over(confirmed(thumb(thumbprint)), mine), "confirmation_unknown"},
		{"cnf that is null", over(confirmed(nil), mine), "confirmation_unknown"},
		{"cnf with a whole key", over(confirmed(map[string]any{"jwk": d.holder.jwk()}), mine), "confirmation_unknown"},
		{"cnf with more than we know", over(confirmed(map[string]any{"x5t#S256": thumb(thumbprint), "kid": "a"}), mine), "confirmation_unknown"},
		{"thumbprint of SHA-1", over(confirmed(map[string]any{"x5t": "x"}), mine), "confirmation_unknown"},
		{"thumbprint that is cut", over(confirmed(map[string]any{"x5t#S256": thumb(thumbprint)[:42]}), mine), "confirmation_unknown"},
		{"thumbprint with padding", over(confirmed(map[string]any{"x5t#S256": thumb(thumbprint) + "="}), mine), "confirmation_unknown"},
		{"thumbprint of zeros without a certificate", confirmed(map[string]any{"x5t#S256": thumb([32]byte{})}), "proof_missing"},
	} {
		if got := d.outcome(c.cred, shop); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// What a route demands is demanded of every token, and told in its challenge.
func TestDemandedProof(t *testing.T) {
	d := newDesk(t, authn.Config{})
	thumbprint := sha256.Sum256([]byte("the certificate"))
	peer := authn.Peer{ID: web, Thumbprint: thumbprint, Expires: d.clock.now().Add(time.Hour)}
	unbound := with("Bearer " + d.token(nil))
	certified := over(with("Bearer "+d.token(jwt.MapClaims{"cnf": map[string]any{"x5t#S256": base64.RawURLEncoding.EncodeToString(thumbprint[:])}})), peer)
	proven := func() authn.Credentials { return with("DPoP "+d.bound, d.proof(nil)) }
	for _, c := range []struct {
		name   string
		cred   authn.Credentials
		demand authn.Proof
		want   string
	}{
		{"unbound where nothing is demanded", unbound, authn.NoProof, "alice"},
		{"unbound", unbound, authn.AnyProof, "proof_missing"},
		{"unbound with a certificate that proves something else", over(unbound, peer), authn.CertificateProof, "proof_missing"},
		{"unbound where a key is demanded", unbound, authn.KeyProof, "proof_missing"},
		{"by certificate", certified, authn.AnyProof, "alice"},
		{"by certificate where one is demanded", certified, authn.CertificateProof, "alice"},
		{"by certificate where a key is demanded", certified, authn.KeyProof, "proof_missing"},
		{"by key", proven(), authn.AnyProof, "alice"},
		{"by key where one is demanded", proven(), authn.KeyProof, "alice"},
		{"by key where a certificate is demanded", proven(), authn.CertificateProof, "proof_missing"},
		{"by key where nobody knows what is demanded", proven(), authn.AnyProof + 1, "proof_missing"},
	} {
		if got := d.outcome(c.cred, demanding(c.demand)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	const algs = `, algs="ES256 EdDSA PS256 RS256"`
	const binding = `, error="invalid_token", error_description="The access token has to be bound to its sender"`
	for _, c := range []struct {
		name   string
		cred   authn.Credentials
		demand authn.Proof
		want   string
	}{
		{"nothing", authn.Credentials{}, authn.NoProof, plain},
		{"nothing where a key is demanded", authn.Credentials{}, authn.KeyProof, `DPoP realm="sallyport"` + algs},
		{"nothing where any proof is", authn.Credentials{}, authn.AnyProof, plain + `, DPoP realm="sallyport"` + algs},
		{"unbound where a key is demanded", unbound, authn.KeyProof, `DPoP realm="sallyport"` + binding + algs},
		{"unbound where any proof is", unbound, authn.AnyProof, plain + binding + `, DPoP realm="sallyport"` + algs},
		{"unbound where a certificate is", unbound, authn.CertificateProof, plain + binding},
		{"downgraded", with("Bearer " + d.bound), authn.NoProof, `DPoP realm="sallyport", error="invalid_token", error_description="The access token is not valid here"` + algs},
		{"no proof", with("DPoP " + d.bound), authn.NoProof, `DPoP realm="sallyport", error="invalid_dpop_proof", error_description="The DPoP proof is not valid here"` + algs},
		{"bad token as DPoP", with("DPoP rubbish"), authn.NoProof, `DPoP realm="sallyport", error="invalid_token", error_description="The access token is not valid here"` + algs},
	} {
		_, denial := d.Authenticate(t.Context(), c.cred, demanding(c.demand), d.clock.now())
		if denial == nil || denial.Status != unauthorized || denial.Challenge != c.want || denial.Nonce != "" {
			t.Errorf("%s: %+v, want %s", c.name, denial, c.want)
		}
	}
}

// Where a nonce is asked for, a proof needs one that was given out in the last
// minutes, by this process.
func TestNonces(t *testing.T) {
	d := newDesk(t, authn.Config{})
	accept := shop
	accept.Nonce = true
	supplied := "" // with what was let through
	ask := func(nonce any) *authn.Denial {
		claims := jwt.MapClaims{}
		if nonce != nil {
			claims["nonce"] = nonce
		}
		c := with("DPoP "+d.bound, d.proof(claims))
		supplied, c.Supply = "", func(nonce string) { supplied = nonce }
		_, denial := d.Authenticate(t.Context(), c, accept, d.clock.now())
		return denial
	}
	first := ask(nil)
	if first == nil || first.Reason != "proof_nonce" || first.Status != unauthorized || first.Nonce == "" || !strings.Contains(first.Challenge, `error="use_dpop_nonce"`) {
		t.Fatalf("without a nonce: %+v", first)
	}
	if denial := ask(first.Nonce); denial != nil || supplied != "" {
		t.Errorf("with the nonce: %+v, and another, %q", denial, supplied)
	}
	if denial := ask(newDesk(t, authn.Config{}).nonce(t)); denial == nil || denial.Reason != "proof_nonce" {
		t.Errorf("with the nonce of another process: %+v", denial)
	}
	d.clock.advance(5 * time.Minute)
	if denial := ask(first.Nonce); denial != nil || supplied == "" || supplied == first.Nonce {
		t.Errorf("with the nonce before: %+v, and another, %q", denial, supplied)
	}
	second := supplied
	if denial := ask(second); denial != nil || supplied != "" {
		t.Errorf("with the nonce that came with an answer: %+v, and another, %q", denial, supplied)
	}
	d.clock.advance(5 * time.Minute)
	if denial := ask(first.Nonce); denial == nil || denial.Nonce == first.Nonce || supplied != "" {
		t.Errorf("with an old nonce: %+v, and another, %q", denial, supplied)
	}
	if denial := ask(second); denial != nil {
		t.Errorf("a client that took the second has to ask twice: %+v", denial)
	}
}

// nonce is one that the desk gives out.
func (d *desk) nonce(t *testing.T) string {
	t.Helper()
	accept := shop
	accept.Nonce = true
	_, denial := d.Authenticate(t.Context(), with("DPoP "+d.bound, d.proof(nil)), accept, d.clock.now())
	return denial.Nonce
}

// A proof is not taken twice for as long as it is fresh; who makes very many
// spoils it for themselves alone.
func TestReplays(t *testing.T) {
	d := newDesk(t, authn.Config{ProofEntries: 16})
	busy, early := d.holder, d.proof(nil)
	ask := func(proof string) string { return d.outcome(with("DPoP "+d.bound, proof), shop) }
	expect(t, "the first", ask(early), "alice")
	for range 7 {
		expect(t, "as many as there is room for", ask(d.proof(nil)), "alice")
	}
	for range 3 {
		expect(t, "more", ask(d.proof(nil)), "proof_cache_full")
	}
	expect(t, "the first again", ask(early), "proof_replayed")
	expect(t, "refused", d.metric(`sallyport_authentication_denials_total{reason="proof_cache_full"}`), "3")
	expect(t, "remembered", d.metric("sallyport_dpop_proofs_remembered"), "8")

	bound := d.bound
	for n := range 3 { // who have not asked yet
		d.holder = newHolder(t)
		d.bound = d.token(jwt.MapClaims{"cnf": map[string]any{"jkt": d.holder.jkt()}})
		expect(t, fmt.Sprint("somebody else ", n), ask(d.proof(nil)), "alice")
	}
	d.holder, d.bound = busy, bound
	expect(t, "more of the same, still", ask(d.proof(nil)), "proof_cache_full")

	d.clock.advance(60 * time.Second)
	expect(t, "the first, at its last moment", ask(early), "proof_replayed")
	d.clock.advance(time.Second)
	expect(t, "the first, too late", ask(early), "proof_not_fresh")
	expect(t, "a new one, in room that time has made", ask(d.proof(nil)), "alice")
	expect(t, "remembered", d.metric("sallyport_dpop_proofs_remembered"), "1")

	fresh := d.proof(nil)
	d.clock.advance(-time.Second)
	expect(t, "the first, with the clock set back", ask(early), "proof_not_fresh")
	expect(t, "a new one, with the clock set back", ask(fresh), "alice")
}

// Proofs of RFC 9449 §7.1, against the request that they are for.
func TestProofOfRFC9449(t *testing.T) {
	const (
		raw   = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
		proof = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
		jkt   = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
	)
	key, _ := token.ParseThumbprint(jkt)
	now := time.Unix(1562262618, 0)
	request := authn.Credentials{Method: "GET", Host: "resource.example.org", Path: "/protectedresource", Authority: "resource.example.org"}
	cases := []struct {
		name   string
		change func(*authn.Credentials) (raw string, now time.Time)
		want   authn.Reason
	}{
		{"as in the RFC", func(*authn.Credentials) (string, time.Time) { return raw, now }, ""},
		{"another method", func(c *authn.Credentials) (string, time.Time) { c.Method = "POST"; return raw, now }, "proof_wrong_request"},
		{"another host", func(c *authn.Credentials) (string, time.Time) { c.Host = "server.example.com"; return raw, now }, "proof_wrong_request"},
		{"another path", func(c *authn.Credentials) (string, time.Time) { c.Path = "/other"; return raw, now }, "proof_wrong_request"},
		{"another token", func(*authn.Credentials) (string, time.Time) { return raw + "x", now }, "proof_wrong_token"},
		{"later", func(*authn.Credentials) (string, time.Time) { return raw, now.Add(time.Hour) }, "proof_not_fresh"},
	}
	for _, c := range cases {
		r := request
		r.Header = map[string][]string{"Dpop": {proof}}
		raw, now := c.change(&r)
		if got := authn.CheckProof(r, raw, key, now); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	t.Logf("%d cases of RFC 9449", len(cases))
}
