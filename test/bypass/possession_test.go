package bypass_test

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/apikey"
)

// proof is a DPoP proof (RFC 9449, section 4.2) for GET /token/7, with changes.
func (k *keys) proof(w *world, token string, header, claims object) string {
	sum := sha256.Sum256([]byte(token))
	public := k.publicEC("")
	all := object{"typ": "dpop+jwt", "alg": "ES256", "jwk": object{"kty": "EC", "crv": "P-256", "x": public["x"], "y": public["y"]}}
	says := object{
		"jti": fmt.Sprint(time.Now().UnixNano()), "htm": "GET", "htu": w.proxy.URL + "/token/7",
		"iat": time.Now().Unix(), "ath": b64(sum[:]),
	}
	return jws(changed(all, header), changed(says, claims), k.es256)
}

// thumbprint is the key's (RFC 7638).
func (k *keys) thumbprint() string {
	public := k.publicEC("")
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":%q,"y":%q}`, public["x"], public["y"]))
	return b64(sum[:])
}

// bound sends a token with the scheme and proofs.
func bound(scheme, token string, proofs ...string) request {
	r := request{path: "/token/7", header: []string{"Authorization: " + scheme + " " + token}}
	for _, proof := range proofs {
		r.header = append(r.header, "DPoP: "+proof)
	}
	return r
}

// proofs are tricks with tokens that are bound to a key.
func (w *world) proofs(t *testing.T) []trick {
	client, thief := newKeys(t), newKeys(t)
	token := w.idp.token(object{"cnf": object{"jkt": client.thumbprint()}})
	other := w.idp.token(object{"cnf": object{"jkt": client.thumbprint()}, "jti": "other"})
	unbound := w.idp.token(nil)
	good := func() request { return bound("DPoP", token, client.proof(w, token, nil, nil)) }
	says := func(name, reason string, header, claims object) trick {
		return trick{
			name, bound("DPoP", token, client.proof(w, token, header, claims)), "401 proof_" + reason, good(),
		}
	}
	private := client.publicEC("")
	private["d"] = b64(make([]byte, 32))
	used := bound("DPoP", token, client.proof(w, token, nil, nil))
	if got := w.outcome(t, used); got != "200" {
		t.Errorf("a proof, the first time: %s", got)
	}
	return []trick{
		{"replayed", used, "401 proof_replayed", good()},
		says("for another method", "wrong_request", nil, object{"htm": "POST"}),
		says("for a method in other case", "wrong_request", nil, object{"htm": "get"}),
		says("for another path", "wrong_request", nil, object{"htu": w.proxy.URL + "/token/8"}),
		says("for a path that only leads there", "wrong_request", nil, object{"htu": w.proxy.URL + "/token/x/../7"}),
		says("for another host", "wrong_request", nil, object{"htu": "https://evil.example/token/7"}),
		says("for another port", "wrong_request", nil, object{"htu": "https://127.0.0.1:1/token/7"}),
		says("for plain HTTP", "wrong_request", nil, object{"htu": strings.Replace(w.proxy.URL, "https:", "http:", 1) + "/token/7"}),
		says("for another token", "wrong_token", nil, object{"ath": b64(make([]byte, 32))}),
		says("for no token", "wrong_token", nil, object{"ath": nil}),
		says("of two minutes ago", "not_fresh", nil, object{"iat": time.Now().Add(-2 * time.Minute).Unix()}),
		says("of the future", "not_fresh", nil, object{"iat": time.Now().Add(time.Minute).Unix()}),
		says("of no time", "malformed", nil, object{"iat": nil}),
		says("without an identifier", "malformed", nil, object{"jti": nil}),
		says("of another type", "malformed", object{"typ": "JWT"}, nil),
		says("without an algorithm", "malformed", object{"alg": "none"}, nil),
		says("by HMAC", "malformed", object{"alg": "HS256"}, nil),
		says("with a private key in it", "malformed", object{"jwk": private}, nil),
		says("with a symmetric key in it", "malformed", object{"jwk": object{"kty": "oct", "k": "c2VjcmV0"}}, nil),
		says("without a key in it", "malformed", object{"jwk": nil}, nil),
		says("with the key of another in it", "bad_signature", object{"jwk": thief.publicEC("")}, nil),
		{"by the thief's key", bound("DPoP", token, thief.proof(w, token, nil, nil)), "401 proof_wrong_key", good()},
		{"proofs of both", bound("DPoP", token, thief.proof(w, token, nil, nil), client.proof(w, token, nil, nil)), "400 header_duplicate", good()},
		{"none", bound("DPoP", token), "401 proof_missing", good()},
		{"the scheme of those that need none", bound("Bearer", token, client.proof(w, token, nil, nil)), "401 proof_downgraded", good()},
		{"a token that is bound to nobody", bound("DPoP", unbound, client.proof(w, unbound, nil, nil)), "401 proof_unbound", bearer(unbound)},
		{
			"the proof of one token with another", bound("DPoP", other, client.proof(w, token, nil, nil)), "401 proof_wrong_token",
			bound("DPoP", other, client.proof(w, other, nil, nil)),
		},
		{"a binding that nobody understands", bearer(w.idp.token(object{"cnf": object{"kid": "x"}})), "401 confirmation_unknown", bearer(unbound)},
		{"a binding that is empty", bearer(w.idp.token(object{"cnf": object{}})), "401 confirmation_unknown", bearer(unbound)},
	}
}

