package token_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/token"
)

// Groups and subjects are where an issuer puts them: below, or in a name with
// dots.
func TestClaimPaths(t *testing.T) {
	const bad = "bad"
	for _, c := range []struct{ name, path, claim, value, want string }{
		{"plain", "roles", "roles", `["a","b"]`, "a b"},
		{"nested", "realm_access.roles", "realm_access", `{"roles":["a"]}`, "a"},
		{"nested twice", "resource_access.shop.roles", "resource_access", `{"shop":{"roles":["a"]}}`, "a"},
		{"nested below a name with dots", "resource_access.shop.example.roles", "resource_access", `{"shop.example":{"roles":["a"]}}`, "a"},
		{"named like a URL", "https://shop.example/groups", "https://shop.example/groups", `["a"]`, "a"},
		{"below a URL", "https://shop.example/claims.groups", "https://shop.example/claims", `{"groups":["a"]}`, "a"},
		{"named like a path", "realm_access.roles", "realm_access.roles", `["a"]`, "a"},
		{"not there", "realm_access.roles", "realm_access", `{"groups":["a"]}`, ""},
		{"nothing to look into", "realm_access.roles", "realm_access", `["roles"]`, ""},
		{"null", "realm_access.roles", "realm_access", `null`, ""},
		{"an object", "realm_access", "realm_access", `{"roles":["a"]}`, bad},
		{"in other case", "realm_access.Roles", "realm_access", `{"roles":["a"]}`, ""},
		{"two ways", "a.b.c", "a.b", `{"c":["x"]},"a":{"b.c":["y"]}`, bad},
		{"two ways that say the same", "a.b", "a.b", `["x"],"a":{"b":["x"]}`, bad},
		{"one of two ways leads nowhere", "a.b.c", "a.b", `{"c":["x"]},"a":{"b":{"d":["y"]}}`, "x"},
		{"dots alone", "..", ".", `{"":["a"]}`, "a"},
		{"to be asked for elsewhere", "groups", "_claim_names", `{"groups":"src1"}`, bad},
		{"others to be asked for elsewhere", "groups", "_claim_names", `{"address":"src1"},"groups":["a"]`, "a"},
	} {
		r := rules
		r.GroupsClaim = c.path
		got, err := token.Verify(es256(header, with(c.claim, c.value)), r, keys.set, now)
		switch {
		case c.want == bad && reasonOf(t, err) != token.BadClaim:
			t.Errorf("%s: groups %v, %v", c.name, got, err)
		case c.want != bad && (err != nil || strings.Join(got.Groups, " ") != c.want):
			t.Errorf("%s: groups %v, %v; want %q", c.name, got, err, c.want)
		}
		r = rules
		r.SubjectClaim = c.path
		if _, err := token.Verify(es256(header, with(c.claim, c.value)), r, keys.set, now); reasonOf(t, err) != token.BadClaim {
			t.Errorf("%s: as subject: %v", c.name, err)
		}
	}
	r := rules
	r.SubjectClaim = "user.name"
	run(t, r, []check{
		accept("subject below", es256(header, with("user", `{"name":"bob"}`))),
		refuse("sub in its stead", es256(header, claims), token.BadClaim),
		refuse("two subjects", es256(header, with("user", `{"name":"bob"}`, "user.name", `"eve"`)), token.BadClaim),
	})
}

func TestRequiredClaims(t *testing.T) {
	requiring := func(path string, values ...string) token.Rules {
		r := rules
		r.Required = []token.Requirement{{Claim: path, Values: values}}
		return r
	}
	c := func(pairs ...string) string { return es256(header, with(pairs...)) }
	run(t, requiring("tid", "t1", "t2"), []check{
		accept("one value", c("tid", `"t2"`)),
		accept("in a list", c("tid", `["t0","t1"]`)),
		refuse("another", c("tid", `"t3"`), token.WrongClaim),
		refuse("in other case", c("tid", `"T1"`), token.WrongClaim),
		refuse("a beginning", c("tid", `"t"`), token.WrongClaim),
		refuse("missing", c(), token.WrongClaim),
		refuse("null", c("tid", `null`), token.WrongClaim),
		refuse("empty list", c("tid", `[]`), token.WrongClaim),
		refuse("an object", c("tid", `{"t1":true}`), token.WrongClaim),
		refuse("a list in a list", c("tid", `[["t1"]]`), token.WrongClaim),
	})
	run(t, requiring("email_verified", "true"), []check{
		accept("true", c("email_verified", `true`)),
		accept("true as text", c("email_verified", `"true"`)),
		refuse("false", c("email_verified", `false`), token.WrongClaim),
		refuse("one", c("email_verified", `1`), token.WrongClaim),
	})
	run(t, requiring("level", "3"), []check{
		accept("number", c("level", `3`)),
		refuse("number with a fraction", c("level", `3.0`), token.WrongClaim),
		refuse("larger", c("level", `30`), token.WrongClaim),
	})
	run(t, requiring("kubernetes.io.serviceaccount.name", "web"), []check{
		accept("below a name with a dot", c("kubernetes.io", `{"serviceaccount":{"name":"web"}}`)),
		refuse("two ways", c("kubernetes.io", `{"serviceaccount":{"name":"web"}}`, "kubernetes.io.serviceaccount.name", `"web"`), token.WrongClaim),
	})
	run(t, requiring("sub"), []check{refuse("no value would do", c(), token.WrongClaim)})
	two := requiring("a", "1")
	two.Required = append(two.Required, token.Requirement{Claim: "b", Values: []string{"2"}})
	run(t, two, []check{
		accept("both", c("a", `"1"`, "b", `"2"`)),
		refuse("the first alone", c("a", `"1"`), token.WrongClaim),
		refuse("the second alone", c("b", `"2"`), token.WrongClaim),
	})
}

