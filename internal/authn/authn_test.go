package authn_test

import (
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/token"
)

const (
	web          = "spiffe://prod.example/ns/shop/web"
	plain        = `Bearer realm="sallyport"`
	badRequest   = plain + `, error="invalid_request", error_description="The Authorization header is malformed"`
	badToken     = plain + `, error="invalid_token", error_description="The access token is not valid here"`
	wantsAnSVID  = `Certificate realm="sallyport"`
	unauthorized = http.StatusUnauthorized
)

func TestAuthorizationHeader(t *testing.T) {
	var c clock
	i := overTLS(t, "https://idp.example")
	g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute})
	good := i.token("one", c.now(), nil)
	for _, tc := range []struct {
		name   string
		values []string
		want   authn.Denial // zero: let in
	}{
		{"as it should be", []string{"Bearer " + good}, authn.Denial{}},
		{"scheme in other case", []string{"bEARER " + good}, authn.Denial{}},
		{"several spaces", []string{"Bearer   " + good}, authn.Denial{}},
		{"none", nil, authn.Denial{Status: unauthorized, Reason: "credentials_missing", Challenge: plain}},
		{"empty", []string{""}, authn.Denial{Status: 400, Reason: "credentials_malformed", Challenge: badRequest}},
		{"scheme alone", []string{"Bearer"}, authn.Denial{Status: 400, Reason: "credentials_malformed", Challenge: badRequest}},
		{"scheme and a space", []string{"Bearer "}, authn.Denial{Status: 400, Reason: "credentials_malformed", Challenge: badRequest}},
		{"leading space", []string{" Bearer " + good}, authn.Denial{Status: 400, Reason: "credentials_malformed", Challenge: badRequest}},
		{"trailing space", []string{"Bearer " + good + " "}, authn.Denial{Status: 400, Reason: "credentials_malformed", Challenge: badRequest}},
		{"tab", []string{"Bearer\t" + good}, authn.Denial{Status: unauthorized, Reason: "scheme_unsupported", Challenge: plain}},
		{"two headers", []string{"Bearer " + good, "Bearer " + good}, authn.Denial{Status: 400, Reason: "credentials_malformed", Challenge: badRequest}},
		{"two headers, the first empty", []string{"", "Bearer " + good}, authn.Denial{Status: 400, Reason: "credentials_malformed", Challenge: badRequest}},
		{"two tokens in one header", []string{"Bearer " + good + ", Bearer " + good}, authn.Denial{Status: 400, Reason: "credentials_malformed", Challenge: badRequest}},
		{"two tokens behind one scheme", []string{"Bearer " + good + "," + good}, authn.Denial{Status: 400, Reason: "credentials_malformed", Challenge: badRequest}},
		{"quoted", []string{`Bearer "` + good + `"`}, authn.Denial{Status: 400, Reason: "credentials_malformed", Challenge: badRequest}},
		{"only padding", []string{`Bearer ==`}, authn.Denial{Status: 400, Reason: "credentials_malformed", Challenge: badRequest}},
		{"control character", []string{"Bearer " + good + "\x00"}, authn.Denial{Status: 400, Reason: "credentials_malformed", Challenge: badRequest}},
		{"token without scheme", []string{good}, authn.Denial{Status: unauthorized, Reason: "scheme_unsupported", Challenge: plain}},
		{"basic", []string{"Basic YTpi"}, authn.Denial{Status: unauthorized, Reason: "scheme_unsupported", Challenge: plain}},
		{"opaque token", []string{"Bearer mF_9.B5f-4.1JqM/+~=="}, authn.Denial{Status: unauthorized, Reason: "token_malformed", Challenge: badToken}},
		{"long", []string{"Bearer " + strings.Repeat("a", token.MaxSize+1)}, authn.Denial{Status: unauthorized, Reason: "token_malformed", Challenge: badToken}},
	} {
		p, d := g.Authenticate(t.Context(), authn.Credentials{Header: map[string][]string{"Authorization": tc.values}}, shop, c.now())
		switch letIn := tc.want.Status == 0; {
		case letIn && (p == nil || d != nil):
			t.Errorf("%s: denied with %+v", tc.name, d)
		case !letIn && (p != nil || d == nil || *d != tc.want):
			t.Errorf("%s: principal %v, denial %+v; want %+v", tc.name, p, d, tc.want)
		}
	}
	if got := g.metric(`sallyport_authentication_denials_total{reason="credentials_malformed"}`); got != "12" {
		t.Errorf("%s malformed credentials counted", got)
	}
}

