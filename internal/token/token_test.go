package token_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/token"
)

var (
	now   = time.Unix(1_000_000_000, 0)
	rules = token.Rules{Issuer: "https://idp.example", Audiences: []string{"orders", "https://orders.example"}}
	keys  = newKeys()
)

// signers are the private halves of the keys in set, by kid.
type signers struct {
	ec, other *ecdsa.PrivateKey
	rsa       *rsa.PrivateKey
	ed        ed25519.PrivateKey
	set       *token.KeySet
	document  string
}

func newKeys() *signers {
	s := &signers{ec: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), other: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)),
		rsa: must(rsa.GenerateKey(rand.Reader, 2048))}
	_, s.ed, _ = ed25519.GenerateKey(rand.Reader)
	s.document = `{"keys":[` + strings.Join([]string{
		jwk(&s.ec.PublicKey, `"kid":"ec"`), jwk(&s.rsa.PublicKey, `"kid":"rsa"`), jwk(s.ed.Public(), `"kid":"ed"`),
	}, ",") + `]}`
	s.set = must(token.ParseKeySet([]byte(s.document)))
	return s
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwk writes a public key by hand, with more members after its own.
func jwk(public crypto.PublicKey, members ...string) string {
	var own string
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		point := must(p.Bytes())
		size := (len(point) - 1) / 2
		own = fmt.Sprintf(`"kty":"EC","crv":%q,"x":%q,"y":%q`, p.Params().Name, b64(point[1:1+size]), b64(point[1+size:]))
	case *rsa.PublicKey:
		own = fmt.Sprintf(`"kty":"RSA","n":%q,"e":%q`, b64(p.N.Bytes()), b64(big.NewInt(int64(p.E)).Bytes()))
	case ed25519.PublicKey:
		own = fmt.Sprintf(`"kty":"OKP","crv":"Ed25519","x":%q`, b64(p))
	}
	return "{" + strings.Join(append([]string{own}, members...), ",") + "}"
}

// sign writes a token by hand: header and claims are the exact JSON texts.
func sign(method jwt.SigningMethod, key any, header, claims string) string {
	signed := b64([]byte(header)) + "." + b64([]byte(claims))
	return signed + "." + b64(must(method.Sign(signed, key)))
}

const (
	header = `{"alg":"ES256","kid":"ec"}`
	claims = `{"iss":"https://idp.example","aud":"orders","sub":"alice","exp":1000000300}`
)

func es256(header, claims string) string {
	return sign(jwt.SigningMethodES256, keys.ec, header, claims)
}

// with replaces one member of claims and adds others, as JSON texts.
func with(pairs ...string) string {
	members := map[string]string{"iss": `"https://idp.example"`, "aud": `"orders"`, "sub": `"alice"`, "exp": "1000000300"}
	order := []string{"iss", "aud", "sub", "exp"}
	for i := 0; i < len(pairs); i += 2 {
		if _, known := members[pairs[i]]; !known {
			order = append(order, pairs[i])
		}
		members[pairs[i]] = pairs[i+1]
	}
	var out []string
	for _, name := range order {
		if members[name] != "" {
			out = append(out, fmt.Sprintf("%q:%s", name, members[name]))
		}
	}
	return "{" + strings.Join(out, ",") + "}"
}

type check struct {
	name string
	raw  string
	want token.Reason // empty: accepted
}

func accept(name, raw string) check                      { return check{name, raw, ""} }
func refuse(name, raw string, reason token.Reason) check { return check{name, raw, reason} }

func reasonOf(t *testing.T, err error) token.Reason {
	t.Helper()
	if err == nil {
		return ""
	}
	var e *token.Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v is no *token.Error", err)
	}
	return e.Reason
}

func run(t *testing.T, rules token.Rules, checks []check) {
	t.Helper()
	for _, c := range checks {
		got, err := token.Verify(c.raw, rules, keys.set, now)
		if reason := reasonOf(t, err); reason != c.want || (err == nil) == (got == nil) {
			t.Errorf("%s: reason %q, claims %v; want reason %q", c.name, reason, got, c.want)
		}
	}
}

