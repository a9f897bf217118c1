package token_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/token"
)

// The proofs and the thumbprint of RFC 9449.
const (
	proofOfSection4 = `eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg`
	proofOfSection7 = `eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA`
	accessToken7    = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
	jktOfSection6   = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
)

func TestProofsOfRFC9449(t *testing.T) {
	ath := sha256.Sum256([]byte(accessToken7))
	cases := []struct {
		raw  string
		want token.Proof
	}{
		{proofOfSection4, token.Proof{
			ID: "-BwC3ESc6acc2lTc", Method: "POST", URL: "https://server.example.com/token", IssuedAt: time.Unix(1562262616, 0).UTC(),
		}},
		{proofOfSection7, token.Proof{
			ID: "e1j3V_bKic8-LAEB", Method: "GET", URL: "https://resource.example.org/protectedresource",
			IssuedAt: time.Unix(1562262618, 0).UTC(), Token: b64(ath[:]),
		}},
	}
	key, ok := token.ParseThumbprint(jktOfSection6)
	if !ok {
		t.Fatal("the thumbprint of the RFC is none")
	}
	for i, c := range cases {
		c.want.Key = key
		got, err := token.VerifyProof(c.raw)
		if err != nil || *got != c.want {
			t.Errorf("proof %d: %+v, %v; want %+v", i, got, err, c.want)
		}
		if _, err := token.VerifyProof(c.raw[:len(c.raw)-2] + "AA"); reasonOf(t, err) != token.BadSignature {
			t.Errorf("proof %d with another signature: %v", i, err)
		}
	}
	t.Logf("%d proofs of RFC 9449", len(cases))
}

