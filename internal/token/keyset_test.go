package token_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/token"
)

// weakModulus is 1024 bits of ones: odd, and far too short.
var weakModulus = strings.Repeat("_", 170) + "8"

func TestParseKeySet(t *testing.T) {
	ec := func(members ...string) string { return jwk(&keys.ec.PublicKey, members...) }
	good := ec(`"kid":"good"`)
	set := func(entries ...string) string { return `{"keys":[` + strings.Join(entries, ",") + `]}` }
	many := func(n int) string {
		entries := make([]string, n)
		for i := range entries {
			entries[i] = ec(fmt.Sprintf(`"kid":"k%d"`, i))
		}
		return set(entries...)
	}
	p384, p521 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)), must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	n, e := b64(keys.rsa.N.Bytes()), "AQAB"
	rsaKey := func(n, e string) string { return fmt.Sprintf(`{"kty":"RSA","kid":"r","n":%q,"e":%q}`, n, e) }
	big := &rsa.PublicKey{N: keys.rsa.N, E: 3}

	const refused = -1
	for _, c := range []struct {
		name          string
		document      string
		keys, ignored int
	}{
		{"three kinds", keys.document, 3, 0},
		{"more members beside keys", `{"issuer":"x",` + set(good)[1:], 1, 0},
		{"use sig", set(ec(`"kid":"a"`, `"use":"sig"`)), 1, 0},
		{"use enc is left out", set(good, ec(`"kid":"a"`, `"use":"enc"`)), 1, 1},
		{"use a number is left out", set(good, ec(`"kid":"a"`, `"use":1`)), 1, 1},
		{"key_ops verify", set(ec(`"kid":"a"`, `"key_ops":["verify"]`)), 1, 0},
		{"key_ops without verify is left out", set(good, ec(`"kid":"a"`, `"key_ops":["encrypt"]`)), 1, 1},
		{"alg agrees", set(ec(`"kid":"a"`, `"alg":"ES256"`)), 1, 0},
		{"alg of another kind is left out", set(good, ec(`"kid":"a"`, `"alg":"RS256"`)), 1, 1},
		{"alg unknown is left out", set(good, ec(`"kid":"a"`, `"alg":"ES999"`)), 1, 1},
		{"alg not for the type is left out", set(good, jwk(&keys.rsa.PublicKey, `"kid":"a"`, `"alg":"EdDSA"`)), 1, 1},
		{"alg of another curve is left out", set(good, ec(`"kid":"a"`, `"alg":"ES384"`)), 1, 1},
		{"alg a number is left out", set(good, ec(`"kid":"a"`, `"alg":256`)), 1, 1},
		{"alg empty is left out", set(good, ec(`"kid":"a"`, `"alg":""`)), 1, 1},
		{"alg of encryption is left out", set(good, jwk(&keys.rsa.PublicKey, `"kid":"a"`, `"alg":"RSA-OAEP"`)), 1, 1},
		{"RSA for PSS", set(good, jwk(&keys.rsa.PublicKey, `"kid":"a"`, `"alg":"PS256"`)), 2, 0},
		{"kty unknown is left out", set(good, `{"kty":"AKP","kid":"a","pub":"x"}`), 1, 1},
		{"kty missing is left out", set(good, `{"kid":"a"}`), 1, 1},
		{"P-384", set(jwk(&p384.PublicKey, `"kid":"a"`)), 1, 0},
		{"P-521", set(jwk(&p521.PublicKey, `"kid":"a"`, `"alg":"ES512"`)), 1, 0},
		{"P-384 said to be P-521 is left out", set(good, strings.Replace(jwk(&p384.PublicKey, `"kid":"a"`), "P-384", "P-521", 1)), 1, 1},
		{"secp256k1 is left out", set(good, strings.Replace(ec(`"kid":"a"`), "P-256", "secp256k1", 1)), 1, 1},
		{"curve missing is left out", set(good, strings.Replace(ec(`"kid":"a"`), `"crv":"P-256",`, "", 1)), 1, 1},
		{"X25519 is left out", set(good, `{"kty":"OKP","crv":"X25519","kid":"a","x":"`+b64(make([]byte, 32))+`"}`), 1, 1},
		{"no kid is left out", set(good, ec()), 1, 1},
		{"two without kid are left out", set(good, ec(), ec()), 1, 2},
		{"kid too long is left out", set(good, ec(`"kid":"`+strings.Repeat("k", 257)+`"`)), 1, 1},
		{"certificate beside the key is not read", set(ec(`"kid":"a"`, `"x5u":"http://127.0.0.1:1/"`, `"x5c":["rubbish"]`)), 1, 0},

		{"RSA 2048", set(rsaKey(n, e)), 1, 0},
		{"RSA with exponent 3", set(jwk(big, `"kid":"a"`)), 1, 0},
		{"RSA 1024 is left out", set(good, rsaKey(weakModulus, e)), 1, 1},
		{"RSA 16384 is left out", set(good, rsaKey(b64(fullBytes(2048)), e)), 1, 1},
		{"RSA even modulus is left out", set(good, rsaKey(b64(append(fullBytes(255), 0xfe)), e)), 1, 1},
		{"RSA exponent 1 is left out", set(good, rsaKey(n, "AQ")), 1, 1},
		{"RSA even exponent is left out", set(good, rsaKey(n, "AQAA")), 1, 1},
		// 2^64+65537, which a reader with 64 bits takes for 65537.
		{"RSA exponent that wraps is left out", set(good, rsaKey(n, b64(must(hex.DecodeString("010000000000010001"))))), 1, 1},
		{"RSA modulus padded is left out", set(good, rsaKey(n+"==", e)), 1, 1},
		{"RSA modulus missing is left out", set(good, `{"kty":"RSA","kid":"r","e":"AQAB"}`), 1, 1},
		{"EC point off the curve is left out", set(good, strings.Replace(ec(`"kid":"a"`), `"x":"`, `"x":"AAAA`, 1)), 1, 1},
		{"EC zero point is left out", set(good, `{"kty":"EC","crv":"P-256","kid":"a","x":"`+b64(make([]byte, 32))+`","y":"`+b64(make([]byte, 32))+`"}`), 1, 1},
		{"Ed25519 short is left out", set(good, `{"kty":"OKP","crv":"Ed25519","kid":"a","x":"`+b64(make([]byte, 31))+`"}`), 1, 1},

		{"64 keys", many(64), 64, 0},
		{"65 keys", many(65), refused, 0},
		{"padded to the limit", set(good) + strings.Repeat(" ", token.MaxKeySetSize-len(set(good))), 1, 0},
		{"beyond the limit", set(good) + strings.Repeat(" ", token.MaxKeySetSize-len(set(good))+1), refused, 0},
		{"kid twice", set(good, ec(`"kid":"a"`), jwk(&keys.rsa.PublicKey, `"kid":"a"`)), refused, 0},
		{"kid twice, once on a key that is left out", set(good, ec(`"kid":"good"`, `"use":"enc"`)), refused, 0},
		{"member twice", set(good, ec(`"kid":"a"`, `"kid":"b"`)), refused, 0},
		{"symmetric", set(good, `{"kty":"oct","kid":"a","k":"c2VjcmV0"}`), refused, 0},
		{"symmetric without its key", set(good, `{"kty":"oct","kid":"a"}`), refused, 0},
		{"private EC", set(good, ec(`"kid":"a"`, `"d":"AAAA"`)), refused, 0},
		{"private RSA prime", set(good, jwk(&keys.rsa.PublicKey, `"kid":"a"`, `"p":"AAAA"`)), refused, 0},
		{"entry not an object", set(good, `"x"`), refused, 0},
		{"no key at all", set(), refused, 0},
		{"no usable key", set(ec()), refused, 0},
		{"keys an object", `{"keys":{}}`, refused, 0},
		{"keys missing", `{}`, refused, 0},
		{"a single JWK", good, refused, 0},
		{"an array", `[` + good + `]`, refused, 0},
		{"a page", `<!doctype html><title>Sign in</title>`, refused, 0},
		{"nothing", ``, refused, 0},
		{"two documents", set(good) + set(good), refused, 0},
	} {
		got, err := token.ParseKeySet([]byte(c.document))
		switch {
		case c.keys == refused && (err == nil || got != nil):
			t.Errorf("%s: accepted %d keys", c.name, got.Len())
		case c.keys != refused && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.keys != refused && (got.Len() != c.keys || got.Ignored() != c.ignored):
			t.Errorf("%s: %d keys, %d ignored; want %d and %d", c.name, got.Len(), got.Ignored(), c.keys, c.ignored)
		}
	}
}

func fullBytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 0xff
	}
	return b
}

func TestKeySetEqual(t *testing.T) {
	a, b := jwk(&keys.ec.PublicKey, `"kid":"a"`), jwk(&keys.rsa.PublicKey, `"kid":"b"`)
	swapped := jwk(&keys.other.PublicKey, `"kid":"a"`)
	parse := func(entries ...string) *token.KeySet {
		return must(token.ParseKeySet([]byte(`{"keys":[` + strings.Join(entries, ",") + `]}`)))
	}
	both := parse(a, b)
	for _, c := range []struct {
		name  string
		other *token.KeySet
		equal bool
	}{
		{"same", parse(a, b), true},
		{"other order", parse(b, a), true},
		{"an ignored key more", parse(a, b, `{"kty":"AKP"}`), true},
		{"one removed", parse(a), false},
		{"other key under the same kid", parse(swapped, b), false},
		{"alg pinned", parse(a, strings.Replace(b, `"kid"`, `"alg":"RS256","kid"`, 1)), false},
		{"other kid", parse(jwk(&keys.ec.PublicKey, `"kid":"c"`), b), false},
		{"none", nil, false},
	} {
		if both.Equal(c.other) != c.equal || c.other.Equal(both) != c.equal {
			t.Errorf("%s: equal is not %v", c.name, c.equal)
		}
	}
	if !both.Has("a") || both.Has("A") || (*token.KeySet)(nil).Has("a") {
		t.Error("Has is wrong")
	}
}

func FuzzParseKeySet(f *testing.F) {
	f.Add([]byte(keys.document))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AA"},{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"x"}]}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		s, err := token.ParseKeySet(document)
		if (err == nil) != (s.Len() > 0) {
			t.Fatalf("error %v with %d keys", err, s.Len())
		}
	})
}
