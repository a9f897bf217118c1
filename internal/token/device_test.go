package token_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/token"
)

// signer makes device tokens.
type signer struct {
	t      testing.TB
	public ed25519.PublicKey
	key    ed25519.PrivateKey
}

func newSigner(t testing.TB) *signer {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{t, public, key}
}

func (s *signer) jwk() map[string]any {
	return map[string]any{"kty": "OKP", "crv": "Ed25519", "x": b64(s.public)}
}

func (s *signer) token(change func(header, claims map[string]any)) string {
	s.t.Helper()
	at := time.Unix(1_800_000_000, 0)
	claims := jwt.MapClaims{"aud": "orders.example", "iat": at.Unix(), "exp": at.Add(5 * time.Minute).Unix()}
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims)
	t.Header["typ"], t.Header["jwk"] = "device+jwt", s.jwk()
	if change != nil {
		change(t.Header, claims)
	}
	raw, err := t.SignedString(s.key)
	if err != nil {
		s.t.Fatal(err)
	}
	return raw
}

func TestDeviceTokens(t *testing.T) {
	s, other := newSigner(t), newSigner(t)
	at := time.Unix(1_800_000_000, 0)
	use := token.Use{Host: "orders.example", Bearer: "access"}
	header := func(name string, v any) string {
		return s.token(func(h, _ map[string]any) { h[name] = v })
	}
	claim := func(name string, v any) string {
		return s.token(func(_, c map[string]any) {
			if c[name] = v; v == nil {
				delete(c, name)
			}
		})
	}
	for name, c := range map[string]struct {
		raw  string
		use  token.Use
		at   time.Duration
		want token.Reason
	}{
		"good":                         {s.token(nil), use, 0, ""},
		"without a token beside it":    {s.token(nil), token.Use{Host: use.Host}, 0, ""},
		"bound":                        {claim("ath", token.Hash("access")), use, 0, ""},
		"bound to nothing":             {claim("ath", token.Hash("")), token.Use{Host: use.Host}, 0, token.WrongClaim},
		"bound to another":             {claim("ath", token.Hash("x")), use, 0, token.WrongClaim},
		"bound by null":                {claim("ath", []any{}), use, 0, token.WrongClaim},
		"of two audiences":             {claim("aud", []string{"a", "orders.example"}), use, 0, ""},
		"of another":                   {claim("aud", "orders.example.evil"), use, 0, token.WrongAudience},
		"of a URL":                     {claim("aud", "https://orders.example"), use, 0, token.WrongAudience},
		"of none":                      {claim("aud", nil), use, 0, token.WrongAudience},
		"for no host":                  {claim("aud", ""), token.Use{}, 0, token.WrongAudience},
		"in the last moment":           {s.token(nil), use, 5*time.Minute + 29*time.Second, ""},
		"too late":                     {s.token(nil), use, 5*time.Minute + 30*time.Second, token.Expired},
		"by a clock that is behind":    {s.token(nil), use, -30 * time.Second, ""},
		"too early":                    {s.token(nil), use, -31 * time.Second, token.NotYetValid},
		"not before":                   {claim("nbf", at.Add(time.Minute).Unix()), use, 0, token.NotYetValid},
		"for longer":                   {claim("exp", at.Add(5*time.Minute+time.Second).Unix()), use, 0, token.LongLived},
		"for ever":                     {claim("exp", nil), use, 0, token.BadClaim},
		"since ever":                   {claim("iat", nil), use, 0, token.BadClaim},
		"at a time in words":           {claim("iat", "now"), use, 0, token.BadClaim},
		"another type":                 {header("typ", "dpop+jwt"), use, 0, token.WrongType},
		"no type":                      {header("typ", nil), use, 0, token.WrongType},
		"the type in full":             {header("typ", "application/device+jwt"), use, 0, token.WrongType},
		"another's key":                {header("jwk", other.jwk()), use, 0, token.BadSignature},
		"no key":                       {header("jwk", nil), use, 0, token.BadHeader},
		"a private key":                {header("jwk", map[string]any{"kty": "OKP", "crv": "Ed25519", "x": b64(s.public), "d": "AA"}), use, 0, token.BadHeader},
		"a key from elsewhere":         {header("jku", "https://evil.example"), use, 0, token.BadHeader},
		"a critical extension":         {header("crit", []string{"x"}), use, 0, token.BadHeader},
		"another algorithm":            {header("alg", "ES256"), use, 0, token.WrongAlgorithm},
		"no algorithm":                 {header("alg", "none"), use, 0, token.WrongAlgorithm},
		"another signature":            {s.token(nil)[:len(s.token(nil))-4] + "AAAA", use, 0, token.BadSignature},
		"too long":                     {claim("x", strings.Repeat("x", 4<<10)), use, 0, token.Malformed},
		"nothing":                      {"", use, 0, token.Malformed},
		"an access token's form alone": {"a.b.c", use, 0, token.Malformed},
	} {
		d, err := token.ParseDevice(c.raw)
		if err == nil {
			err = d.Verify()
		}
		if err == nil {
			err = d.Check(c.use, at.Add(c.at))
		}
		if got := deviceReason(t, err); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	d, err := token.ParseDevice(s.token(nil))
	if err != nil || d.Key != token.ThumbprintOf(s.jwk()) || !d.Expires.Equal(at.Add(5*time.Minute)) {
		t.Errorf("%+v, %v", d, err)
	}
}

func deviceReason(t *testing.T, err error) token.Reason {
	t.Helper()
	if err == nil {
		return ""
	}
	return reasonOf(t, err)
}

// Whatever a device token is, one that is taken was signed by the key whose
// thumbprint it has, and is of its host and time.
func FuzzDeviceToken(f *testing.F) {
	s := newSigner(f)
	at := time.Unix(1_800_000_000, 0)
	good := s.token(nil)
	f.Add(good, "orders.example", int64(0))
	f.Add(s.token(func(h, _ map[string]any) { h["typ"] = "jwt" }), "orders.example", int64(0))
	f.Add(strings.Repeat(".", 3), "", int64(7))
	f.Fuzz(func(t *testing.T, raw, host string, after int64) {
		d, err := token.ParseDevice(raw)
		if err != nil {
			reasonOf(t, err)
			return
		}
		now := at.Add(time.Duration(after%1000) * time.Second)
		if d.Verify() != nil || d.Check(token.Use{Host: host}, now) != nil {
			return
		}
		if d.Key == token.ThumbprintOf(s.jwk()) && (raw != good || host != "orders.example" || now.Sub(at) < -30*time.Second || now.Sub(at) >= 330*time.Second) {
			t.Errorf("taken for %q at %s: %s", host, now, raw)
		}
	})
}
