package bypass_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// trick is a request that must not pass, and why it does not; honest is the
// request nearest to it that does.
type trick struct {
	name   string
	sends  request
	want   string // status and reason
	honest request
}

func (w *world) try(t *testing.T, tricks []trick) {
	t.Helper()
	for _, c := range tricks {
		if got := w.outcome(t, c.sends); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if got := w.outcome(t, c.honest); got != "200" {
			t.Errorf("the honest sibling of %q: %s", c.name, got)
		}
	}
	t.Logf("%d tricks, each beside its honest sibling", len(tricks))
}

func TestBypass(t *testing.T) {
	w := newWorld(t)
	t.Run("header of a token", func(t *testing.T) { w.try(t, w.tokenHeaders()) })
	t.Run("signature", func(t *testing.T) { w.try(t, w.signatures()) })
	t.Run("form", func(t *testing.T) { w.try(t, w.forms()) })
	t.Run("claims", func(t *testing.T) { w.try(t, w.claims()) })
	t.Run("time", func(t *testing.T) { w.try(t, w.times()) })
	t.Run("where a token is", func(t *testing.T) { w.try(t, w.places()) })
	t.Run("client certificates", func(t *testing.T) { w.try(t, w.certificates(t)) })
	t.Run("both credentials", func(t *testing.T) { w.try(t, w.both(t)) })
	t.Run("DPoP", func(t *testing.T) { w.try(t, w.proofs(t)) })
	t.Run("tokens bound to a certificate", func(t *testing.T) { w.try(t, w.boundToCertificates(t)) })
	t.Run("API keys", func(t *testing.T) { w.try(t, w.apiKeys(t)) })
	t.Run("identity headers", w.identityHeaders)
	t.Run("one connection, several identities", w.oneConnection)
	t.Run("sessions are not resumed", w.resumption)
	t.Run("sessions after a revocation", w.resumedAfterRevocation)
	t.Run("sessions of another listener", w.resumedElsewhere)
	t.Run("sessions of browsers", w.sessions)
	t.Run("revoked", w.revoked) // the last: it is the end of Alice
}

// tokenHeaders are tricks with what a token says of how to verify it.
func (w *world) tokenHeaders() []trick {
	p := w.idp
	good := bearer(p.token(nil))
	head := func(name string, changes object, sign signer, reason string) trick {
		return trick{name, bearer(p.headed(changes, sign)), "401 token_" + reason, good}
	}
	public := must(x509.MarshalPKIXPublicKey(&p.ec.PublicKey))
	asPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	asJWK := must(json.Marshal(p.publicEC("shared")))
	attacker := w.other // whose keys are not the provider's
	tricks := []trick{
		head("HMAC with the public key as PEM", object{"alg": "HS256"}, hs256(asPEM), "algorithm"),
		head("HMAC with the public key as DER", object{"alg": "HS256"}, hs256(public), "algorithm"),
		head("HMAC with the public key as JWK", object{"alg": "HS256"}, hs256(asJWK), "algorithm"),
		head("HMAC with nothing", object{"alg": "HS256"}, hs256(nil), "algorithm"),
		head("RS256 with the key of ES256", object{"alg": "RS256"}, p.rs256, "algorithm"),
		head("ES256 with the key of RS256", object{"kid": "rsa"}, p.es256, "algorithm"),
		head("EdDSA with the key of ES256", object{"alg": "EdDSA"}, p.eddsa, "algorithm"),
		head("no alg", object{"alg": nil}, p.es256, "algorithm"),
		head("alg that is no string", object{"alg": []string{"ES256"}}, p.es256, "algorithm"),
		head("alg in lower case", object{"alg": "es256"}, p.es256, "algorithm"),

		head("kid that is a path", object{"kid": "../../../../dev/null"}, hs256(nil), "unknown_key"),
		head("kid that is SQL", object{"kid": "x' UNION SELECT 'key';--"}, hs256([]byte("key")), "unknown_key"),
		head("kid that is a URL", object{"kid": attacker.issuer + "/jwks.json"}, attacker.es256, "unknown_key"),
		head("kid with a trailing zero", object{"kid": "shared\x00"}, p.es256, "unknown_key"),
		head("kid in upper case", object{"kid": "SHARED"}, p.es256, "unknown_key"),
		head("no kid", object{"kid": nil}, p.es256, "bad_header"),
		head("kid that is no string", object{"kid": 1}, p.es256, "bad_header"),

		head("jku of the attacker", object{"jku": attacker.issuer + "/jwks.json"}, attacker.es256, "bad_header"),
		head("x5u of the attacker", object{"x5u": attacker.issuer + "/chain.pem"}, attacker.es256, "bad_header"),
		head("jwk that is embedded", object{"jwk": attacker.publicEC("shared")}, attacker.es256, "bad_header"),
		head("jwk that is embedded, by its owner", object{"jwk": p.publicEC("shared")}, p.es256, "bad_header"),
		head("x5c that is embedded", object{"x5c": []string{b64(public)}}, attacker.es256, "bad_header"),
		head("a critical extension", object{"crit": []string{"exp"}, "exp": 0}, p.es256, "bad_header"),
		head("an unencoded payload", object{"b64": false, "crit": []string{"b64"}}, p.es256, "bad_header"),
		head("typ of a logout token", object{"typ": "logout+jwt"}, p.es256, "wrong_type"),
		head("typ of a DPoP proof", object{"typ": "dpop+jwt"}, p.es256, "wrong_type"),
	}
	for _, none := range []string{"none", "None", "NONE", "nOnE", ""} {
		tricks = append(tricks,
			head(fmt.Sprintf("alg %q without a signature", none), object{"alg": none}, fixed(nil), "algorithm"),
			head(fmt.Sprintf("alg %q with a signature", none), object{"alg": none}, p.es256, "algorithm"))
	}
	return tricks
}

