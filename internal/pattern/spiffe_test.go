package pattern_test

import (
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/pattern"
)

func mustSPIFFE(t testing.TB, s string) pattern.SPIFFE {
	t.Helper()
	p, err := pattern.ParseSPIFFE(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSPIFFEMatch(t *testing.T) {
	long := "spiffe://prod.example/" + strings.Repeat("a", pattern.MaxSPIFFELength-len("spiffe://prod.example/"))
	for _, c := range []struct {
		template string
		match    []string
		not      []string
	}{
		{"spiffe://prod.example", []string{"spiffe://prod.example"}, []string{"", "spiffe://", "spiffe://prod.example/", "spiffe://prod.example/a"}},
		{"spiffe://prod.example/ns/shop/web", []string{"spiffe://prod.example/ns/shop/web"},
			[]string{
				"spiffe://prod.example/ns/shop/web2", "spiffe://prod.example/ns/shop/web/", "spiffe://prod.example/ns/shop",
				"spiffe://prod.example/ns/shop/Web", "spiffe://PROD.example/ns/shop/web", "SPIFFE://prod.example/ns/shop/web",
				"spiffe://prod.example.evil/ns/shop/web", "spiffe://evil/prod.example/ns/shop/web", "https://prod.example/ns/shop/web",
				"spiffe://user@prod.example/ns/shop/web", "spiffe://prod.example:8443/ns/shop/web", "spiffe://prod.example/ns/shop/web?x",
			}},
		{"spiffe://prod.example/ns/*/web", []string{"spiffe://prod.example/ns/shop/web", "spiffe://prod.example/ns/..x/web"},
			[]string{"spiffe://prod.example/ns//web", "spiffe://prod.example/ns/../web", "spiffe://prod.example/ns/a/b/web", "spiffe://prod.example/ns/a%2Fb/web", "spiffe://prod.example/ns/*/web;"}},
		{"spiffe://prod.example/ns/shop/**", []string{"spiffe://prod.example/ns/shop", "spiffe://prod.example/ns/shop/a", "spiffe://prod.example/ns/shop/a/b"},
			[]string{
				"spiffe://prod.example/ns/shop/", "spiffe://prod.example/ns/shop2", "spiffe://prod.example/ns/shop/a/", "spiffe://prod.example/ns/shop//a",
				"spiffe://prod.example/ns/shop/../bank", "spiffe://prod.example/ns/shop/a b", "spiffe://prod.example/ns/shop/é", "spiffe://prod.example/ns/shop/a#b",
			}},
		{"spiffe://prod.example/**", []string{"spiffe://prod.example", long}, []string{long + "a", "spiffe://prod.example/", "spiffe://dev.example/a"}},
	} {
		p := mustSPIFFE(t, c.template)
		if p.String() != c.template || p.TrustDomain() != "prod.example" {
			t.Errorf("%s: reads back as %q in %q", c.template, p, p.TrustDomain())
		}
		for _, id := range c.match {
			if !p.Match(id) {
				t.Errorf("%s does not match %q", c.template, id)
			}
		}
		for _, id := range c.not {
			if p.Match(id) {
				t.Errorf("%s matches %q", c.template, id)
			}
		}
	}
}

func TestZeroSPIFFEMatchesNothing(t *testing.T) {
	for _, id := range []string{"", "spiffe://", "spiffe:///", "spiffe://a"} {
		if (pattern.SPIFFE{}).Match(id) {
			t.Errorf("the zero SPIFFE matches %q", id)
		}
	}
}

func TestParseSPIFFERefuses(t *testing.T) {
	for _, c := range []struct{ refused, sibling string }{
		{"", "spiffe://a"},
		{"spiffe://", "spiffe://a"},
		{"spiffe:///a", "spiffe://a/a"},
		{"Spiffe://a/b", "spiffe://a/b"},
		{"spiffe:/a/b", "spiffe://a/b"},
		{"https://a/b", "spiffe://a/b"},
		{"spiffe://A/b", "spiffe://a/B"},
		{"spiffe://*/b", "spiffe://a/*"},
		{"spiffe://**", "spiffe://a/**"},
		{"spiffe://*.example/b", "spiffe://a.example/b"},
		{"spiffe://a:443/b", "spiffe://a/b"},
		{"spiffe://u@a/b", "spiffe://a/b"},
		{"spiffe://a/", "spiffe://a"},
		{"spiffe://a/b/", "spiffe://a/b"},
		{"spiffe://a//b", "spiffe://a/b"},
		{"spiffe://a/./b", "spiffe://a/.b/b"},
		{"spiffe://a/..", "spiffe://a/..."},
		{"spiffe://a/b*", "spiffe://a/*"},
		{"spiffe://a/**/b", "spiffe://a/*/b"},
		{"spiffe://a/***", "spiffe://a/**"},
		{"spiffe://a/{b}", "spiffe://a/*"},
		{"spiffe://a/b%20c", "spiffe://a/b_c"},
		{"spiffe://a/b?c", "spiffe://a/b.c"},
		{"spiffe://a/b#c", "spiffe://a/b-c"},
		{"spiffe://a/é", "spiffe://a/e"},
		{"spiffe://" + strings.Repeat("a", 256), "spiffe://" + strings.Repeat("a", 255)},
		{"spiffe://a/" + strings.Repeat("b", 2038), "spiffe://a/" + strings.Repeat("b", 2037)},
	} {
		if p, err := pattern.ParseSPIFFE(c.refused); err == nil || p.String() != "" {
			t.Errorf("%q: accepted", c.refused)
		}
		if _, err := pattern.ParseSPIFFE(c.sibling); err != nil {
			t.Errorf("the sibling of %q: %v", c.refused, err)
		}
	}
}

const spiffeAlphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"

// matchSPIFFE is the meaning of a SPIFFE ID template in its plainest form.
func matchSPIFFE(template, id string) bool {
	rest, ok := strings.CutPrefix(id, "spiffe://")
	if !ok || len(id) > pattern.MaxSPIFFELength {
		return false
	}
	got := strings.Split(rest, "/")
	for i, s := range got {
		if s == "" || i > 0 && (s == "." || s == "..") || strings.Trim(s, spiffeAlphabet) != "" {
			return false
		}
	}
	return matchSegments(strings.Split(template[len("spiffe://"):], "/"), got)
}

func FuzzSPIFFEMatch(f *testing.F) {
	for _, template := range []string{"spiffe://a", "spiffe://a/b", "spiffe://a/*", "spiffe://a/*/c", "spiffe://a/**", "spiffe://a/b/**"} {
		for _, id := range []string{"", "spiffe://a", "spiffe://a/", "spiffe://a/b", "spiffe://a/b/c", "spiffe://a//c", "spiffe://a/../c", "spiffe://A/b"} {
			f.Add(template, id)
		}
	}
	f.Fuzz(func(t *testing.T, template, id string) {
		p, err := pattern.ParseSPIFFE(template)
		if err != nil {
			return
		}
		if got, want := p.Match(id), matchSPIFFE(template, id); got != want {
			t.Errorf("%q matches %q: %v, want %v", template, id, got, want)
		}
	})
}

func BenchmarkSPIFFEMatch(b *testing.B) {
	p := mustSPIFFE(b, "spiffe://prod.example/ns/shop/**")
	b.ReportAllocs()
	for b.Loop() {
		if !p.Match("spiffe://prod.example/ns/shop/sa/web") {
			b.Fatal("no match")
		}
	}
}
