package gateway_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// holder is a client with a key, to which its tokens are bound.
type holder struct {
	key  *ecdsa.PrivateKey
	made int
}

func (w *world) holder() *holder {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	return &holder{key: key}
}

func (h *holder) xy() (x, y string) {
	point, err := h.key.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	return b64(point[1:33]), b64(point[33:])
}

// cnf is the confirmation of a token that is bound to the key.
func (h *holder) cnf() map[string]any {
	x, y := h.xy()
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":"%s","y":"%s"}`, x, y))
	return map[string]any{"jkt": b64(sum[:])}
}

// proof is a new one for GET https://api.shop.example/v1/orders and a token,
// with claims put over it.
func (h *holder) proof(raw string, claims jwt.MapClaims) string {
	h.made++
	sum := sha256.Sum256([]byte(raw))
	all := jwt.MapClaims{
		"jti": fmt.Sprint(h.made), "htm": "GET", "htu": "https://api.shop.example/v1/orders",
		"iat": time.Now().Unix(), "ath": b64(sum[:]),
	}
	maps.Copy(all, claims)
	t := jwt.NewWithClaims(jwt.SigningMethodES256, all)
	x, y := h.xy()
	t.Header["typ"], t.Header["jwk"] = "dpop+jwt", map[string]any{"kty": "EC", "crv": "P-256", "x": x, "y": y}
	proof, err := t.SignedString(h.key)
	if err != nil {
		panic(err)
	}
	return proof
}

// get asks for /v1/orders with these fields and says how it ended: with the
// status, and the reason unless it was let through.
func (w *world) get(c *http.Client, fields ...string) (string, *http.Response) {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "https://"+host+"/v1/orders", nil)
	w.must(err)
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		r.Header.Add(name, value)
	}
	res, err := c.Do(r)
	w.must(err)
	body := w.read(res)
	if res.StatusCode == http.StatusOK {
		return "200 " + body, res
	}
	return fmt.Sprint(res.StatusCode, " ", w.problem(body).Reason), res
}

// demanding is the usual route with more in its authentication.
func (w *world) demanding(upstream, more string) string {
	const usual = "authentication: {identityProviders: [login], clientCertificates: true"
	return strings.Replace(w.usual(upstream), usual, usual+", "+more, 1)
}

// A stolen token is of no use without the key or the certificate that it is
// bound to, over either protocol.
func TestSenderConstrainedTokens(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.usual(plaintext(up.address())))
	h := w.holder()
	byKey := w.tokens.sign(jwt.MapClaims{"cnf": h.cnf()})
	mine := w.as(w.tls(host), "spiffe://prod.example/ns/shop/web")
	thieves := w.as(w.tls(host), "spiffe://prod.example/ns/shop/web") // the same name, another certificate
	sum := sha256.Sum256(mine.Certificates[0].Certificate[0])
	byCertificate := w.tokens.sign(jwt.MapClaims{"cnf": map[string]any{"x5t#S256": b64(sum[:])}})
	used := h.proof(byKey, nil)
	for _, http2 := range []bool{false, true} {
		anybody := w.client(http2, w.tls(host))
		for _, c := range []struct {
			name   string
			tls    *tls.Config // nil: no certificate
			fields []string
			want   string
		}{
			{"by key", nil, []string{"Authorization: DPoP " + byKey, "DPoP: " + h.proof(byKey, nil)}, "200"},
			{"by key, as Bearer", nil, []string{"Authorization: Bearer " + byKey}, "401 proof_downgraded"},
			{"by key, without proof", nil, []string{"Authorization: DPoP " + byKey}, "401 proof_missing"},
			{"by key, proof for another path", nil, []string{"Authorization: DPoP " + byKey, "DPoP: " + h.proof(byKey, jwt.MapClaims{"htu": "https://api.shop.example/v1/other"})}, "401 proof_wrong_request"},
			{"by key, two proofs", nil, []string{"Authorization: DPoP " + byKey, "DPoP: " + h.proof(byKey, nil), "DPoP: " + h.proof(byKey, nil)}, "400 header_duplicate"},
			{"unbound, as DPoP", nil, []string{"Authorization: DPoP " + w.tokens.sign(nil), "DPoP: " + h.proof(byKey, nil)}, "401 proof_unbound"},
			{"by certificate", mine, []string{"Authorization: Bearer " + byCertificate}, "200"},
			{"by certificate, over another connection", thieves, []string{"Authorization: Bearer " + byCertificate}, "401 proof_wrong_key"},
			{"by certificate, without one", nil, []string{"Authorization: Bearer " + byCertificate}, "401 proof_missing"},
		} {
			client := anybody
			if c.tls != nil {
				client = w.client(http2, c.tls.Clone())
			}
			got, res := w.get(client, c.fields...)
			if !strings.HasPrefix(got, c.want) {
				t.Errorf("%s, HTTP/2 %t: %s, want %s", c.name, http2, got, c.want)
			}
			if strings.Contains(got, "Dpop") {
				t.Errorf("%s, HTTP/2 %t: the proof was forwarded:\n%s", c.name, http2, got)
			}
			challenged := res.Header.Get("Www-Authenticate") != ""
			if challenged != (res.StatusCode == http.StatusUnauthorized) {
				t.Errorf("%s, HTTP/2 %t: %d with challenge %q", c.name, http2, res.StatusCode, res.Header.Get("Www-Authenticate"))
			}
		}
		want := "200"
		if http2 {
			want = "401 proof_replayed" // it was used over the other protocol
		}
		if got, _ := w.get(anybody, "Authorization: DPoP "+byKey, "DPoP: "+used); !strings.HasPrefix(got, want) {
			t.Errorf("the same proof over HTTP/2 %t: %s, want %s", http2, got, want)
		}
	}
}