func TestForm(t *testing.T) {
	good := es256(header, claims)
	parts := strings.Split(good, ".")
	// The last character of a 64-byte signature carries four unused bits.
	last := strings.IndexByte(b64url, good[len(good)-1])
	big := func(n int) string { return es256(header, with("pad", `"`+strings.Repeat("x", n)+`"`)) }
	fits := token.MaxSize*3/4 - 300
	nested := func(n int) string {
		return es256(header, with("deep", strings.Repeat("[", n)+strings.Repeat("]", n)))
	}
	run(t, rules, []check{
		accept("as it should be", good),
		refuse("empty", "", token.Malformed),
		refuse("two segments", parts[0]+"."+parts[1], token.Malformed),
		refuse("four segments", good+".x", token.Malformed),
		refuse("trailing dot", good+".", token.Malformed),
		refuse("five segments, as JWE", good+".x.y", token.Malformed),
		refuse("padded segment", good+"==", token.Malformed),
		refuse("stray bits in the last character", good[:len(good)-1]+string(b64url[last+1]), token.Malformed),
		refuse("line break that base64 readers skip", good[:len(good)-4]+"\n"+good[len(good)-4:], token.Malformed),
		refuse("leading space", " "+good, token.Malformed),
		refuse("standard base64 alphabet", parts[0]+"."+parts[1]+"+."+parts[2], token.Malformed),
		accept("large", big(fits)),
		refuse("too large", big(fits+600), token.Malformed),
		accept("nested", nested(15)),
		refuse("nested too deep", nested(16), token.Malformed),
		refuse("payload is an array", es256(header, `[1]`), token.Malformed),
		refuse("payload is null", es256(header, `null`), token.Malformed),
		refuse("payload is text", es256(header, `hello`), token.Malformed),
		refuse("two payloads", es256(header, claims+claims), token.Malformed),
		refuse("header is an array", es256(`[]`, claims), token.Malformed),
		refuse("claim twice", es256(header, with("sub", `"alice","sub":"bob"`)), token.Malformed),
		refuse("claim twice, once escaped", es256(header, with("sub", `"alice","s\u0075b":"bob"`)), token.Malformed),
		refuse("claim twice in an inner object", es256(header, with("x", `{"a":1,"a":2}`)), token.Malformed),
		accept("claims that differ in case", es256(header, with("Sub", `"bob"`))),
		refuse("header member twice", es256(`{"alg":"ES256","kid":"ec","kid":"ec"}`, claims), token.Malformed),
		refuse("invalid UTF-8", es256(header, with("sub", "\"al\xffice\"")), token.Malformed),
		accept("paired surrogates", es256(header, with("sub", `"\ud83d\ude00"`))),
		refuse("unpaired surrogate", es256(header, with("sub", `"\ud83d"`)), token.Malformed),
		refuse("number out of range", es256(header, with("x", `1e400`)), token.Malformed),
	})
}

const b64url = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

func TestHeader(t *testing.T) {
	h := func(more string) string { return es256(`{"alg":"ES256","kid":"ec"`+more+`}`, claims) }
	run(t, rules, []check{
		accept("typ JWT", h(`,"typ":"JWT"`)),
		accept("typ jwt", h(`,"typ":"jwt"`)),
		accept("typ at+jwt", h(`,"typ":"at+jwt"`)),
		accept("typ application/at+JWT", h(`,"typ":"application/at+JWT"`)),
		refuse("typ of a logout token", h(`,"typ":"logout+jwt"`), token.WrongType),
		refuse("typ of a DPoP proof", h(`,"typ":"dpop+jwt"`), token.WrongType),
		refuse("typ empty", h(`,"typ":""`), token.WrongType),
		refuse("typ a number", h(`,"typ":1`), token.WrongType),
		accept("thumbprint of a certificate", h(`,"x5t":"abc"`)),
		refuse("key inside", h(`,"jwk":`+jwk(&keys.ec.PublicKey)), token.BadHeader),
		refuse("key by URL", h(`,"jku":"https://evil.example/jwks"`), token.BadHeader),
		refuse("certificate by URL", h(`,"x5u":"https://evil.example/c"`), token.BadHeader),
		refuse("certificate inside", h(`,"x5c":["MII"]`), token.BadHeader),
		refuse("critical extension", h(`,"crit":["exp"]`), token.BadHeader),
		refuse("critical, empty", h(`,"crit":[]`), token.BadHeader),
		refuse("payload not encoded", h(`,"b64":false`), token.BadHeader),
		refuse("compressed", h(`,"zip":"DEF"`), token.BadHeader),
		refuse("encrypted", h(`,"enc":"A128GCM"`), token.BadHeader),
		refuse("no kid", es256(`{"alg":"ES256"}`, claims), token.BadHeader),
		refuse("kid empty", es256(`{"alg":"ES256","kid":""}`, claims), token.BadHeader),
		refuse("kid a number", es256(`{"alg":"ES256","kid":1}`, claims), token.BadHeader),
		refuse("kid too long", es256(`{"alg":"ES256","kid":"`+strings.Repeat("k", 257)+`"}`, claims), token.BadHeader),
		refuse("kid unknown", es256(`{"alg":"ES256","kid":"EC"}`, claims), token.UnknownKey),
		refuse("no alg", es256(`{"kid":"ec"}`, claims), token.WrongAlgorithm),
		refuse("alg in other case", es256(`{"alg":"es256","kid":"ec"}`, claims), token.WrongAlgorithm),
	})
}