// boundToCertificates are tricks with tokens that are bound to a certificate
// (RFC 8705).
func (w *world) boundToCertificates(t *testing.T) []trick {
	a := w.partner(t)
	mine, thiefs := a.leaf(nil), a.leaf(nil)
	sum := sha256.Sum256(mine.Certificate[0])
	token := w.idp.token(object{"cnf": object{"x5t#S256": b64(sum[:])}})
	sends := func(token string, over *tls.Certificate) request {
		r := bearer(token)
		r.client = over
		return r
	}
	good := sends(token, mine)
	return []trick{
		{"over the connection of another", sends(token, thiefs), "401 proof_wrong_key", good},
		{"over a connection without a certificate", sends(token, nil), "401 proof_missing", good},
		{"its certificate in a header", request{path: "/token/7", header: []string{
			"Authorization: Bearer " + token, "Client-Cert: :" + b64(mine.Certificate[0]) + ":", "X-Forwarded-Client-Cert: Cert=" + b64(mine.Certificate[0]),
		}}, "401 proof_missing", good},
		{"a thumbprint in hexadecimal", sends(w.idp.token(object{"cnf": object{"x5t#S256": hex.EncodeToString(sum[:])}}), mine), "401 confirmation_unknown", good},
		{"an empty thumbprint", sends(w.idp.token(object{"cnf": object{"x5t#S256": ""}}), mine), "401 confirmation_unknown", good},
	}
}

