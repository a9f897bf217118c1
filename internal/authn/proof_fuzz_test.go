package authn_test

import (
	"log/slog"
	"net/url"
	"path"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/authn"
)

// Bits of what is wrong with a proof.
const (
	ofAnotherKey = 1 << iota
	ofAnotherToken
)

// A proof that is taken is by the key of its token, for the token, for this
// method and URL as net/url reads it, and of now; it is taken once, whatever time
// it is, and neither for another method nor for another path.
func FuzzProof(f *testing.F) {
	const good = "https://api.shop.example/v1/orders"
	start := new(clock).now()
	i, owner, thief := newIssuer("https://idp.example"), newHolder(f), newHolder(f)
	spec := i.provider("shop", "idp")
	spec.JWKSURL, spec.JWKS = "", i.keySet("one")
	bound := i.token("one", start, jwt.MapClaims{"cnf": map[string]any{"jkt": owner.jkt()}, "exp": start.Add(24 * time.Hour).Unix()})
	f.Add("GET", good, "one", int16(0), int16(0), byte(0))
	f.Fuzz(func(t *testing.T, method, htu, id string, at, later int16, wrong byte) {
		pool, err := authn.New(authn.Config{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		a := pool.Sync([]authn.Provider{spec})
		by, of := owner, bound
		if wrong&ofAnotherKey != 0 {
			by = thief
		}
		if wrong&ofAnotherToken != 0 {
			of += "x"
		}
		made := start.Add(time.Duration(at) * time.Second)
		c := with("DPoP "+bound, by.sign(jwt.MapClaims{"jti": id, "htm": method, "htu": htu, "iat": made.Unix(), "ath": ath(of)}))
		for _, change := range []func(*authn.Credentials){
			func(c *authn.Credentials) { c.Method = method + "X" },
			func(c *authn.Credentials) { c.Path += "/x" },
			func(c *authn.Credentials) { c.Host = "x." + c.Host },
		} {
			other := c
			change(&other)
			if got := outcome(t, a, other, shop, start); got == "alice" && (method != other.Method || !orders(htu, &other)) {
				t.Fatalf("%q %q is a proof for %s %s%s", method, htu, other.Method, other.Host, other.Path)
			}
		}
		got := outcome(t, a, c, shop, start)
		sound := wrong&(ofAnotherKey|ofAnotherToken) == 0 && method == "GET" && id != "" && at >= -60 && at <= 30
		if got == "alice" && (!sound || !orders(htu, &c)) {
			t.Fatalf("%q %q %q, %d s, wrong %b: taken", method, htu, id, at, wrong)
		}
		if got != "alice" && sound && htu == good && len(id) <= 256 && utf8.ValidString(id) {
			t.Fatalf("good proof %q: %s", id, got)
		}
		if again := outcome(t, a, c, shop, start.Add(time.Duration(later)*time.Second)); got == "alice" && again == "alice" {
			t.Fatalf("taken again after %d s", later)
		}
	})
}

// orders reports whether htu is the URL of a request, as others would read it.
func orders(htu string, c *authn.Credentials) bool {
	u, err := url.Parse(htu)
	return err == nil && strings.EqualFold(u.Scheme, "https") && u.User == nil && strings.EqualFold(u.Hostname(), c.Host) &&
		(u.Port() == "" || u.Port() == "443") && path.Clean("/"+u.Path) == c.Path
}
