package identity_test

import (
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/identity"
)

func TestParseID(t *testing.T) {
	for _, c := range []struct {
		in string
		td identity.TrustDomain // "" means refused
	}{
		{"spiffe://prod.example/ns/shop/web", "prod.example"},
		{"spiffe://a_b-1.example/W.x-Y_9", "a_b-1.example"},
		{"spiffe://prod.example/" + strings.Repeat("a", 2048-len("spiffe://prod.example/")), "prod.example"},

		{"", ""},
		{"spiffe://prod.example", ""}, // a trust domain, not a workload
		{"spiffe://prod.example/", ""},
		{"spiffe:///web", ""},
		{"SPIFFE://prod.example/web", ""},
		{"https://prod.example/web", ""},
		{"spiffe://Prod.example/web", ""},
		{"spiffe://prod.example:443/web", ""},
		{"spiffe://user@prod.example/web", ""},
		{"spiffe://prod.example/a//b", ""},
		{"spiffe://prod.example/a/../b", ""},
		{"spiffe://prod.example/a/.", ""},
		{"spiffe://prod.example/a%2Fb", ""},
		{"spiffe://prod.example/a?b", ""},
		{"spiffe://prod.example/a#b", ""},
		{"spiffe://prod.example/wéb", ""},
		{"spiffe://prod.example/web\n", ""},
		{" spiffe://prod.example/web", ""},
		{"spiffe://" + strings.Repeat("a", 256) + "/web", ""},
		{"spiffe://prod.example/" + strings.Repeat("a", 2048), ""},
	} {
		id, err := identity.ParseID(c.in)
		if (err == nil) != (c.td != "") {
			t.Errorf("ParseID(%q): %v", c.in, err)
		}
		if id.TrustDomain() != c.td {
			t.Errorf("ParseID(%q).TrustDomain() = %q, want %q", c.in, id.TrustDomain(), c.td)
		}
		if err == nil && string(id) != c.in {
			t.Errorf("ParseID(%q) = %q: the form changed", c.in, id)
		}
	}
}

func TestParseTrustDomain(t *testing.T) {
	for in, ok := range map[string]bool{
		"prod.example": true, "a": true,
		"": false, "Prod.example": false, "spiffe://prod.example": false, "spiffe://prod.example/web": false,
		"prod.example/": false, "prod.example:1": false, strings.Repeat("a", 256): false,
	} {
		td, err := identity.ParseTrustDomain(in)
		if (err == nil) != ok || (ok && string(td) != in) || (!ok && td != "") {
			t.Errorf("ParseTrustDomain(%q) = %q, %v", in, td, err)
		}
	}
}

type prefix string

func (p prefix) Match(id string) bool { return strings.HasPrefix(id, string(p)) }
func (p prefix) String() string       { return string(p) + "**" }

func TestAuthorizers(t *testing.T) {
	for name, c := range map[string]struct {
		who  identity.Authorizer
		id   identity.ID
		want bool
	}{
		"only: named":                  {identity.Only(control, proxy), proxy, true},
		"only: not named":              {identity.Only(control), proxy, false},
		"only: nobody named":           {identity.Only(), proxy, false},
		"only: zero is nobody":         {identity.Only(""), "", false},
		"member":                       {identity.Member(domain), proxy, true},
		"member: elsewhere":            {identity.Member("other.example"), proxy, false},
		"member: zero domain":          {identity.Member(""), "", false},
		"matching: second":             {identity.Matching(prefix("spiffe://x/"), prefix("spiffe://prod")), proxy, true},
		"matching: none of them":       {identity.Matching(prefix("spiffe://x/")), proxy, false},
		"matching: no pattern":         {identity.Matching(), proxy, false},
		"member: domain as a prefix":   {identity.Member("prod.exam"), proxy, false},
		"member: domain in upper case": {identity.Member("PROD.example"), proxy, false},
	} {
		if got := c.who(c.id) == nil; got != c.want {
			t.Errorf("%s: lets %q in: %v, want %v", name, c.id, got, c.want)
		}
	}
}

func TestSocketAddr(t *testing.T) {
	for path, want := range map[string]string{
		"/run/spire/agent.sock":         "unix:///run/spire/agent.sock",
		"/run/with space?/s":            "unix:///run/with%20space%3F/s",
		"relative.sock":                 "",
		"":                              "",
		"/" + strings.Repeat("a", 103):  "",
		"/" + strings.Repeat("ü", 51):   "unix:///" + strings.Repeat("%C3%BC", 51),
		"/" + strings.Repeat("ü", 51+1): "",
	} {
		got, err := identity.SocketAddr(path)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("SocketAddr(%q) = %q, %v, want %q", path, got, err, want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, cfg := range map[string]identity.Config{
		"no address":       {Log: quiet()},
		"no log":           {SocketAddr: "unix:///run/s"},
		"bare path":        {Log: quiet(), SocketAddr: "/run/s"},
		"relative path":    {Log: quiet(), SocketAddr: "unix://run/s"},
		"path too long":    {Log: quiet(), SocketAddr: "unix:///" + strings.Repeat("a", 103)},
		"host name":        {Log: quiet(), SocketAddr: "tcp://localhost:1"},
		"negative waiting": {Log: quiet(), SocketAddr: "unix:///run/s", RetryCap: -1},
	} {
		if _, err := identity.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