func TestTypes(t *testing.T) {
	of := func(typ, more string) string {
		return es256(`{"alg":"ES256","kid":"ec"`+typ+`}`, claims[:len(claims)-1]+more+"}")
	}
	taking := func(types ...token.Type) token.Rules {
		r := rules
		r.Types = types
		return r
	}
	const at, full = `,"typ":"at+jwt"`, `,"client_id":"app","iat":999999999,"jti":"7"`
	run(t, taking(token.AccessJWT), []check{
		accept("access token", of(at, full)),
		accept("its long name", of(`,"typ":"application/at+jwt"`, full)),
		refuse("JWT", of(`,"typ":"JWT"`, full), token.WrongType),
		refuse("no typ", of("", full), token.WrongType),
		refuse("without client_id", of(at, `,"iat":999999999,"jti":"7"`), token.BadClaim),
		refuse("client_id a number", of(at, `,"iat":999999999,"jti":"7","client_id":7`), token.BadClaim),
		refuse("without iat", of(at, `,"client_id":"app","jti":"7"`), token.BadClaim),
		refuse("without jti", of(at, `,"client_id":"app","iat":999999999`), token.BadClaim),
		refuse("jti empty", of(at, `,"client_id":"app","iat":999999999,"jti":""`), token.BadClaim),
	})
	run(t, taking(token.JWT, token.AccessJWT), []check{
		accept("access token without client_id", of(at, "")),
		accept("JWT", of(`,"typ":"JWT"`, "")),
		refuse("no typ", of("", ""), token.WrongType),
	})
	run(t, taking(token.NoType), []check{
		accept("no typ", of("", "")),
		refuse("typ empty", of(`,"typ":""`, ""), token.WrongType),
		refuse("JWT", of(`,"typ":"JWT"`, ""), token.WrongType),
	})
	run(t, taking("logout+jwt"), []check{refuse("of a logout token, whatever the rules", of(`,"typ":"logout+jwt"`, full), token.WrongType)})
}

func TestMaxLifetime(t *testing.T) {
	r := rules
	r.MaxLifetime = time.Hour
	lives := func(iat, exp int) string { return es256(header, with("iat", fmt.Sprint(iat), "exp", fmt.Sprint(exp))) }
	run(t, r, []check{
		accept("an hour", lives(1_000_000_000, 1_000_003_600)),
		refuse("a second more", lives(1_000_000_000, 1_000_003_601), token.LongLived),
		refuse("for ever", lives(999_999_999, 253402300799), token.LongLived),
		refuse("without iat", es256(header, claims), token.BadClaim),
	})
}

