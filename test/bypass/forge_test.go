package bypass_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"testing"
	"time"
)

// keys are those of one identity provider.
type keys struct {
	ec  *ecdsa.PrivateKey // kid "shared"
	rsa *rsa.PrivateKey   // kid "rsa"
	ed  ed25519.PrivateKey
}

func newKeys(t *testing.T) *keys {
	t.Helper()
	k := &keys{}
	var err error
	if k.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if k.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	if _, k.ed, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	return k
}

type object = map[string]any

// set is the JWK set that the provider publishes.
func (k *keys) set() []byte {
	return must(json.Marshal(object{"keys": []any{
		k.publicEC("shared"),
		object{"kty": "RSA", "kid": "rsa", "alg": "RS256", "use": "sig", "n": b64(k.rsa.N.Bytes()), "e": "AQAB"},
		object{"kty": "OKP", "crv": "Ed25519", "kid": "ed", "alg": "EdDSA", "use": "sig", "x": b64(k.ed.Public().(ed25519.PublicKey))},
	}}))
}

func (k *keys) publicEC(kid string) object {
	point := must(k.ec.PublicKey.Bytes()) // 0x04, x, y
	return object{"kty": "EC", "crv": "P-256", "kid": kid, "alg": "ES256", "use": "sig", "x": b64(point[1:33]), "y": b64(point[33:])}
}

// A signer signs the bytes before the last dot of a token.
type signer func(signed []byte) []byte

func (k *keys) es256(signed []byte) []byte {
	sum := sha256.Sum256(signed)
	r, s, err := ecdsa.Sign(rand.Reader, k.ec, sum[:])
	if err != nil {
		panic(err)
	}
	return pair(r, s)
}

func (k *keys) rs256(signed []byte) []byte {
	sum := sha256.Sum256(signed)
	return must(rsa.SignPKCS1v15(rand.Reader, k.rsa, crypto.SHA256, sum[:]))
}

func (k *keys) eddsa(signed []byte) []byte { return ed25519.Sign(k.ed, signed) }

// pair is the form of an ES256 signature (RFC 7518, section 3.4).
func pair(r, s *big.Int) []byte {
	b := make([]byte, 64)
	r.FillBytes(b[:32])
	s.FillBytes(b[32:])
	return b
}

func hs256(secret []byte) signer {
	return func(signed []byte) []byte {
		mac := hmac.New(sha256.New, secret)
		mac.Write(signed)
		return mac.Sum(nil)
	}
}

func fixed(signature []byte) signer { return func([]byte) []byte { return signature } }

// claims of Alice of the group shop, with changes; nil removes a claim.
func (p *provider) claims(changes object) object {
	now := time.Now()
	all := object{
		"iss": p.issuer, "aud": "orders", "sub": "alice", "groups": []string{"shop"},
		"iat": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(),
	}
	for name, value := range changes {
		if all[name] = value; value == nil {
			delete(all, name)
		}
	}
	return all
}

// token is what the provider issues, with changes.
func (p *provider) token(changes object) string {
	return jws(object{"alg": "ES256", "kid": "shared"}, p.claims(changes), p.es256)
}

// headed is a token with changes of the header.
func (p *provider) headed(changes object, sign signer) string {
	header := object{"alg": "ES256", "kid": "shared"}
	for name, value := range changes {
		if header[name] = value; value == nil {
			delete(header, name)
		}
	}
	return jws(header, p.claims(nil), sign)
}

func jws(header, claims any, sign signer) string {
	return compact(must(json.Marshal(header)), must(json.Marshal(claims)), sign)
}

func compact(header, claims []byte, sign signer) string {
	signed := b64(header) + "." + b64(claims)
	return signed + "." + b64(sign([]byte(signed)))
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