func TestTokens(t *testing.T) {
	var c clock
	i := overTLS(t, "https://idp.example")
	g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute, CoolDown: time.Hour})
	in := func(d time.Duration) int64 { return c.now().Add(d).Unix() }
	with := func(claims jwt.MapClaims) string { return i.token("one", c.now(), claims) }
	good := with(nil)
	other := overTLS(t, "https://idp.example")
	for _, tc := range []struct{ name, raw, want string }{
		{"as it should be", good, "alice"},
		{"again", good, "alice"},
		{"other subject", with(jwt.MapClaims{"sub": "bob"}), "bob"},
		{"signature cut", good[:len(good)-2], "token_bad_signature"},
		{"key of the same name of somebody else", other.token("one", c.now(), nil), "token_bad_signature"},
		{"unknown key", i.token("two", c.now(), nil), "token_unknown_key"},
		{"other issuer", with(jwt.MapClaims{"iss": "https://evil.example"}), "token_wrong_issuer"},
		{"no issuer", with(jwt.MapClaims{"iss": nil}), "token_wrong_issuer"},
		{"audience in a list", with(jwt.MapClaims{"aud": []string{"billing", "orders"}}), "alice"},
		{"audience in a list without ours", with(jwt.MapClaims{"aud": []string{"billing"}}), "token_wrong_audience"},
		{"expired within the leeway", with(jwt.MapClaims{"exp": in(-29 * time.Second)}), "alice"},
		{"expired a second beyond the leeway", with(jwt.MapClaims{"exp": in(-31 * time.Second)}), "token_expired"},
		{"not yet", with(jwt.MapClaims{"nbf": in(31 * time.Second)}), "token_not_yet_valid"},
		{"groups that are none", with(jwt.MapClaims{"groups": 7}), "token_bad_claim"},
	} {
		if got := g.ask(tc.raw); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

func TestPrincipal(t *testing.T) {
	var c clock
	i := overTLS(t, "https://idp.example")
	g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute})
	exp := c.now().Add(time.Minute)
	raw := i.token("one", c.now(), jwt.MapClaims{"exp": exp.Unix(), "tier": "gold"})
	user := &policy.Principal{
		Kind: policy.User, ID: "alice", Issuer: "https://idp.example", Groups: []string{"shop"}, Provider: "shop/idp",
		AuthenticatedBy: "jwt", Expires: exp.UTC(),
		Claims: map[string]any{"iss": "https://idp.example", "aud": "orders", "sub": "alice", "groups": []any{"shop"}, "exp": exp.Unix(), "tier": "gold"},
	}
	for range 2 { // verified, then remembered
		if got, d := g.Authenticate(t.Context(), bearerOf(raw), shop, c.now()); !reflect.DeepEqual(got, user) {
			t.Errorf("user %+v, denial %v", got, d)
		}
	}
	workload := &policy.Principal{Kind: policy.Workload, ID: web, SPIFFEID: web, AuthenticatedBy: "x509-svid", Expires: exp}
	got, d := g.Authenticate(t.Context(), authn.Credentials{Peer: authn.Peer{ID: web, Expires: exp}}, authn.Accept{ClientCertificates: true}, c.now())
	if !reflect.DeepEqual(got, workload) {
		t.Errorf("workload %+v, denial %v", got, d)
	}
}

