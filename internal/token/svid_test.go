package token_test

import (
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/token"
)

// A JWT-SVID needs no iss, and may not be signed with EdDSA (JWT-SVID section 3).
func TestVerifySVID(t *testing.T) {
	for name, c := range map[string]struct {
		raw  string
		want token.Reason // empty: accepted
	}{
		"with an issuer":    {es256(header, claims), ""},
		"without":           {es256(header, with("iss", ``)), ""},
		"another audience":  {es256(header, with("aud", `"billing"`)), token.WrongAudience},
		"no audience":       {es256(header, with("aud", ``)), token.WrongAudience},
		"expired":           {es256(header, with("exp", `1`)), token.Expired},
		"no exp":            {es256(header, with("exp", ``)), token.BadClaim},
		"an access token":   {es256(`{"alg":"ES256","kid":"ec","typ":"at+jwt"}`, claims), token.WrongType},
		"signed with EdDSA": {sign(jwt.SigningMethodEdDSA, keys.ed, `{"alg":"EdDSA","kid":"ed"}`, claims), token.WrongAlgorithm},
	} {
		p, err := token.Parse(c.raw)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, err = p.VerifySVID(rules.Audiences, keys.set, now)
		if c.want == "" && err != nil || c.want != "" && reasonOf(t, err) != c.want {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
