package token_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/token"
)

// A key verifies what it can make and its issuer says that it makes, if the
// rules take it.
func TestAlgorithms(t *testing.T) {
	p384, p521 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)), must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	private := map[string]any{"ec": keys.ec, "p384": p384, "p521": p521, "rsa": keys.rsa, "pinned": keys.rsa, "ed": keys.ed}
	set := must(token.ParseKeySet([]byte(`{"keys":[` + strings.Join([]string{
		jwk(&keys.ec.PublicKey, `"kid":"ec"`), jwk(&p384.PublicKey, `"kid":"p384"`), jwk(&p521.PublicKey, `"kid":"p521"`),
		jwk(&keys.rsa.PublicKey, `"kid":"rsa"`), jwk(&keys.rsa.PublicKey, `"kid":"pinned"`, `"alg":"PS384"`), jwk(keys.ed.Public(), `"kid":"ed"`),
	}, ",") + `]}`)))
	good := map[string]string{
		"ec": "ES256", "p384": "ES384", "p521": "ES512", "ed": "EdDSA", "pinned": "PS384",
		"rsa": "RS256 RS384 RS512 PS256 PS384 PS512",
	}
	usual := map[token.Algorithm]bool{"ES256": true, "RS256": true, "EdDSA": true, "PS256": true}
	for kid, key := range private {
		for _, alg := range everyAlgorithm {
			raw, signed := signedAs(alg, kid, key)
			if !signed {
				raw = es256(fmt.Sprintf(`{"alg":%q,"kid":%q}`, alg, kid), claims)
			}
			taken := strings.Contains(good[kid], string(alg))
			for _, of := range []struct {
				listed []token.Algorithm
				lets   bool
			}{
				{everyAlgorithm, taken}, {[]token.Algorithm{alg}, taken}, {nil, taken && usual[alg]}, {[]token.Algorithm{"HS256", "none"}, false},
			} {
				r := rules
				r.Algorithms = of.listed
				_, err := token.Verify(raw, r, set, now)
				if want := (map[bool]token.Reason{false: token.WrongAlgorithm})[of.lets]; reasonOf(t, err) != want {
					t.Errorf("%s with key %s and rules of %v: %v, want %q", alg, kid, of.listed, err, want)
				}
			}
		}
	}
}

// signedAs signs the usual claims, if the key can.
func signedAs(alg token.Algorithm, kid string, key any) (raw string, ok bool) {
	method := jwt.GetSigningMethod(string(alg))
	signed := b64(fmt.Appendf(nil, `{"alg":%q,"kid":%q}`, alg, kid)) + "." + b64([]byte(claims))
	sig, err := method.Sign(signed, key)
	return signed + "." + b64(sig), err == nil
}

// RFC 7518 §3.5 fixes the length of the salt.
func TestPSSSalt(t *testing.T) {
	signed := b64([]byte(`{"alg":"PS256","kid":"rsa"}`)) + "." + b64([]byte(claims))
	digest := crypto.SHA256.New()
	digest.Write([]byte(signed))
	of := func(salt int) string {
		return signed + "." + b64(must(rsa.SignPSS(rand.Reader, keys.rsa, crypto.SHA256, digest.Sum(nil), &rsa.PSSOptions{SaltLength: salt})))
	}
	run(t, rules, []check{
		accept("salt of 32 octets", of(32)),
		refuse("no salt", of(0), token.BadSignature),
		refuse("salt of 31 octets", of(31), token.BadSignature),
		refuse("as much as there is room for", of(rsa.PSSSaltLengthAuto), token.BadSignature),
	})
}