// What a route takes decides which credential is looked at; a bad one is never
// made good by another.
func TestWhatARouteTakes(t *testing.T) {
	var c clock
	i := overTLS(t, "https://idp.example")
	g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute})
	good := i.token("one", c.now(), nil)
	bad := i.token("one", c.now(), jwt.MapClaims{"aud": "billing"})

	certificate := authn.Credentials{Peer: authn.Peer{ID: web, Expires: c.now().Add(time.Second)}}
	expired := authn.Credentials{Peer: authn.Peer{ID: web, Expires: c.now()}}
	and := func(cred authn.Credentials, values ...string) authn.Credentials {
		cred.Header = map[string][]string{"Authorization": values}
		return cred
	}
	jwtOnly, svidOnly := shop, authn.Accept{ClientCertificates: true}
	both, open := authn.Accept{Providers: shop.Providers, ClientCertificates: true}, authn.Accept{Anonymous: true}
	all := authn.Accept{Providers: shop.Providers, ClientCertificates: true, Anonymous: true}
	each := authn.Accept{Providers: shop.Providers, ClientCertificates: true, All: true}
	elsewhere := authn.Accept{Providers: []authn.ProviderName{{Namespace: "billing", Name: "idp"}}}

	for _, tc := range []struct {
		name   string
		cred   authn.Credentials
		accept authn.Accept
		want   string
	}{
		{"token where tokens are taken", bearerOf(good), jwtOnly, "alice"},
		{"certificate where tokens are taken", certificate, jwtOnly, "credentials_missing"},
		{"certificate where certificates are taken", certificate, svidOnly, web},
		{"token where certificates are taken", bearerOf(good), svidOnly, "credentials_missing"},
		{"certificate, and a header for the upstream", and(certificate, "Basic YTpi"), svidOnly, web},
		{"certificate expired on an open connection", expired, svidOnly, "certificate_expired"},
		{"certificate without its end", authn.Credentials{Peer: authn.Peer{ID: web}}, svidOnly, "certificate_expired"},
		{"nothing where both are taken", authn.Credentials{}, both, "credentials_missing"},
		{"token where both are taken", bearerOf(good), both, "alice"},
		{"certificate where both are taken", certificate, both, web},
		{"both where both are taken", and(certificate, "Bearer "+good), both, "alice"},
		{"bad token and certificate", and(certificate, "Bearer "+bad), both, "token_wrong_audience"},
		{"rubbish and certificate", and(certificate, "Bearer !"), both, "credentials_malformed"},
		{"other scheme and certificate", and(certificate, "Basic YTpi"), both, "scheme_unsupported"},
		{"good token and expired certificate", and(expired, "Bearer "+good), both, "alice"},
		{"nothing where anybody is let in", authn.Credentials{}, open, "anonymous"},
		{"nothing where anything is taken", authn.Credentials{}, all, "anonymous"},
		{"token where anything is taken", bearerOf(good), all, "alice"},
		{"bad token where anything is taken", bearerOf(bad), all, "token_wrong_audience"},
		{"expired certificate where anything is taken", expired, all, "certificate_expired"},
		{"both where each is wanted", and(certificate, "Bearer "+good), each, "alice over " + web},
		{"token where each is wanted", bearerOf(good), each, "credentials_missing"},
		{"certificate where each is wanted", certificate, each, "credentials_missing"},
		{"good token and expired certificate where each is wanted", and(expired, "Bearer "+good), each, "certificate_expired"},
		{"bad token and certificate where each is wanted", and(certificate, "Bearer "+bad), each, "token_wrong_audience"},
		{"nothing where each is wanted", authn.Credentials{}, each, "credentials_missing"},
		{"each of nothing", and(certificate, "Bearer "+good), authn.Accept{All: true}, "credentials_missing"},
		{"all of it where nothing is taken", and(certificate, "Bearer "+good), authn.Accept{}, "credentials_missing"},
		{"provider that the snapshot lacks", bearerOf(good), elsewhere, "token_wrong_issuer"},
	} {
		if got := outcome(t, g.Authenticator, tc.cred, tc.accept, c.now()); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
	if _, d := g.Authenticate(t.Context(), authn.Credentials{}, svidOnly, c.now()); d.Challenge != wantsAnSVID || d.Status != unauthorized {
		t.Errorf("no certificate: %+v", d)
	}
	if got := outcome(t, new(authn.Authenticator), bearerOf(good), all, c.now()); got != "token_wrong_issuer" {
		t.Errorf("zero Authenticator: %s", got)
	}
}

