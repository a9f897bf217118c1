package authn_test

import (
	"encoding/base64"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/apikey"
	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/token"
)

// Whatever a request brought, and whatever its route took then and takes now:
// nobody stands who would not be let in with it now, and as nobody else; and whoever
// would be does, unless it is for something that was not looked at then.
func TestAgain(t *testing.T) {
	var c clock
	i := overTLS(t, "https://idp.example")
	g := newGate(t, i, authn.Config{Now: c.now, Wait: 10 * time.Second})
	now, key := c.now(), apikey.New()
	keys := func(digestOf string) []authn.APIKey {
		return []authn.APIKey{{Namespace: "shop", Name: "export", Secrets: []authn.APIKeySecret{
			{ID: key.ID, Digest: apikey.Digest(digestOf), CreatedAt: now, NotAfter: now.Add(8 * time.Minute)},
		}}}
	}
	thumb := token.Thumbprint{7}
	peer := authn.Peer{ID: web, Expires: now.Add(7 * time.Minute), Thumbprint: thumb}
	brings := map[string]authn.Credentials{"nothing": {}}
	tokens := map[string]jwt.MapClaims{
		"a token": {"auth_time": now.Unix(), "tier": "gold"}, "a token of little": {},
		"a bound token": {"cnf": map[string]any{"x5t#S256": base64.RawURLEncoding.EncodeToString(thumb[:])}, "tier": "gold"},
	}
	for name, claims := range tokens {
		brings[name] = bearerOf(i.token("one", now, claims))
	}
	for name, cred := range maps.Clone(brings) {
		both := authn.Credentials{Header: maps.Clone(cred.Header)}
		if both.Header == nil {
			both.Header = map[string][]string{}
		}
		both.Header["X-Api-Key"] = []string{key.Text}
		brings[name+" and a key"] = both
	}
	for name, cred := range maps.Clone(brings) {
		cred.Peer = peer
		brings[name+" and a certificate"] = cred
	}
	takes := map[string]authn.Accept{"nothing": {}, "anybody": {Anonymous: true}}
	for _, all := range []bool{false, true} {
		with := func(name string, a authn.Accept) {
			a.All = all
			takes[name+map[bool]string{true: ", all"}[all]] = a
		}
		with("tokens", shop)
		with("tokens and anybody", authn.Accept{Providers: shop.Providers, Anonymous: true})
		with("tokens of others", authn.Accept{Providers: []authn.ProviderName{{Namespace: "shop", Name: "other"}}})
		with("keys", authn.Accept{APIKeys: "shop"})
		with("keys of others", authn.Accept{APIKeys: "pay"})
		with("certificates", authn.Accept{ClientCertificates: true})
		with("tokens and keys", authn.Accept{Providers: shop.Providers, APIKeys: "shop"})
		with("tokens, keys and certificates", authn.Accept{Providers: shop.Providers, APIKeys: "shop", ClientCertificates: true})
		with("bound tokens", authn.Accept{Providers: shop.Providers, ClientCertificates: true, Proof: authn.CertificateProof})
		with("who has just signed in", authn.Accept{Providers: shop.Providers, StepUp: &authn.StepUp{MaxAge: 3 * time.Minute}})
		with("tokens that were asked for", authn.Accept{Providers: shop.Providers, Introspected: true})
	}
	demanding := i.provider("shop", "idp")
	demanding.Required = []token.Requirement{{Claim: "tier", Values: []string{"gold"}}}
	other := i.provider("shop", "idp")
	other.Audiences = []string{"elsewhere"}
	first := g.WithAPIKeys(keys(key.Text))
	become := map[string]*authn.Authenticator{
		"the same": first, "other keys": g.WithAPIKeys(keys(apikey.New().Text)), "no keys": g.Authenticator,
		"a claim is required": g.pool.Sync([]authn.Provider{demanding}).WithAPIKeys(keys(key.Text)),
		"another audience":    g.pool.Sync([]authn.Provider{other}), "no provider": new(authn.Authenticator),
	}
	stood, fell := 0, map[authn.Reason]int{}
	for bringing, cred := range brings {
		for then, accept := range takes {
			p, _ := first.Authenticate(t.Context(), cred, accept, now)
			if p == nil {
				continue
			}
			for later, accepts := range takes {
				for of, a := range become {
					standing := first.Stand(p, &accept)
					for _, at := range []time.Duration{0, 4 * time.Minute, 7 * time.Minute, 8 * time.Minute, time.Hour} {
						what := []any{bringing, then, later, of, at}
						fresh, denied := a.Authenticate(t.Context(), cred, accepts, now.Add(at))
						again, denial := a.Again(&standing, cred, accepts, now.Add(at))
						switch {
						case again != nil && (fresh == nil || !same(again, fresh)):
							t.Fatalf("%v: %+v stands, and who comes is %+v, %+v", what, again, fresh, denied)
						case again != nil:
							stood++
							continue
						case fresh != nil && then == later && of == "the same":
							t.Fatalf("%v: falls for %s", what, denial.Reason)
						case fresh != nil && !slices.Contains([]authn.Reason{"credentials_missing", "token_wrong_issuer", "api_key_invalid"}, denial.Reason):
							t.Fatalf("%v: falls for %s, and who comes is %+v", what, denial.Reason, fresh)
						}
						fell[denial.Reason]++
					}
				}
			}
		}
	}
	t.Logf("%d stood, %v fell", stood, fell)
	for _, reason := range []authn.Reason{
		"token_expired", "token_wrong_claim", "token_wrong_audience", "token_wrong_issuer", "step_up_required", "proof_missing",
		"certificate_expired", "api_key_expired", "api_key_invalid", "credentials_missing", "introspection_unavailable",
	} {
		if fell[reason] == 0 {
			t.Errorf("nobody fell for %s", reason)
		}
	}
	if stood < 1000 {
		t.Errorf("only %d stood", stood)
	}
}

// same compares what policies and revocations go by.
func same(a, b *policy.Principal) bool {
	return a.Kind == b.Kind && a.ID == b.ID && a.Issuer == b.Issuer && a.SPIFFEID == b.SPIFFEID && a.KeyName == b.KeyName &&
		a.KeyID == b.KeyID && a.TokenID == b.TokenID && a.Expires.Equal(b.Expires) && len(a.Beside) == len(b.Beside) &&
		slices.EqualFunc(a.Beside, b.Beside, same)
}