func TestSignature(t *testing.T) {
	rs := func(h string) string { return sign(jwt.SigningMethodRS256, keys.rsa, h, claims) }
	ed := func(h string) string { return sign(jwt.SigningMethodEdDSA, keys.ed, h, claims) }
	good := es256(header, claims)
	signed, sig := good[:strings.LastIndexByte(good, '.')], good[strings.LastIndexByte(good, '.')+1:]
	sigBytes := must(base64.RawURLEncoding.DecodeString(sig))
	flipped := append([]byte{}, sigBytes...)
	flipped[3] ^= 1
	der := must(asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sigBytes[:32]), new(big.Int).SetBytes(sigBytes[32:])}))
	rsaPEM := []byte(jwk(&keys.rsa.PublicKey))
	none := b64([]byte(`{"alg":"none","kid":"ec"}`)) + "." + b64([]byte(claims)) + "."
	run(t, rules, []check{
		accept("ES256", good),
		accept("RS256", rs(`{"alg":"RS256","kid":"rsa"}`)),
		accept("EdDSA", ed(`{"alg":"EdDSA","kid":"ed"}`)),
		refuse("one bit wrong", signed+"."+b64(flipped), token.BadSignature),
		refuse("no signature", signed+".", token.BadSignature),
		refuse("signature a byte longer", signed+"."+b64(append(sigBytes[:64:64], 0)), token.BadSignature),
		refuse("signature as ASN.1", signed+"."+b64(der), token.BadSignature),
		refuse("signature of zeros", signed+"."+b64(make([]byte, 64)), token.BadSignature),
		refuse("signed by another key", sign(jwt.SigningMethodES256, keys.other, header, claims), token.BadSignature),
		refuse("claims of another token", strings.Split(good, ".")[0]+"."+b64([]byte(with("sub", `"bob"`)))+"."+sig, token.BadSignature),
		refuse("alg none", none, token.WrongAlgorithm),
		refuse("alg none and kid unknown", strings.Replace(none, b64([]byte(`{"alg":"none","kid":"ec"}`)), b64([]byte(`{"alg":"none","kid":"x"}`)), 1), token.WrongAlgorithm),
		refuse("alg None with a signature", es256(`{"alg":"None","kid":"ec"}`, claims), token.WrongAlgorithm),
		refuse("HS256 with the public key as secret", sign(jwt.SigningMethodHS256, rsaPEM, `{"alg":"HS256","kid":"rsa"}`, claims), token.WrongAlgorithm),
		refuse("RS512, unless named", sign(jwt.SigningMethodRS512, keys.rsa, `{"alg":"RS512","kid":"rsa"}`, claims), token.WrongAlgorithm),
		accept("PS256", sign(jwt.SigningMethodPS256, keys.rsa, `{"alg":"PS256","kid":"rsa"}`, claims)),
		refuse("RSA signature said to be PS256", sign(jwt.SigningMethodRS256, keys.rsa, `{"alg":"PS256","kid":"rsa"}`, claims), token.BadSignature),
		refuse("PSS signature said to be RS256", sign(jwt.SigningMethodPS256, keys.rsa, `{"alg":"RS256","kid":"rsa"}`, claims), token.BadSignature),
		refuse("RS256 with an EC key", rs(`{"alg":"RS256","kid":"ec"}`), token.WrongAlgorithm),
		refuse("ES256 with an RSA key", es256(`{"alg":"ES256","kid":"rsa"}`, claims), token.WrongAlgorithm),
		refuse("EdDSA with an EC key", ed(`{"alg":"EdDSA","kid":"ec"}`), token.WrongAlgorithm),
		refuse("kid of another key of the same kind", sign(jwt.SigningMethodES256, keys.other, header, claims), token.BadSignature),
		// Whoever cannot sign learns nothing of the claims.
		refuse("wrong signature and expired", sign(jwt.SigningMethodES256, keys.other, header, with("exp", "1")), token.BadSignature),
	})
	onlyEC := rules
	onlyEC.Algorithms = []token.Algorithm{token.ES256}
	run(t, onlyEC, []check{
		accept("allowed algorithm", good),
		refuse("known algorithm that is not allowed", rs(`{"alg":"RS256","kid":"rsa"}`), token.WrongAlgorithm),
	})
}