// signatures are tricks with the third part of a token.
func (w *world) signatures() []trick {
	p := w.idp
	token := p.token(nil)
	good := bearer(token)
	signed := token[:strings.LastIndexByte(token, '.')]
	sign := func(name string, s signer, reason string) trick {
		return trick{name, bearer(p.headed(nil, s)), "401 token_" + reason, good}
	}
	one := func(at int) []byte { b := make([]byte, 64); b[at] = 1; return b }
	return []trick{
		sign("r and s are zero", fixed(make([]byte, 64)), "bad_signature"), // CVE-2022-21449
		sign("r is zero", fixed(one(63)), "bad_signature"),
		sign("s is zero", fixed(one(31)), "bad_signature"),
		sign("signature of nothing", fixed(nil), "bad_signature"),
		sign("signature that is short", fixed(make([]byte, 63)), "bad_signature"),
		sign("signature that is long", func(b []byte) []byte { return append(p.es256(b), 0) }, "bad_signature"),
		sign("signature by another provider with the same kid", w.other.es256, "bad_signature"),
		sign("signature of other bytes", func(b []byte) []byte { return p.es256(append(b, ' ')) }, "bad_signature"),
		{"no third part", bearer(signed), "401 token_malformed", good},
		{"an empty third part", bearer(signed + "."), "401 token_bad_signature", good},
		{"a fourth part", bearer(token + ".x"), "401 token_malformed", good},
	}
}

