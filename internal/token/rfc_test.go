package token_test

import (
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/token"
)

// The examples that RFC 7515 (appendix A), RFC 7520 (section 4) and RFC 8037
// (appendix A) print in the compact serialization, with their public keys.
//
//go:embed testdata/rfc.json
var rfcExamples []byte

var everyAlgorithm = []token.Algorithm{
	token.RS256, token.RS384, token.RS512, token.PS256, token.PS384, token.PS512,
	token.ES256, token.ES384, token.ES512, token.EdDSA,
}

// What RFCs sign is verified with their keys; symmetric keys are no keys, and
// nothing is good without a signature, or changed, or under another algorithm.
func TestRFCExamples(t *testing.T) {
	var examples []struct {
		Source, Alg, JWS, Want string
		JWK                    map[string]any
	}
	if err := json.Unmarshal(rfcExamples, &examples); err != nil {
		t.Fatal(err)
	}
	verified := 0
	for _, e := range examples {
		e.JWK["kid"] = "x"
		set, err := token.ParseKeySet(must(json.Marshal(map[string]any{"keys": []any{e.JWK}})))
		refused := e.Want == "refused"
		if e.JWK["kty"] == "oct" && err == nil {
			t.Errorf("%s: the set has a symmetric key", e.Source)
		}
		if err := token.CheckSignature(e.JWS, "x", set, everyAlgorithm...); (err != nil) != refused {
			t.Errorf("%s: %v, want it %s", e.Source, err, e.Want)
		}
		if refused {
			continue
		}
		verified++
		if err := token.CheckSignature(changed(e.JWS), "x", set, everyAlgorithm...); reasonOf(t, err) != token.BadSignature {
			t.Errorf("%s, changed: %v", e.Source, err)
		}
		for _, other := range everyAlgorithm {
			if string(other) != e.Alg && token.CheckSignature(renamed(e.JWS, other), "x", set, everyAlgorithm...) == nil {
				t.Errorf("%s: accepted as %s", e.Source, other)
			}
		}
	}
	fmt.Printf("figure rfc_7515_7520_8037_cases %d cases\n", len(examples))
	if len(examples) != 10 || verified != 7 {
		t.Errorf("%d examples, %d verified", len(examples), verified)
	}
}

// changed flips a bit of the payload.
func changed(jws string) string {
	parts := strings.Split(jws, ".")
	b := must(base64.RawURLEncoding.DecodeString(parts[1]))
	b[0] ^= 1
	return parts[0] + "." + b64(b) + "." + parts[2]
}

// renamed says that the signature is of another algorithm.
func renamed(jws string, alg token.Algorithm) string {
	_, rest, _ := strings.Cut(jws, ".")
	return b64(fmt.Appendf(nil, `{"alg":%q}`, alg)) + "." + rest
}