func TestClaims(t *testing.T) {
	c := func(pairs ...string) string { return es256(header, with(pairs...)) }
	run(t, rules, []check{
		accept("issuer exact", c("iss", `"https://idp.example"`)),
		refuse("issuer with a slash", c("iss", `"https://idp.example/"`), token.WrongIssuer),
		refuse("issuer in other case", c("iss", `"https://IDP.example"`), token.WrongIssuer),
		refuse("issuer missing", c("iss", ``), token.WrongIssuer),
		refuse("issuer a list", c("iss", `["https://idp.example"]`), token.WrongIssuer),
		accept("second audience", c("aud", `"https://orders.example"`)),
		accept("audience in a list", c("aud", `["billing","orders"]`)),
		refuse("audience in a list without ours", c("aud", `["billing","orders2"]`), token.WrongAudience),
		refuse("other audience", c("aud", `"billing"`), token.WrongAudience),
		refuse("audience missing", c("aud", ``), token.WrongAudience),
		refuse("audience list empty", c("aud", `[]`), token.WrongAudience),
		refuse("audience an object", c("aud", `{"orders":true}`), token.WrongAudience),
		refuse("audience list with a number", c("aud", `["orders",1]`), token.WrongAudience),
		refuse("subject missing", c("sub", ``), token.BadClaim),
		refuse("subject empty", c("sub", `""`), token.BadClaim),
		refuse("subject a number", c("sub", `7`), token.BadClaim),
		accept("subject with a space", c("sub", `"alice b"`)),
		refuse("subject with a line break", c("sub", `"alice\nadmin"`), token.BadClaim),
		accept("groups absent", c()),
		accept("groups null", c("groups", `null`)),
		accept("one group as text", c("groups", `"shop"`)),
		refuse("one group without a name", c("groups", `""`), token.BadClaim),
		refuse("groups a number", c("groups", `1`), token.BadClaim),
		refuse("groups with a number", c("groups", `["shop",1]`), token.BadClaim),
		refuse("groups with an empty name", c("groups", `["shop",""]`), token.BadClaim),
		accept("scope", c("scope", `"orders:read orders:write"`)),
		accept("scp as a list", c("scp", `["orders:read"]`)),
		accept("scope that is empty", c("scope", `""`)),
		refuse("scope a number", c("scope", `1`), token.BadClaim),
		refuse("scp with a number", c("scp", `["orders:read",1]`), token.BadClaim),
		accept("jti", c("jti", `"7"`)),
		refuse("jti a number", c("jti", `7`), token.BadClaim),
	})
	for _, empty := range []token.Rules{{}, {Issuer: rules.Issuer}, {Audiences: rules.Audiences}} {
		if _, err := token.Verify(es256(header, claims), empty, keys.set, now); err == nil {
			t.Errorf("rules %+v accepted a token", empty)
		}
	}
	if _, err := token.Verify(es256(header, with("iss", `""`)), token.Rules{Audiences: rules.Audiences}, keys.set, now); err == nil {
		t.Error("an empty issuer matched rules without one")
	}
	if _, err := token.Verify(es256(header, claims), rules, nil, now); reasonOf(t, err) != token.UnknownKey {
		t.Errorf("nil key set: %v", err)
	}
}