// A token is verified by the provider whose issuer it names, with that
// provider's rules, even when the same token has just been good for another.
func TestProviderIsChosenByIssuer(t *testing.T) {
	var c clock
	i, partner := overTLS(t, "https://idp.example"), overTLS(t, "https://partner.example")
	g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute})
	orders, billing := i.provider("shop", "idp"), i.provider("shop", "idp-billing")
	billing.Audiences, billing.GroupsClaim = []string{"billing"}, "roles"
	foreign := partner.provider("shop", "partner")
	// Both servers have certificates of the same test authority.
	g.Authenticator = g.pool.Sync([]authn.Provider{orders, billing, foreign})
	name := func(names ...string) (a authn.Accept) {
		for _, n := range names {
			a.Providers = append(a.Providers, authn.ProviderName{Namespace: "shop", Name: n})
		}
		return a
	}
	ours, theirs := i.token("one", c.now(), nil), partner.token("one", c.now(), jwt.MapClaims{"sub": "eve"})
	twofold := i.token("one", c.now(), jwt.MapClaims{"aud": []string{"orders", "billing"}, "roles": []string{"clerk"}})
	asOurs := partner.token("one", c.now(), jwt.MapClaims{"iss": i.name})
	for _, tc := range []struct {
		name, raw string
		accept    authn.Accept
		want      string
	}{
		{"ours", ours, name("idp"), "alice"},
		{"ours at the partner's route", ours, name("partner"), "token_wrong_issuer"},
		{"theirs at our route", theirs, name("idp"), "token_wrong_issuer"},
		{"theirs at a route of both", theirs, name("idp", "partner"), "eve"},
		{"signed by the partner in our name", asOurs, name("idp", "partner"), "token_bad_signature"},
		{"same issuer, other audience", ours, name("idp-billing"), "token_wrong_audience"},
		{"same issuer, the audience decides", i.token("one", c.now(), jwt.MapClaims{"sub": "bob"}), name("idp-billing", "idp"), "bob"},
		{"same issuer, the audience decides, other order", i.token("one", c.now(), jwt.MapClaims{"sub": "carol"}), name("idp", "idp-billing"), "carol"},
	} {
		if got := outcome(t, g.Authenticator, bearerOf(tc.raw), tc.accept, c.now()); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
	for n, groups := range map[string][]string{"idp": {"shop"}, "idp-billing": {"clerk"}} {
		p, d := g.Authenticate(t.Context(), bearerOf(twofold), name(n), c.now())
		if d != nil || !slices.Equal(p.Groups, groups) || p.Provider != "shop/"+n {
			t.Errorf("%s: principal %+v, denial %+v; want groups %v", n, p, d, groups)
		}
	}
}

func FuzzBearer(f *testing.F) {
	var c clock
	i := overTLS(f, "https://idp.example")
	g := newGate(f, i, authn.Config{Now: c.now, Wait: time.Minute, CoolDown: time.Hour})
	good := i.token("one", c.now(), nil)
	for _, s := range []string{"Bearer " + good, "bearer  " + good, "Bearer", "Basic YTpi", "Bearer a,b", "Bearer a.b.c", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got := outcome(t, g.Authenticator, authn.Credentials{Header: map[string][]string{"Authorization": {value}}}, shop, c.now())
		scheme, rest, _ := strings.Cut(value, " ")
		if isGood := strings.EqualFold(scheme, "bearer") && strings.TrimLeft(rest, " ") == good; isGood != (got == "alice") {
			t.Fatalf("%q: %s", value, got)
		}
	})
}
