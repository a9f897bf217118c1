package authn_test

import (
	"fmt"
	"net/http"
	"reflect"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/apikey"
	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/policy"
)

// secret is a key that is good for an hour.
func secret(k apikey.Key, now time.Time) authn.APIKeySecret {
	return authn.APIKeySecret{ID: k.ID, Digest: apikey.Digest(k.Text), CreatedAt: now.Add(-time.Minute), NotAfter: now.Add(time.Hour)}
}

func keyed(values ...string) authn.Credentials {
	return authn.Credentials{Header: map[string][]string{"X-Api-Key": values}}
}

func TestAPIKeys(t *testing.T) {
	var c clock
	one, rotated, eternal, over, theirs := apikey.New(), apikey.New(), apikey.New(), apikey.New(), apikey.New()
	forged := apikey.New()
	expired := secret(over, c.now())
	expired.NotAfter = c.now()
	last := secret(rotated, c.now())
	last.NotAfter = c.now().Add(time.Second)
	a := new(authn.Authenticator).WithAPIKeys([]authn.APIKey{
		{Namespace: "shop", Name: "export", Owner: "data-team", Scopes: []string{"orders:read"}, Groups: []string{"shop"}, Secrets: []authn.APIKeySecret{
			secret(one, c.now()), last, {ID: eternal.ID, Digest: apikey.Digest(eternal.Text)}, expired,
		}},
		{Namespace: "pay", Name: "export", Secrets: []authn.APIKeySecret{secret(theirs, c.now()), secret(forged, c.now())}},
		// Another namespace may have the same IDs: they prove nothing here.
		{Namespace: "evil", Name: "copy", Secrets: []authn.APIKeySecret{{ID: one.ID, Digest: apikey.Digest(forged.Text)}}},
	})
	swapped := one.Text[:len(one.Text)-1] + "0"
	if swapped == one.Text {
		swapped = one.Text[:len(one.Text)-1] + "1"
	}
	shop, pay, evil := authn.Accept{APIKeys: "shop"}, authn.Accept{APIKeys: "pay"}, authn.Accept{APIKeys: "evil"}
	for _, tc := range []struct {
		name   string
		cred   authn.Credentials
		accept authn.Accept
		want   string
	}{
		{"as it should be", keyed(one.Text), shop, "data-team"},
		{"within the overlap of a rotation", keyed(rotated.Text), shop, "data-team"},
		{"without an end", keyed(eternal.Text), shop, "data-team"},
		{"without an owner", keyed(theirs.Text), pay, "pay/export"},
		{"expired", keyed(over.Text), shop, "api_key_expired"},
		{"of another namespace", keyed(theirs.Text), shop, "api_key_invalid"},
		{"ours at another namespace", keyed(one.Text), pay, "api_key_invalid"},
		{"ours where another has its ID", keyed(one.Text), evil, "api_key_invalid"},
		{"nobody's", keyed(apikey.New().Text), shop, "api_key_invalid"},
		{"one character changed", keyed(swapped), shop, "api_key_malformed"},
		{"only the ID", keyed(one.ID), shop, "api_key_malformed"},
		{"empty", keyed(""), shop, "api_key_malformed"},
		{"with a scheme", keyed("Bearer " + one.Text), shop, "api_key_malformed"},
		{"twice", keyed(one.Text, one.Text), shop, "api_key_malformed"},
		{"two in one", keyed(one.Text + "," + one.Text), shop, "api_key_malformed"},
		{"none", authn.Credentials{}, shop, "credentials_missing"},
		{"in the wrong field", bearerOf(one.Text), shop, "credentials_missing"},
		{"where none is taken", keyed(one.Text), authn.Accept{ClientCertificates: true}, "credentials_missing"},
		{"where anybody is let in", keyed(one.Text), authn.Accept{Anonymous: true}, "anonymous"},
		{"bad where anybody is let in", keyed(swapped), authn.Accept{APIKeys: "shop", Anonymous: true}, "api_key_malformed"},
	} {
		if got := outcome(t, a, tc.cred, tc.accept, c.now()); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
	c.advance(time.Second)
	if got := outcome(t, a, keyed(rotated.Text), shop, c.now()); got != "api_key_expired" {
		t.Errorf("after the overlap: %s", got)
	}
	if got := outcome(t, new(authn.Authenticator), keyed(one.Text), shop, c.now()); got != "api_key_invalid" {
		t.Errorf("zero Authenticator: %s", got)
	}
}

func TestPrincipalOfAPIKey(t *testing.T) {
	var c clock
	k := apikey.New()
	a := new(authn.Authenticator).WithAPIKeys([]authn.APIKey{{
		Namespace: "shop", Name: "export", Owner: "data-team", Scopes: []string{"orders:read"}, Groups: []string{"shop"},
		Secrets: []authn.APIKeySecret{secret(k, c.now())},
	}})
	want := &policy.Principal{
		Kind: policy.Key, ID: "data-team", KeyName: "shop/export", KeyID: k.ID, Scopes: []string{"orders:read"}, Groups: []string{"shop"},
		AuthenticatedBy: "api-key", IssuedAt: c.now().Add(-time.Minute), Expires: c.now().Add(time.Hour),
	}
	got, d := a.Authenticate(t.Context(), keyed(k.Text), authn.Accept{APIKeys: "shop"}, c.now())
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, denial %v", got, d)
	}
}