// A scope is what other parties make of it: only its members are read here.
func TestScopes(t *testing.T) {
	for _, c := range []struct{ claim, value, want string }{
		{"scope", `"orders:read  orders:write"`, "[orders:read orders:write]"},
		{"scp", `"orders:read"`, "[orders:read]"},
		{"scp", `["orders:read","a b"]`, "[orders:read a b]"},
		{"scope", `""`, "[]"},
		{"other", `"orders:read"`, "[]"},
	} {
		got, err := token.Verify(es256(header, with(c.claim, c.value)), rules, keys.set, now)
		if err != nil || fmt.Sprint(got.Scopes) != c.want {
			t.Errorf("%s %s: got %v, %v", c.claim, c.value, got, err)
		}
	}
}

func TestTime(t *testing.T) {
	at := func(claim string, offset int) string {
		return es256(header, with(claim, fmt.Sprint(now.Unix()+int64(offset))))
	}
	run(t, rules, []check{
		accept("expires in a second", at("exp", 1)),
		accept("expired within the leeway", at("exp", -29)),
		refuse("expired just beyond the leeway", at("exp", -30), token.Expired),
		refuse("expired a second beyond the leeway", at("exp", -31), token.Expired),
		refuse("no exp", es256(header, with("exp", ``)), token.BadClaim),
		refuse("exp as text", es256(header, with("exp", `"1000000300"`)), token.BadClaim),
		refuse("exp null", es256(header, with("exp", `null`)), token.BadClaim),
		refuse("exp negative", es256(header, with("exp", `-1`)), token.BadClaim),
		refuse("exp zero", es256(header, with("exp", `0`)), token.Expired),
		accept("exp with a fraction", es256(header, with("exp", `1000000000.5`))),
		accept("exp with an exponent", es256(header, with("exp", `1.1e9`))),
		accept("exp in the year 9999", es256(header, with("exp", `253402300799`))),
		refuse("exp in the year 10000", es256(header, with("exp", `253402300800`)), token.BadClaim),
		refuse("exp in milliseconds", es256(header, with("exp", `1000000300000`)), token.BadClaim),
		refuse("exp beyond int64", es256(header, with("exp", `1e300`)), token.BadClaim),
		accept("not before, within the leeway", at("nbf", 30)),
		refuse("not before, beyond the leeway", at("nbf", 31), token.NotYetValid),
		refuse("not before as text", es256(header, with("nbf", `"1"`)), token.BadClaim),
		accept("issued within the leeway", at("iat", 30)),
		refuse("issued in the future", at("iat", 31), token.NotYetValid),
	})
	leeway := func(d time.Duration) token.Rules {
		r := rules
		r.Leeway = d
		return r
	}
	run(t, leeway(token.NoLeeway), []check{
		accept("no leeway, a second left", at("exp", 1)),
		refuse("no leeway, just over", at("exp", 0), token.Expired),
	})
	run(t, leeway(-time.Hour), []check{
		accept("negative leeway is none", at("exp", 1)),
	})
	run(t, leeway(time.Hour), []check{
		accept("two minutes at most", at("exp", -119)),
		refuse("an hour is not taken", at("exp", -120), token.Expired),
	})
}