// apiKeys are tricks with keys.
func (w *world) apiKeys(t *testing.T) []trick {
	mine, other, expired := apikey.New(), apikey.New(), apikey.New()
	secret := func(k apikey.Key, rest string) string {
		sum := sha256.Sum256([]byte(k.Text))
		return fmt.Sprintf("{id: %s, sha256: %x, createdAt: %q%s}", k.ID, sum, time.Now().Add(-time.Hour).Format(time.RFC3339), rest)
	}
	past := fmt.Sprintf(", notAfter: %q", time.Now().Add(-time.Minute).Format(time.RFC3339))
	w.apply(t, fmt.Sprintf(keyResources, secret(mine, ""), secret(expired, past), secret(other, "")))
	sends := func(values ...string) request {
		r := request{path: "/key/7"}
		for _, v := range values {
			r.header = append(r.header, "X-Api-Key: "+v)
		}
		return r
	}
	good := sends(mine.Text)
	swapped := mine.Text[:strings.LastIndexByte(mine.Text, '_')] + other.Text[strings.LastIndexByte(other.Text, '_'):]
	typo := mine.Text[:len(mine.Text)-1] + map[bool]string{true: "b", false: "a"}[strings.HasSuffix(mine.Text, "a")]
	return []trick{
		{"none", sends(), "401 credentials_missing", good},
		{"of another namespace", sends(other.Text), "401 api_key_invalid", good},
		{"that nobody knows", sends(apikey.New().Text), "401 api_key_invalid", good},
		{"expired", sends(expired.Text), "401 api_key_expired", good},
		{"with one letter changed", sends(typo), "401 api_key_malformed", good},
		{"with the secret of another", sends(swapped), "401 api_key_malformed", good},
		{"in lower case", sends(strings.ToLower(mine.Text)), "401 api_key_malformed", good},
		{"twice", sends(mine.Text, mine.Text), "400 header_duplicate", good},
		{"as a bearer token", request{path: "/key/7", header: []string{"Authorization: Bearer " + mine.Text}}, "401 credentials_missing", good},
		{"in the query", request{path: "/key/7?api_key=" + mine.Text}, "401 credentials_missing", good},
	}
}

const keyResources = `apiVersion: sallyport/v1
kind: ApiKey
metadata: {namespace: bypass, name: mine}
spec: {secrets: [%s, %s]}
---
apiVersion: sallyport/v1
kind: ApiKey
metadata: {namespace: elsewhere, name: other}
spec: {secrets: [%s]}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: bypass, name: key}
spec:
  hosts: [localhost, 127.0.0.1]
  paths: [/key/**]
  upstream: echo
  authentication: {apiKeys: true}
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: bypass, name: key}
spec:
  routes: {names: [key]}
  effect: ALLOW
  principals: [{key: mine}]
`

// What is revoked is refused at once: on a connection that is open already, with
// a token that was just verified, and nobody else's.
func (w *world) revoked(t *testing.T) {
	a := w.partner(t)
	certificate := a.leaf(nil)
	one, two := w.idp.token(object{"jti": "one"}), w.idp.token(object{"jti": "two"})
	open, err := w.dial(t, certificate)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	ask := func(when string, r request, want int) {
		t.Helper()
		if got, err := w.send(open, r); err != nil || got.status != want {
			t.Errorf("%s: %d %s, %v; want %d", when, got.status, got.body, err, want)
		}
	}
	workload := request{path: "/workload/7"}
	ask("before", bearer(one), 200)
	ask("before", bearer(two), 200)
	ask("before", workload, 200)
	w.revoke(t, fmt.Sprintf("token: {issuer: %q, id: one}", w.idp.issuer))
	ask("the token", bearer(one), 401)
	ask("another token of the same subject", bearer(two), 200)
	ask("the workload", workload, 200)
	w.revoke(t, fmt.Sprintf("spiffeId: %q", billing))
	ask("the workload, over the connection from before", workload, 401)
	ask("a token over the same connection", bearer(two), 200)
	w.revoke(t, fmt.Sprintf("subject: {issuer: %q, id: alice}, issuedBefore: %q", w.idp.issuer, time.Now().Add(2*time.Second).Format(time.RFC3339)))
	ask("all tokens of the subject until now", bearer(two), 401)
	ask("the same subject of another issuer", bearer(w.other.token(object{"sub": "bob"})), 200)
	ask("a token from after that", bearer(w.idp.token(object{"iat": time.Now().Add(5 * time.Second).Unix()})), 200)
}

func (w *world) revoke(t *testing.T, spec string) {
	t.Helper()
	name := fmt.Sprintf("r%d", time.Now().UnixNano())
	sequence, err := w.Admin.Revoke(t.Context(), "apiVersion: sallyport/v1\nkind: Revocation\nmetadata: {name: "+name+"}\nspec: {"+spec+"}\n", "bypass")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Admin.Revoked(t.Context(), sequence, w.Environments()...); err != nil {
		t.Fatal(err)
	}
}