// A route may demand that tokens are bound, and a nonce in each proof.
func TestDemandedProof(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	h := w.holder()
	bound := w.tokens.sign(jwt.MapClaims{"cnf": h.cnf()})
	ask := func(nonce string) (string, *http.Response) {
		claims := jwt.MapClaims{}
		if nonce != "" {
			claims["nonce"] = nonce
		}
		return w.get(w.client(true, w.tls(host)), "Authorization: DPoP "+bound, "DPoP: "+h.proof(bound, claims))
	}
	for _, c := range []struct{ demand, bearer, dpop string }{
		{"proof: DPOP", "401 proof_missing", "200"},
		{"proof: ANY", "401 proof_missing", "200"},
		{"proof: CERTIFICATE", "401 proof_missing", "401 proof_missing"},
		{"dpopNonce: true", "200", "401 proof_nonce"},
	} {
		w.apply(w.demanding(plaintext(up.address()), c.demand))
		if got, _ := w.get(w.client(true, w.tls(host)), "Authorization: Bearer "+w.tokens.sign(nil)); !strings.HasPrefix(got, c.bearer) {
			t.Errorf("%s, unbound: %s, want %s", c.demand, got, c.bearer)
		}
		if got, _ := ask(""); !strings.HasPrefix(got, c.dpop) {
			t.Errorf("%s, bound to a key: %s, want %s", c.demand, got, c.dpop)
		}
	}
	_, res := ask("")
	if got, _ := ask(res.Header.Get("DPoP-Nonce")); !strings.HasPrefix(got, "200") {
		t.Errorf("with the nonce that was given: %s", got)
	}
}

// The next nonce comes with an answer of the upstream, before the last is worth
// nothing: a client that takes it is refused once.
func TestNonceWithAnAnswer(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	up.answerWith(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Cache-Control", "max-age=3600") })
	w.apply(w.demanding(plaintext(up.address()), "dpopNonce: true"))
	h := w.holder()
	refused := 0
	nonce := ""
	for range 12 { // half an hour
		bound := w.tokens.sign(jwt.MapClaims{"cnf": h.cnf(), "exp": w.now().Add(time.Minute).Unix()})
		got, res := w.get(w.client(true, w.tls(host)), "Authorization: DPoP "+bound, "DPoP: "+h.proof(bound, jwt.MapClaims{"nonce": nonce, "iat": w.now().Unix()}))
		next := res.Header.Get("DPoP-Nonce")
		if next != "" && res.Header.Get("Cache-Control") != "no-store" || next == "" && res.Header.Get("Cache-Control") != "max-age=3600" {
			t.Errorf("with nonce %q the answer may be kept as %q", next, res.Header.Get("Cache-Control"))
		}
		if next != "" {
			nonce = next
		}
		if !strings.HasPrefix(got, "200") {
			refused++
		}
		w.set(func() { w.ahead += 150 * time.Second })
	}
	if refused != 1 {
		t.Errorf("refused %d times", refused)
	}
}

// A route may demand how, and how recently, its users have signed in.
func TestStepUp(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.demanding(plaintext(up.address()), "stepUp: {acrValues: [gold], amr: [mfa], maxAge: 300s}"))
	signedIn := func(ago time.Duration, acr string, amr ...string) string {
		return "Authorization: Bearer " + w.tokens.sign(jwt.MapClaims{"auth_time": time.Now().Add(-ago).Unix(), "acr": acr, "amr": amr})
	}
	c := w.client(true, w.tls(host))
	for _, tc := range []struct{ name, token, want string }{
		{"as it should be", signedIn(time.Minute, "gold", "pwd", "mfa"), "200"},
		{"too long ago", signedIn(time.Hour, "gold", "mfa"), "401 step_up_required"},
		{"in another class", signedIn(time.Minute, "tin", "mfa"), "401 step_up_required"},
		{"without a method", signedIn(time.Minute, "gold", "pwd"), "401 step_up_required"},
		{"untold", "Authorization: Bearer " + w.tokens.sign(nil), "401 step_up_required"},
	} {
		got, res := w.get(c, tc.token)
		if !strings.HasPrefix(got, tc.want) {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
		want := `Bearer realm="sallyport", error="insufficient_user_authentication", ` +
			`error_description="Another or a more recent sign-in is required", acr_values="gold", max_age="300"`
		if challenge := res.Header.Get("Www-Authenticate"); res.StatusCode != http.StatusOK && challenge != want {
			t.Errorf("%s: challenged with %s", tc.name, challenge)
		}
	}
	workload := w.client(true, w.as(w.tls(host), "spiffe://prod.example/ns/shop/web"))
	if got, _ := w.get(workload); got != "401 step_up_required" {
		t.Errorf("a workload, which never signs in: %s", got)
	}
}