// Thumbprints of RFC 7638 §3.1, RFC 8037 A.3 and RFC 9449 §6.1.
func TestThumbprintsOfRFCs(t *testing.T) {
	cases := []struct{ jwk, want string }{
		{`{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}`,
			"NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"},
		{`{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
			"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"},
		{`{"kty":"EC","x":"l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs","y":"9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA","crv":"P-256"}`,
			jktOfSection6},
	}
	for _, c := range cases {
		var jwk map[string]any
		if err := json.Unmarshal([]byte(c.jwk), &jwk); err != nil {
			t.Fatal(err)
		}
		if got := token.ThumbprintOf(jwk); b64(got[:]) != c.want {
			t.Errorf("%s: %s, want %s", c.jwk, b64(got[:]), c.want)
		}
	}
	t.Logf("%d thumbprints of RFC 7638, RFC 8037 and RFC 9449", len(cases))
}

const proofClaims = `{"jti":"one","htm":"GET","htu":"https://api.example/v1","iat":1000000000}`

func proofHeader(alg string, public crypto.PublicKey, members ...string) string {
	return fmt.Sprintf(`{"typ":"dpop+jwt","alg":%q,"jwk":%s}`, alg, jwk(public, members...))
}

// What is refused, each beside its nearest sibling that is not.
func TestVerifyProof(t *testing.T) {
	small := must(rsa.GenerateKey(rand.Reader, 1024))
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	ec := es256
	good := proofHeader("ES256", &keys.ec.PublicKey)
	head := func(old, replacement string) string {
		return ec(strings.Replace(good, old, replacement, 1), proofClaims)
	}
	claim := func(old, replacement string) string {
		return ec(good, strings.Replace(proofClaims, old, replacement, 1))
	}
	rs := jwt.SigningMethodRS256
	cases := []check{
		accept("as it should be", ec(good, proofClaims)),
		accept("EdDSA", sign(jwt.SigningMethodEdDSA, keys.ed, proofHeader("EdDSA", keys.ed.Public()), proofClaims)),
		accept("RS256", sign(rs, keys.rsa, proofHeader("RS256", &keys.rsa.PublicKey), proofClaims)),
		accept("PS256", sign(jwt.SigningMethodPS256, keys.rsa, proofHeader("PS256", &keys.rsa.PublicKey), proofClaims)),
		accept("with exp, nbf and what is unknown", claim(`"htm"`, `"exp":1000000300,"nbf":1000000000,"x":[1],"htm"`)),
		accept("with a kid", head(`"alg"`, `"kid":"mine","alg"`)),
		accept("with use and alg of the key", ec(proofHeader("ES256", &keys.ec.PublicKey, `"use":"sig"`, `"alg":"ES256"`), proofClaims)),

		refuse("two segments", strings.TrimSuffix(ec(good, proofClaims), ".")[:40], token.Malformed),
		refuse("four segments", ec(good, proofClaims)+".a", token.Malformed),
		refuse("padded", ec(good, proofClaims)+"=", token.Malformed),
		refuse("empty", "", token.Malformed),
		refuse("longer than any", strings.Repeat("a", token.MaxProofSize+1), token.Malformed),
		refuse("a member twice", head(`"alg"`, `"typ":"dpop+jwt","alg"`), token.Malformed),
		refuse("a claim twice", claim(`"htm"`, `"htm":"POST","htm"`), token.Malformed),
		refuse("a member of the key twice", ec(proofHeader("ES256", &keys.ec.PublicKey, `"kty":"EC"`), proofClaims), token.Malformed),

		refuse("typ of an access token", head(`"dpop+jwt"`, `"at+jwt"`), token.WrongType),
		refuse("typ in other letters", head(`"dpop+jwt"`, `"DPoP+JWT"`), token.WrongType),
		refuse("no typ", head(`"typ":"dpop+jwt",`, ``), token.WrongType),

		refuse("alg none", strings.TrimSuffix(head(`"ES256"`, `"none"`), ".x"), token.WrongAlgorithm),
		refuse("HMAC", head(`"ES256"`, `"HS256"`), token.WrongAlgorithm),
		refuse("ES256 by name with an RSA key", sign(rs, keys.rsa, proofHeader("ES256", &keys.rsa.PublicKey), proofClaims), token.WrongAlgorithm),
		refuse("RS512", sign(jwt.SigningMethodRS512, keys.rsa, proofHeader("RS512", &keys.rsa.PublicKey), proofClaims), token.WrongAlgorithm),
		refuse("alg of the key is another", ec(proofHeader("ES256", &keys.ec.PublicKey, `"alg":"ES384"`), proofClaims), token.WrongAlgorithm),
		refuse("no alg", head(`"alg":"ES256",`, ``), token.WrongAlgorithm),

		refuse("no key", ec(`{"typ":"dpop+jwt","alg":"ES256"}`, proofClaims), token.BadHeader),
		refuse("key that is none", ec(`{"typ":"dpop+jwt","alg":"ES256","jwk":"x"}`, proofClaims), token.BadHeader),
		refuse("private key", ec(proofHeader("ES256", &keys.ec.PublicKey, `"d":"AQ"`), proofClaims), token.BadHeader),
		refuse("symmetric key", ec(`{"typ":"dpop+jwt","alg":"HS256","jwk":{"kty":"oct","k":"AQ"}}`, proofClaims), token.BadHeader),
		refuse("key for encryption", ec(proofHeader("ES256", &keys.ec.PublicKey, `"use":"enc"`), proofClaims), token.BadHeader),
		refuse("small RSA key", sign(rs, small, proofHeader("RS256", &small.PublicKey), proofClaims), token.BadHeader),
		refuse("point that is not on the curve", ec(strings.Replace(good, `"y":"`, `"y":"A`, 1), proofClaims), token.BadHeader),
		refuse("crit", head(`"alg"`, `"crit":["exp"],"alg"`), token.BadHeader),
		refuse("jku", head(`"alg"`, `"jku":"https://evil.example","alg"`), token.BadHeader),
		refuse("x5c", head(`"alg"`, `"x5c":[],"alg"`), token.BadHeader),

		refuse("key of somebody else", ec(proofHeader("ES256", &keys.other.PublicKey), proofClaims), token.BadSignature),
		refuse("r and s zero", strings.Join([]string{b64([]byte(good)), b64([]byte(proofClaims)), b64(make([]byte, 64))}, "."), token.BadSignature),
		refuse("no signature", strings.Join([]string{b64([]byte(good)), b64([]byte(proofClaims)), ""}, "."), token.BadSignature),

		refuse("no jti", claim(`"jti":"one",`, ``), token.BadClaim),
		refuse("empty jti", claim(`"one"`, `""`), token.BadClaim),
		refuse("endless jti", claim(`"one"`, `"`+strings.Repeat("a", 257)+`"`), token.BadClaim),
		refuse("no htm", claim(`"htm":"GET",`, ``), token.BadClaim),
		refuse("htu that is no text", claim(`"https://api.example/v1"`, `["https://api.example/v1"]`), token.BadClaim),
		refuse("no iat", claim(`,"iat":1000000000`, ``), token.BadClaim),
		refuse("iat that is text", claim(`1000000000`, `"1000000000"`), token.BadClaim),
		refuse("ath that is no text", claim(`"htm"`, `"ath":7,"htm"`), token.BadClaim),
		refuse("nonce that is no text", claim(`"htm"`, `"nonce":null,"htm"`), token.BadClaim),
	}
	if got, err := token.VerifyProof(sign(jwt.SigningMethodES384, p384, proofHeader("ES384", &p384.PublicKey), proofClaims)); err == nil {
		t.Errorf("ES384: %+v", got)
	}
	for _, c := range cases {
		got, err := token.VerifyProof(c.raw)
		if reason := reasonOf(t, err); reason != c.want || (err == nil) == (got == nil) {
			t.Errorf("%s: reason %q, proof %+v; want reason %q", c.name, reason, got, c.want)
		}
	}
}

// FuzzVerifyProof: whatever is accepted says the same under another JSON reader,
// and is within its bounds.
func FuzzVerifyProof(f *testing.F) {
	f.Add(proofOfSection4)
	f.Add(proofOfSection7)
	f.Add(es256(proofHeader("ES256", &keys.ec.PublicKey), proofClaims))
	f.Add(strings.Repeat("a.", 3))
	f.Fuzz(func(t *testing.T, raw string) {
		p, err := token.VerifyProof(raw)
		if err != nil {
			reasonOf(t, err)
			return
		}
		payload := must(base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1]))
		var claims map[string]any
		if err := json.Unmarshal(payload, &claims); err != nil || claims["jti"] != p.ID || claims["htm"] != p.Method || claims["htu"] != p.URL {
			t.Errorf("%+v of %s, %v", p, payload, err)
		}
		if p.ID == "" || len(raw) > token.MaxProofSize || p.Key == (token.Thumbprint{}) {
			t.Errorf("accepted: %+v", p)
		}
	})
}
