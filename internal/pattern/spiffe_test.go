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

func TestSPIFFECommon(t *testing.T) {
	long := func(n int) string { return strings.Repeat("a", n) }
	const none = ""
	for _, c := range []struct{ a, b, want string }{
		{"spiffe://a/b", "spiffe://a/b", "spiffe://a/b"},
		{"spiffe://a/b", "spiffe://c/b", none},
		{"spiffe://a/b", "spiffe://a/c", none},
		{"spiffe://a/b", "spiffe://a/b/c", none},
		{"spiffe://a/*/c", "spiffe://a/b/*", "spiffe://a/b/c"},
		{"spiffe://a/*", "spiffe://a/*", "spiffe://a/x"},
		{"spiffe://a/**", "spiffe://a", "spiffe://a"},
		{"spiffe://a/b/**", "spiffe://a/**", "spiffe://a/b"},
		{"spiffe://a/b/**", "spiffe://a/*/*/d", "spiffe://a/b/x/d"},
		{"spiffe://a/b/**", "spiffe://a/c/**", none},
		{"spiffe://a/*/**", "spiffe://a", none},
		// Both match, but what would is too long to be an ID.
		{"spiffe://a/" + long(1500) + "/*", "spiffe://a/*/" + long(1500), none},
	} {
		for range 2 {
			got, ok := mustSPIFFE(t, c.a).Common(mustSPIFFE(t, c.b))
			if ok != (c.want != none) || ok && got != c.want {
				t.Errorf("%s and %s: %q, %v, want %q", c.a, c.b, got, ok, c.want)
			}
			c.a, c.b = c.b, c.a
		}
	}
	if _, ok := (pattern.SPIFFE{}).Common(pattern.SPIFFE{}); ok {
		t.Error("the zero template matches something")
	}
}

// enumerated are all IDs of a trust domain with up to three segments, of two names
// and of one that no template here has.
func enumerated(trustDomain string, names ...string) []string {
	all, last := []string{"spiffe://" + trustDomain}, []string{"spiffe://" + trustDomain}
	for range 3 {
		var next []string
		for _, id := range last {
			for _, name := range names {
				next = append(next, id+"/"+name)
			}
		}
		all, last = append(all, next...), next
	}
	return all
}

// FuzzSPIFFECommon makes templates of the bytes that it is given, and asks every ID.
func FuzzSPIFFECommon(f *testing.F) {
	for _, s := range []string{"", "a", "a*", "*b", "ab*", "a!", "!", "**!", "a*b"} {
		for _, other := range []string{"", "b", "a!", "*!", "ab", "ab!"} {
			f.Add(s, other)
		}
	}
	template := func(of string) string {
		text := "spiffe://t"
		for _, c := range of[:min(len(of), 3)] {
			switch c {
			case '*':
				text += "/*"
			case '!':
				return text + "/**"
			default:
				text += "/" + string('a'+c%2)
			}
		}
		return text
	}
	ids := enumerated("t", "a", "b", "c")
	f.Fuzz(func(t *testing.T, first, second string) {
		p, q := mustSPIFFE(t, template(first)), mustSPIFFE(t, template(second))
		want := false
		for _, id := range ids {
			want = want || p.Match(id) && q.Match(id)
		}
		id, got := p.Common(q)
		if got != want || got && !(p.Match(id) && q.Match(id)) {
			t.Errorf("%s and %s: %q, %v, want %v", p, q, id, got, want)
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