func TestClaimsAreHandedOver(t *testing.T) {
	r := token.Rules{Issuer: rules.Issuer, Audiences: rules.Audiences, SubjectClaim: "email", GroupsClaim: "roles"}
	raw := es256(header, with("email", `"a@shop.example"`, "roles", `["shop","ops"]`, "jti", `"t1"`, "iat", "999999999", "nbf", "999999998.5",
		"tenant", "9007199254740993", "score", "0.5", "tags", `{"a":[true,null]}`))
	got, err := token.Verify(raw, r, keys.set, now)
	if err != nil {
		t.Fatal(err)
	}
	want := &token.Claims{
		Issuer: "https://idp.example", Subject: "a@shop.example", Groups: []string{"shop", "ops"}, ID: "t1",
		Expires: time.Unix(1_000_000_300, 0).UTC(), IssuedAt: time.Unix(999_999_999, 0).UTC(), NotBefore: time.Unix(999_999_998, 5e8).UTC(),
		All: map[string]any{
			"iss": "https://idp.example", "aud": "orders", "sub": "alice", "exp": int64(1_000_000_300), "jti": "t1",
			"iat": int64(999_999_999), "nbf": 999_999_998.5, "email": "a@shop.example", "roles": []any{"shop", "ops"},
			"tenant": int64(9007199254740993), // as float64 it would be the tenant before it
			"score":  0.5, "tags": map[string]any{"a": []any{true, nil}},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("claims\n%+v\nwant\n%+v", got, want)
	}
}

// A token that was accepted is looked at again with the time of each request.
func TestCheckTimeLater(t *testing.T) {
	c, err := token.Verify(es256(header, with("nbf", "1000000010")), rules, keys.set, now)
	if err != nil {
		t.Fatal(err)
	}
	for after, want := range map[time.Duration]token.Reason{
		-21 * time.Second: token.NotYetValid, -20 * time.Second: "", 329 * time.Second: "", 330 * time.Second: token.Expired,
	} {
		if got := reasonOf(t, rules.CheckTime(c, now.Add(after))); got != want {
			t.Errorf("after %v: %q, want %q", after, got, want)
		}
	}
}

func TestUnverified(t *testing.T) {
	p, err := token.Parse(sign(jwt.SigningMethodES256, keys.other, header, claims))
	if err != nil {
		t.Fatal(err)
	}
	if p.Issuer != "https://idp.example" || p.KeyID != "ec" || !p.For(rules.Audiences) || p.For([]string{"billing"}) || p.For(nil) {
		t.Errorf("parsed %+v", p)
	}
}

func FuzzVerify(f *testing.F) {
	seeds := []string{
		es256(header, claims),
		es256(header, with("groups", `["a"]`, "nbf", "1", "iat", "1.5", "x", `{"y":[{}]}`)),
		sign(jwt.SigningMethodEdDSA, keys.ed, `{"alg":"EdDSA","kid":"ed","typ":"at+jwt"}`, claims),
		sign(jwt.SigningMethodRS256, keys.rsa, `{"alg":"RS256","kid":"rsa"}`, claims),
	}
	signed := map[string]bool{}
	for _, s := range seeds {
		signed[s[:strings.LastIndexByte(s, '.')]] = true
		f.Add(s)
	}
	f.Add("a.b.c")
	f.Add(b64([]byte(`{"alg":"none"}`)) + "." + b64([]byte(claims)) + ".")
	f.Fuzz(func(t *testing.T, raw string) {
		c, err := token.Verify(raw, rules, keys.set, now)
		var e *token.Error
		switch {
		case err == nil && !signed[raw[:strings.LastIndexByte(raw, '.')]]:
			t.Fatalf("accepted what nobody signed: %q", raw)
		case err == nil && (c.Subject == "" || c.Issuer != rules.Issuer):
			t.Fatalf("accepted without subject or issuer: %+v", c)
		case err != nil && (c != nil || !errors.As(err, &e) || e.Reason == ""):
			t.Fatalf("refused with %v and claims %v", err, c)
		}
	})
}

// What our reader accepts, the standard one reads the same way; the other way
// round ours may refuse.
func FuzzDecodeObject(f *testing.F) {
	for _, s := range []string{claims, `{"a":{"a":1}}`, `{"a":[1,-0.5e3,"\u00e4",null]}`, `{"a":1,"a":2}`, `{"a" 1}`, `{"\ud800":1}`, `{}{}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := token.DecodeObject(b)
		if err != nil {
			return
		}
		var want map[string]any
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatalf("accepted %q, encoding/json: %v", b, err)
		}
		again := must(json.Marshal(got))
		var back map[string]any
		if err := json.Unmarshal(again, &back); err != nil || !reflect.DeepEqual(back, want) {
			t.Fatalf("%q read as %s", b, again)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	for name, raw := range map[string]string{
		"ES256": es256(header, claims),
		"RS256": sign(jwt.SigningMethodRS256, keys.rsa, `{"alg":"RS256","kid":"rsa"}`, claims),
		"EdDSA": sign(jwt.SigningMethodEdDSA, keys.ed, `{"alg":"EdDSA","kid":"ed"}`, claims),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := token.Verify(raw, rules, keys.set, now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("Parse", func(b *testing.B) {
		raw := es256(header, claims)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := token.Parse(raw); err != nil {
				b.Fatal(err)
			}
		}
	})
}
