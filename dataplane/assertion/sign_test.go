package assertion_test

import (
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/assertion"
	"github.com/sallyport/sallyport/internal/policy"
)

// What an assertion says, by a reader that knows nothing but the published keys.
func TestWhatAnAssertionSays(t *testing.T) {
	p := start(t, filepath.Join(t.TempDir(), "keys"))
	defer p.stop()
	p.report()
	web := "spiffe://prod.example/ns/shop/web"
	over := *alice
	over.SPIFFEID = web
	now := time.Now()
	for _, c := range []struct {
		name      string
		principal *policy.Principal
		want      map[string]any
	}{
		{"a user", alice, map[string]any{"sub": "alice", "kind": "user", "principal_iss": "https://idp.example", "groups": []any{"shop", "staff"}}},
		{"a user over a workload's connection", &over, map[string]any{
			"sub": "alice", "kind": "user", "principal_iss": "https://idp.example", "groups": []any{"shop", "staff"}, "spiffe_id": web,
		}},
		{"a workload", &policy.Principal{Kind: policy.Workload, ID: web, SPIFFEID: web}, map[string]any{
			"sub": web, "kind": "workload", "groups": []any{}, "spiffe_id": web,
		}},
		{"odd names", &policy.Principal{Kind: policy.User, ID: `"},\u0000é`, Issuer: "x"}, map[string]any{
			"sub": `"},\u0000é`, "kind": "user", "principal_iss": "x", "groups": []any{},
		}},
	} {
		c.want["iss"], c.want["aud"], c.want["route"] = "urn:sallyport:environment:aws", "shop/orders", "shop/orders"
		c.want["iat"], c.want["exp"] = now.Unix(), now.Unix()+60
		claims, err := p.verify(p.signer.Header(about(c.principal), now)[0])
		if err != nil || !reflect.DeepEqual(claims.All, c.want) {
			t.Errorf("%s: %v, %v\nwant %v", c.name, claims, err, c.want)
		}
	}
	nobody := p.signer.Header(about(&policy.Principal{}), now)
	if len(nobody) != 1 || strings.Contains(nobody[0], "sub") {
		t.Errorf("about nobody: %q", nobody)
	}
}

// An assertion is used again for half a minute, for the same that it says and no
// other, without any allocation.
func TestAssertionsAreUsedAgain(t *testing.T) {
	p := start(t, filepath.Join(t.TempDir(), "keys"))
	defer p.stop()
	p.report()
	now := time.Unix(2_000_000_000, 0)
	ask := func(change func(*assertion.About, *policy.Principal), after time.Duration) string {
		who := *alice
		a := about(&who)
		if change != nil {
			change(a, &who)
		}
		return p.signer.Header(a, now.Add(after))[0]
	}
	first := ask(nil, 0)
	for _, after := range []time.Duration{0, time.Second, 29 * time.Second} {
		if ask(nil, after) != first {
			t.Errorf("after %v it is another", after)
		}
	}
	changes := map[string]func(*assertion.About, *policy.Principal){
		"environment": func(a *assertion.About, _ *policy.Principal) { a.Environment = "gcp" },
		"route":       func(a *assertion.About, _ *policy.Principal) { a.Route = "shop/other" },
		"audience":    func(a *assertion.About, _ *policy.Principal) { a.Audience = "shop/other" },
		"subject":     func(_ *assertion.About, p *policy.Principal) { p.ID = "bob" },
		"issuer":      func(_ *assertion.About, p *policy.Principal) { p.Issuer = "https://other.example" },
		"kind":        func(_ *assertion.About, p *policy.Principal) { p.Kind = policy.Key },
		"SPIFFE ID":   func(_ *assertion.About, p *policy.Principal) { p.SPIFFEID = "spiffe://prod.example/x" },
		"groups":      func(_ *assertion.About, p *policy.Principal) { p.Groups = []string{"shop"} },
		"no groups":   func(_ *assertion.About, p *policy.Principal) { p.Groups = nil },
	}
	for name, change := range changes {
		_ = ask(nil, 0) // what is to be mistaken for it
		if ask(change, 0) == first {
			t.Errorf("another %s: it is the same", name)
		}
	}
	first = ask(nil, 0)
	if ask(nil, 30*time.Second) == first {
		t.Error("after half a minute it is the same")
	}
	a := about(alice)
	p.signer.Header(a, now)
	if n := testing.AllocsPerRun(100, func() { p.signer.Header(a, now) }); n != 0 {
		t.Errorf("finding one again allocates %v times", n)
	}
}