// Whether an ID is known cannot be told from the answer.
func TestUnknownKeysAreAnsweredAsWrongOnes(t *testing.T) {
	var c clock
	known := apikey.New()
	wrong := secret(known, c.now())
	wrong.Digest[0]++
	a := new(authn.Authenticator).WithAPIKeys([]authn.APIKey{{Namespace: "shop", Name: "export", Secrets: []authn.APIKeySecret{wrong}}})
	for name, k := range map[string]apikey.Key{"known": known, "unknown": apikey.New()} {
		_, d := a.Authenticate(t.Context(), keyed(k.Text), authn.Accept{APIKeys: "shop"}, c.now())
		if want := (authn.Denial{Status: http.StatusUnauthorized, Reason: "api_key_invalid", Challenge: `ApiKey realm="sallyport"`}); d == nil || *d != want {
			t.Errorf("%s ID: %+v", name, d)
		}
	}
}

// Of several credentials the first kind is the principal, and what the others
// prove is known of it.
func TestAPIKeysBesideOthers(t *testing.T) {
	var c clock
	i := overTLS(t, "https://idp.example")
	g := newGate(t, i, authn.Config{Now: c.now, Wait: time.Minute})
	k := apikey.New()
	short := secret(k, c.now())
	short.NotAfter = c.now().Add(time.Second)
	a := g.WithAPIKeys([]authn.APIKey{{Namespace: "shop", Name: "export", Secrets: []authn.APIKeySecret{short}}})
	all := authn.Credentials{
		Header: map[string][]string{"Authorization": {"Bearer " + i.token("one", c.now(), nil)}, "X-Api-Key": {k.Text}},
		Peer:   authn.Peer{ID: web, Expires: c.now().Add(time.Hour)},
	}
	each := authn.Accept{Providers: shop.Providers, APIKeys: "shop", ClientCertificates: true, All: true}
	p, d := a.Authenticate(t.Context(), all, each, c.now())
	if d != nil || p.ID != "alice" || p.Kind != policy.User || p.KeyName != "shop/export" || p.KeyID != k.ID || p.SPIFFEID != web || !p.Expires.Equal(short.NotAfter) {
		t.Errorf("each: %+v, denial %+v", p, d)
	}
	if len(p.Beside) != 2 || p.Beside[0].KeyID != k.ID || !p.Beside[0].IssuedAt.Equal(short.CreatedAt) || p.Beside[1].ID != web {
		t.Errorf("beside the token: %+v", p.Beside)
	}
	if again, _ := a.Authenticate(t.Context(), all, each, c.now()); len(again.Beside) != 2 {
		t.Errorf("another time: %+v", again.Beside)
	}
	each.Providers = nil
	if p, d = a.Authenticate(t.Context(), all, each, c.now()); d != nil || p.Kind != policy.Key || p.ID != "shop/export" || p.SPIFFEID != web {
		t.Errorf("key and certificate: %+v, denial %+v", p, d)
	}
	either := authn.Accept{Providers: shop.Providers, APIKeys: "shop", ClientCertificates: true}
	delete(all.Header, "Authorization")
	if got := outcome(t, a, all, either, c.now()); got != "shop/export over "+web && got != "shop/export" {
		t.Errorf("any: %s", got)
	}
	delete(all.Header, "X-Api-Key")
	if got := outcome(t, a, all, either, c.now()); got != web {
		t.Errorf("certificate alone: %s", got)
	}
	each = authn.Accept{APIKeys: "shop", ClientCertificates: true, All: true}
	if got := outcome(t, a, all, each, c.now()); got != "credentials_missing" {
		t.Errorf("certificate where each is wanted: %s", got)
	}
}

func BenchmarkAPIKey(b *testing.B) {
	var c clock
	var keys []authn.APIKey
	var k apikey.Key
	for range 10_000 {
		k = apikey.New()
		keys = append(keys, authn.APIKey{Namespace: "shop", Name: k.ID, Secrets: []authn.APIKeySecret{secret(k, c.now())}})
	}
	a, cred, accept := new(authn.Authenticator).WithAPIKeys(keys), keyed(k.Text), authn.Accept{APIKeys: "shop"}
	b.ReportAllocs()
	for b.Loop() {
		if _, d := a.Authenticate(b.Context(), cred, accept, c.now()); d != nil {
			b.Fatal(d)
		}
	}
	fmt.Printf("figure api_key %d ns\n", b.Elapsed().Nanoseconds()/int64(b.N))
}