// forms are tricks with how a token is written.
func (w *world) forms() []trick {
	p := w.idp
	token := p.token(nil)
	good := bearer(token)
	header, claims := []byte(`{"alg":"ES256","kid":"shared"}`), must(json.Marshal(p.claims(nil)))
	raw := func(name string, header, claims []byte) trick {
		return trick{name, bearer(compact(header, claims, p.es256)), "401 token_malformed", bearer(compact([]byte(`{"alg":"ES256","kid":"shared"}`), must(json.Marshal(p.claims(nil))), p.es256))}
	}
	with := func(member string) []byte { return append([]byte(`{`+member+`,`), claims[1:]...) }
	deep := strings.Repeat("[", 5000) + strings.Repeat("]", 5000)
	part := strings.Split(token, ".")
	return []trick{
		raw("alg twice", []byte(`{"alg":"none","alg":"ES256","kid":"shared"}`), claims),
		raw("kid twice", []byte(`{"alg":"ES256","kid":"x","kid":"shared"}`), claims),
		raw("sub twice", header, with(`"sub":"root"`)),
		raw("exp twice", header, with(`"exp":99999999999`)),
		raw("a name escaped, and plain", header, with(`"\u0073ub":"root"`)),
		raw("claims nested deeply", header, with(`"x":`+deep)),
		raw("header nested deeply", []byte(`{"alg":"ES256","kid":"shared","x":`+deep+`}`), claims),
		raw("claims that are no object", header, []byte(`["alice"]`)),
		raw("claims that are no JSON", header, []byte(`alice`)),
		raw("something behind the claims", header, append(slices.Clip(claims), "{}"...)),
		raw("claims that are no UTF-8", header, with("\"x\":\"\xff\"")),
		{"a token of 17 KiB", bearer(p.token(object{"pad": strings.Repeat("x", 17<<10)})), "401 token_malformed", bearer(p.token(object{"pad": strings.Repeat("x", 4<<10)}))},
		{"padding", bearer(part[0] + "=." + part[1] + "." + part[2]), "400 credentials_malformed", good},
		{"base64 that is not for URLs", bearer(strings.Replace(token, ".", "+.", 1)), "401 token_malformed", good},
		{"JSON serialization", bearer(b64([]byte(fmt.Sprintf(`{"payload":%q,"protected":%q,"signature":%q}`, part[1], part[0], part[2])))), "401 token_malformed", good},
	}
}

// claims are tricks with what a token says of whom and for whom.
func (w *world) claims() []trick {
	p, other := w.idp, w.other
	good := bearer(p.token(nil))
	says := func(name string, changes object, reason string) trick {
		return trick{name, bearer(p.token(changes)), "401 token_" + reason, good}
	}
	fromOther := bearer(other.token(object{"sub": "bob"}))
	return []trick{
		says("no audience", object{"aud": nil}, "wrong_audience"),
		says("another audience", object{"aud": "billing"}, "wrong_audience"),
		says("an audience that begins like ours", object{"aud": "orders-admin"}, "wrong_audience"),
		says("an audience in other case", object{"aud": "Orders"}, "wrong_audience"),
		{
			"a list of audiences without ours", bearer(p.token(object{"aud": []string{"billing", "carts"}})), "401 token_wrong_audience",
			bearer(p.token(object{"aud": []string{"billing", "orders"}})),
		},
		says("audiences of which one is no string", object{"aud": []any{"orders", 1}}, "wrong_audience"),
		says("an audience that is an object", object{"aud": object{"orders": true}}, "wrong_audience"),
		says("no issuer", object{"iss": nil}, "wrong_issuer"),
		says("an issuer that begins like ours", object{"iss": p.issuer + "/"}, "wrong_issuer"),
		says("an issuer in upper case", object{"iss": strings.ToUpper(p.issuer)}, "wrong_issuer"),
		says("issuers that are a list", object{"iss": []string{p.issuer}}, "wrong_issuer"),
		{"the issuer of another provider with the same kid", bearer(p.token(object{"iss": other.issuer})), "401 token_bad_signature", fromOther},
		{"a subject of the other provider", bearer(other.token(object{"sub": "alice"})), "403 no_matching_policy", fromOther},
		{"a subject in other case", bearer(p.token(object{"sub": "Alice"})), "403 no_matching_policy", good},
		says("no subject", object{"sub": nil}, "bad_claim"),
		says("an empty subject", object{"sub": ""}, "bad_claim"),
		says("a subject that is a list", object{"sub": []string{"alice"}}, "bad_claim"),
		says("a subject with a line break", object{"sub": "alice\r\nX-User: root"}, "bad_claim"),
		says("groups that are an object", object{"groups": object{"shop": true}}, "bad_claim"),
	}
}