// What is remembered is bounded, by number and by bytes.
func TestRememberedAssertionsAreBounded(t *testing.T) {
	p := start(t, filepath.Join(t.TempDir(), "keys"))
	defer p.stop()
	p.report()
	now := time.Now()
	wide := make([]string, 500)
	for i := range wide {
		wide[i] = strings.Repeat("g", 50)
	}
	for i := range 2000 {
		who := &policy.Principal{Kind: policy.User, ID: "aaaaaaaa" + fmt.Sprint(i) + "same-end", Groups: wide}
		p.signer.Header(about(who), now)
	}
	if entries, bytes := p.signer.Held(); entries >= 100 || bytes > 3<<20 {
		t.Errorf("%d are remembered, with %d bytes", entries, bytes)
	}
	for i := range 3000 {
		p.signer.Header(about(&policy.Principal{Kind: policy.User, ID: "aaaaaaaa" + fmt.Sprint(i) + "same-end"}), now)
	}
	if entries, _ := p.signer.Held(); entries > 1024 {
		t.Errorf("%d are remembered", entries)
	}
}

func TestPlainFields(t *testing.T) {
	p := &policy.Principal{
		Kind: policy.User, ID: "a,b\r\nX-User: röot 100%", Issuer: "https://idp.example/?a=b", Groups: []string{"shop", "x,y", "\x00"},
		Claims: map[string]any{"email": "alice@shop.example", "email_verified": true},
	}
	with := func(claims map[string]any) *policy.Principal { return &policy.Principal{Claims: claims} }
	for _, c := range []struct {
		field       assertion.Field
		principal   *policy.Principal
		name, value string
	}{
		{assertion.Subject, p, "Sallyport-Subject", "a%2Cb%0D%0AX-User:%20r%C3%B6ot%20100%25"},
		{assertion.Issuer, p, "Sallyport-Issuer", "https://idp.example/?a=b"},
		{assertion.Kind, p, "Sallyport-Kind", "user"},
		{assertion.Groups, p, "Sallyport-Groups", "shop,x%2Cy,%00"},
		{assertion.SPIFFEID, p, "Sallyport-Spiffe-Id", ""},
		{assertion.Email, p, "Sallyport-Email", "alice@shop.example"},
		{assertion.Email, with(map[string]any{"email": "a@b"}), "Sallyport-Email", "a@b"},
		{assertion.Email, with(map[string]any{"email": "a@b", "email_verified": false}), "Sallyport-Email", ""},
		{assertion.Email, with(map[string]any{"email": "a@b", "email_verified": "true"}), "Sallyport-Email", ""},
		{assertion.Email, with(map[string]any{"email": 7}), "Sallyport-Email", ""},
		{assertion.Kind, &policy.Principal{}, "Sallyport-Kind", "anonymous"},
		{0, p, "", ""},
		{assertion.Email + 1, p, "", ""},
	} {
		if c.field.Name() != c.name || c.field.Value(c.principal) != c.value {
			t.Errorf("%s: %s, want %s: %s", c.field.Name(), c.field.Value(c.principal), c.name, c.value)
		}
	}
}

func BenchmarkHeader(b *testing.B) {
	p := start(b, filepath.Join(b.TempDir(), "keys"))
	defer p.stop()
	p.report()
	a, now := about(alice), time.Now()
	b.Run("again", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p.signer.Header(a, now)
		}
		fmt.Printf("figure assertion_used_again %.0f ns\n", float64(b.Elapsed().Nanoseconds())/float64(b.N))
	})
	b.Run("signed", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			now = now.Add(time.Minute)
			p.signer.Header(a, now)
		}
		fmt.Printf("figure assertion_signed %.1f us\n", float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000)
	})
}