func TestIntrospection(t *testing.T) {
	good := `{"active":true,` + claims[1:]
	r := rules
	r.Algorithms, r.Types, r.GroupsClaim = []token.Algorithm{token.ES512}, []token.Type{token.AccessJWT}, "realm_access.roles"
	r.Required = []token.Requirement{{Claim: "client_id", Values: []string{"app"}}}
	const unusable = token.Reason("no answer")
	answer := func(pairs ...string) string {
		return with(append([]string{"active", "true", "client_id", `"app"`}, pairs...)...)
	}
	for _, c := range []struct {
		name, answer string
		want         token.Reason
	}{
		{"good", answer(), ""},
		{"issuer left out", answer("iss", ""), ""},
		{"other issuer", answer("iss", `"https://evil.example"`), token.WrongIssuer},
		{"other audience", answer("aud", `"billing"`), token.WrongAudience},
		{"audience left out", answer("aud", ""), token.WrongAudience},
		{"no end", answer("exp", ""), token.BadClaim},
		{"expired", answer("exp", "1"), token.Expired},
		{"not yet", answer("nbf", "1000001000"), token.NotYetValid},
		{"nobody", answer("sub", ""), token.BadClaim},
		{"required claim", answer("client_id", `"other"`), token.WrongClaim},
		{"inactive", `{"active":false}`, token.Inactive},
		{"inactive, with claims", strings.Replace(good, "true", "false", 1), token.Inactive},
		{"active as text", strings.Replace(good, "true", `"true"`, 1), unusable},
		{"active twice", strings.Replace(good, "true", `false,"active":true`, 1), unusable},
		{"active missing", claims, unusable},
		{"page", "<!doctype html>", unusable},
		{"nothing", "", unusable},
		{"list", "[" + good + "]", unusable},
		{"too long", good + strings.Repeat(" ", token.MaxIntrospectionSize), unusable},
	} {
		got, err := token.ReadIntrospection([]byte(c.answer), r, now)
		if c.want == unusable {
			if err == nil || strings.Contains(err.Error(), "refused") {
				t.Errorf("%s: claims %v, %v", c.name, got, err)
			}
			continue
		}
		if reasonOf(t, err) != c.want {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	got, err := token.ReadIntrospection([]byte(answer("iss", "", "realm_access", `{"roles":["shop"]}`)), r, now)
	if err != nil || got.Issuer != rules.Issuer || got.Subject != "alice" || !slices.Equal(got.Groups, []string{"shop"}) {
		t.Fatalf("claims %+v, %v", got, err)
	}
	if _, given := got.All["active"]; given || got.All["client_id"] != "app" {
		t.Errorf("all claims %v", got.All)
	}
	if _, err := token.ReadIntrospection([]byte(`{"active":true}`), token.Rules{}, now); err == nil {
		t.Error("empty rules accepted an answer")
	}
}

func TestLooksOpaque(t *testing.T) {
	good := es256(header, claims)
	for raw, opaque := range map[string]bool{
		good: false, good[:len(good)-9]: false, "eyJ9.x.y": true, "mF_9.B5f-4.1JqM": true, "": true, "..": true,
		good + ".": true, "ory_at_7hJ": true, b64([]byte("7")) + ".x.y": true,
		sign(jwt.SigningMethodES256, keys.ec, `{"alg":"none"}`, `[]`):  false,
		b64([]byte(`{"alg":"RSA-OAEP","enc":"A128GCM"}`)) + ".a.b.c.d": true,
	} {
		if token.LooksOpaque(raw) != opaque {
			t.Errorf("%q: opaque is not %v", raw, opaque)
		}
	}
}

// Whatever claims say, they are read as the standard library reads them, and
// never make more of a principal than they say.
func FuzzClaims(f *testing.F) {
	for _, s := range []string{
		claims, with("groups", `["a"]`), with("realm_access", `{"roles":["a","b"]}`), with("a.b", `["x"],"a":{"b":["y"]}`),
		with("_claim_names", `{"a.b":"s"}`), with("sub", `"alice\u0000"`), `{"a":{"b":"x"},"exp":1e9,"sub":"s"}`,
	} {
		f.Add([]byte(s), "a.b")
	}
	f.Add([]byte(claims), "sub")
	f.Fuzz(func(t *testing.T, document []byte, path string) {
		if len(document) == 0 || document[0] != '{' {
			return
		}
		r := rules
		r.GroupsClaim = path
		c, err := token.ReadIntrospection(append([]byte(`{"active":true,`), document[1:]...), r, now)
		if err != nil {
			return
		}
		var plain map[string]any
		if err := json.Unmarshal(document, &plain); err != nil {
			t.Fatalf("%q was read, %v", document, err)
		}
		if c.Subject == "" || c.Subject != plain["sub"] || c.Issuer != rules.Issuer {
			t.Fatalf("%q: subject %q of %q", document, c.Subject, c.Issuer)
		}
		if path == "" {
			path = "groups"
		}
		if all := everyReading(plain, path); len(c.Groups) > 0 && (len(all) != 1 || !reflect.DeepEqual(all[0], c.Groups)) {
			t.Fatalf("%q at %q: groups %q of %q", document, path, c.Groups, all)
		}
	})
}

// everyReading returns what a path leads to, as lists of text: found the other
// way round, by walking all that there is.
func everyReading(object map[string]any, path string) (all [][]string) {
	for name, v := range object {
		if name == path {
			switch v := v.(type) {
			case string:
				all = append(all, []string{v})
			case []any:
				var list []string
				for _, e := range v {
					list = append(list, fmt.Sprint(e))
				}
				all = append(all, list)
			default:
				all = append(all, nil)
			}
		}
		if inner, ok := v.(map[string]any); ok && strings.HasPrefix(path, name+".") {
			all = append(all, everyReading(inner, path[len(name)+1:])...)
		}
	}
	return all
}