// times are tricks with a clock that both sides share, and a leeway of 10 s.
func (w *world) times() []trick {
	p := w.idp
	at := func(claim string, d time.Duration) request {
		return bearer(p.token(object{claim: time.Now().Add(d).Unix()}))
	}
	const leeway = 10 * time.Second
	return []trick{
		{"expired by a second beyond the leeway", at("exp", -leeway-time.Second), "401 token_expired", at("exp", -leeway/2)},
		{"issued beyond the leeway from now", at("iat", leeway+5*time.Second), "401 token_not_yet_valid", at("iat", leeway/2)},
		{"not before a time beyond the leeway from now", at("nbf", leeway+5*time.Second), "401 token_not_yet_valid", at("nbf", leeway/2)},
		{"never expires", bearer(p.token(object{"exp": nil})), "401 token_bad_claim", at("exp", time.Hour)},
		{"expires when a string says", bearer(p.token(object{"exp": "99999999999"})), "401 token_bad_claim", at("exp", time.Hour)},
		{"expires after the year 9999", bearer(p.token(object{"exp": 1e30})), "401 token_bad_claim", at("exp", time.Hour)},
		{"expires before 1970", bearer(p.token(object{"exp": -1})), "401 token_bad_claim", at("exp", time.Hour)},
	}
}

// places are tricks with where the token is in a request.
func (w *world) places() []trick {
	token := w.idp.token(nil)
	good := bearer(token)
	sends := func(path string, header ...string) request { return request{path: path, header: header} }
	form := "access_token=" + token
	return []trick{
		{"in the query", sends("/token/7?access_token=" + token), "401 credentials_missing", good},
		{"in a cookie", sends("/token/7", "Cookie: access_token="+token), "401 credentials_missing", good},
		{
			"in the body",
			request{method: "POST", path: "/token/7", header: []string{"Content-Type: application/x-www-form-urlencoded"}, body: form},
			"401 credentials_missing",
			request{method: "POST", path: "/token/7", header: []string{"Content-Type: application/x-www-form-urlencoded", "Authorization: Bearer " + token}, body: form},
		},
		{"in another field", sends("/token/7", "X-Authorization: Bearer "+token), "401 credentials_missing", good},
		{"for the proxy", sends("/token/7", "Proxy-Authorization: Bearer "+token), "401 credentials_missing", good},
		{"under a name with an underscore", sends("/token/7", "Authorization_: Bearer "+token), "401 credentials_missing", good},
		{"two headers", sends("/token/7", "Authorization: Bearer "+token, "Authorization: Bearer "+token), "400 header_duplicate", good},
		{"two headers of other case", sends("/token/7", "authorization: Bearer x", "AUTHORIZATION: Bearer "+token), "400 header_duplicate", good},
		{"two tokens", sends("/token/7", "Authorization: Bearer "+token+", Bearer "+token), "400 credentials_malformed", good},
		{"another scheme first", sends("/token/7", "Authorization: Basic YTpi, Bearer "+token), "401 scheme_unsupported", good},
		{"another scheme", sends("/token/7", "Authorization: Token "+token), "401 scheme_unsupported", sends("/token/7", "Authorization: bEARER "+token)},
		{"no scheme", sends("/token/7", "Authorization: "+token), "401 scheme_unsupported", good},
		{"a tab behind the scheme", sends("/token/7", "Authorization: Bearer\t"+token), "401 scheme_unsupported", sends("/token/7", "Authorization: Bearer  "+token)},
		{"quotes", sends("/token/7", `Authorization: Bearer "`+token+`"`), "400 credentials_malformed", good},
		{"a space before the colon", sends("/token/7", "Authorization : Bearer "+token), "400 header_invalid_name", good},
		{"a folded line", sends("/token/7", "Authorization: Bearer\r\n "+token), "400 header_folded", good},
		{"removed as of the connection", sends("/token/7", "Authorization: Bearer "+token, "Connection: Authorization"), "400 connection_invalid", good},
	}
}
