package pattern_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/pattern"
)

func mustPath(t testing.TB, s string) pattern.Path {
	t.Helper()
	p, err := pattern.ParsePath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPathMatch(t *testing.T) {
	for _, c := range []struct {
		template string
		match    []string
		not      []string
	}{
		{"/", []string{"/"}, []string{"", "//", "/a", "x"}},
		{"/orders", []string{"/orders"}, []string{"/orders/", "/Orders", "/orders2", "/order", "/orders/7", "orders", "/v1/orders"}},
		{"/orders/", []string{"/orders/"}, []string{"/orders", "/orders//", "/orders/7"}},
		{"/orders/{id}", []string{"/orders/7", "/orders/..x", "/orders/a%20b", "/orders/a%2Fb"},
			[]string{"/orders", "/orders/", "/orders/7/", "/orders/7/items", "/orders/.", "/orders/..", "/Orders/7"}},
		{"/*/items", []string{"/7/items"}, []string{"//items", "/items", "/7/8/items", "/7/items/"}},
		{"/orders/**", []string{"/orders", "/orders/", "/orders/a", "/orders/a/b", "/orders/a/b/", "/orders/.well-known/..x"},
			[]string{"/orders2", "/order", "/", "/orders//", "/orders//a", "/orders/a//b", "/orders/a//",
				"/orders/..", "/orders/../admin", "/orders/a/.", "/orders/a/./b", "/orders/.a/../b"}},
		{"/**", []string{"/", "/a", "/a/b/"}, []string{"", "a", "//", "/..", "/../a"}},
		{"/{a}/**", []string{"/a", "/a/", "/a/b"}, []string{"/", "//a", "/../a"}},
		{"/caf%C3%A9/%20", []string{"/caf%C3%A9/%20"}, []string{"/café/ ", "/caf%c3%a9/%20"}},
		{"/v1/orders:cancel", []string{"/v1/orders:cancel"}, []string{"/v1/orders", "/v1/orders%3Acancel"}},
		{"/a;v=1", []string{"/a;v=1"}, []string{"/a"}},
	} {
		p := mustPath(t, c.template)
		if p.String() != c.template {
			t.Errorf("%s: String() = %q", c.template, p)
		}
		for _, path := range c.match {
			if !p.Match(path) {
				t.Errorf("%s does not match %q", c.template, path)
			}
		}
		for _, path := range c.not {
			if p.Match(path) {
				t.Errorf("%s matches %q", c.template, path)
			}
		}
	}
}

func TestZeroPathMatchesNothing(t *testing.T) {
	for _, path := range []string{"", "/", "/a"} {
		if (pattern.Path{}).Match(path) {
			t.Errorf("the zero Path matches %q", path)
		}
	}
}

func TestParsePathRefuses(t *testing.T) {
	for _, c := range []struct{ refused, sibling string }{
		{"", "/"},
		{"orders", "/orders"},
		{"*", "/*"},
		{"**", "/**"},
		{"/a//b", "/a/b"},
		{"//", "/"},
		{"/**/a", "/*/a"},
		{"/**/", "/*/"},
		{"/./a", "/.a/a"},
		{"/a/..", "/a/..."},
		{"/..;x/a", "/..x;/a"},
		{"/;x/a", "/x;/a"},
		{"/a*", "/*"},
		{"/***", "/**"},
		{"/{}", "/{a}"},
		{"/{a", "/{a}"},
		{"/{a}b", "/{a}/b"},
		{"/{1a}", "/{a1}"},
		{"/{a-b}", "/{a_b}"},
		{"/{a}/{a}", "/{a}/{b}"},
		{"/%c3%a9", "/%C3%A9"},
		{"/%C3", "/%C3%A9"},
		{"/%C0%AF", "/%C3%AF"},
		{"/%", "/%25"},
		{"/%2", "/%20"},
		{"/%zz", "/%25zz"},
		{"/%41", "/A"},
		{"/%2E", "/a."},
		{"/%2F", "/%23"},
		{"/%5C", "/%5B"},
		{"/%3B", "/a;"},
		{"/%3A", "/:"},
		{"/%00", "/%20"},
		{"/%7F", "/%7C"},
		{"/%252e", "/%252d"},
		{"/%252F", "/%252d"},
		{"/%255c", "/%255b"},
		{"/%2525", "/%2526"},
		{"/a+b", "/a%2Bb"},
		{"/a b", "/a%20b"},
		{"/a\\b", "/a%5Bb"},
		{"/a?b", "/a%3Fb"},
		{"/a#b", "/a%23b"},
		{"/é", "/%C3%A9"},
		{"/a\nb", "/ab"},
		{"/" + strings.Repeat("a", pattern.MaxPathLength), "/" + strings.Repeat("a", pattern.MaxPathLength-1)},
		{strings.Repeat("/a", pattern.MaxPathSegments+1), strings.Repeat("/a", pattern.MaxPathSegments)},
	} {
		if p, err := pattern.ParsePath(c.refused); err == nil || p.String() != "" {
			t.Errorf("%q: accepted", c.refused)
		}
		if _, err := pattern.ParsePath(c.sibling); err != nil {
			t.Errorf("the sibling of %q: %v", c.refused, err)
		}
	}
}

func TestPathCompareOrdersMostSpecificFirst(t *testing.T) {

	want := []string{"/", "/a", "/a/b", "/a/b/c", "/a/{x}", "/a/{x}/c", "/a/{x}/**", "/a/**", "/b", "/*", "/*/a", "/**"}
	got := make([]pattern.Path, len(want))
	for i, s := range want {
		got[len(want)-1-i] = mustPath(t, s)
	}
	slices.SortFunc(got, pattern.Path.Compare)
	for i := range want {
		if got[i].String() != want[i] {
			t.Fatalf("order %v, want %v", got, want)
		}
	}
	if mustPath(t, "/a/{id}").Compare(mustPath(t, "/a/*")) != 0 {
		t.Error("a name makes a difference")
	}
}

func TestPathSegments(t *testing.T) {
	got := slices.Collect(mustPath(t, "/a/{id}/**").Segments())
	want := []pattern.Segment{{Kind: pattern.Literal, Text: "a"}, {Kind: pattern.One}, {Kind: pattern.Rest}}
	if !slices.Equal(got, want) {
		t.Errorf("segments %v, want %v", got, want)
	}
}

// matchPath is the meaning of a path template in its plainest form.
func matchPath(template, path string) bool {
	if !strings.HasPrefix(path, "/") {
		return false
	}
	got := strings.Split(path[1:], "/")
	for i, s := range got {
		if s == "." || s == ".." || s == "" && i < len(got)-1 {
			return false
		}
	}
	return matchSegments(strings.Split(template[1:], "/"), got)
}

func matchSegments(want, got []string) bool {
	switch {
	case len(want) == 0:
		return len(got) == 0
	case want[0] == "**":
		return true
	case len(got) == 0:
		return false
	case want[0] == "*" || strings.HasPrefix(want[0], "{"):
		return got[0] != "" && matchSegments(want[1:], got[1:])
	}
	return want[0] == got[0] && matchSegments(want[1:], got[1:])
}

func FuzzPathMatch(f *testing.F) {
	for _, template := range []string{"/", "/a", "/a/", "/{a}/b", "/a/**", "/**", "/*/*", "/a/*/**", "/..a/%20"} {
		for _, path := range []string{"", "/", "/a", "/a/", "/a/b", "/a//b", "/a/../b", "//", "/a/.", "/a/.b/..", "/..a/%20"} {
			f.Add(template, path)
		}
	}
	f.Fuzz(func(t *testing.T, template, path string) {
		p, err := pattern.ParsePath(template)
		if err != nil {
			return
		}
		if got, want := p.Match(path), matchPath(template, path); got != want {
			t.Errorf("%q matches %q: %v, want %v", template, path, got, want)
		}
	})
}

func BenchmarkPathMatch(b *testing.B) {
	for _, template := range []string{"/v1/orders/{id}", "/v1/**"} {
		p := mustPath(b, template)
		b.Run(template[1:], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !p.Match("/v1/orders/0190f7c2-7d43") {
					b.Fatal("no match")
				}
			}
		})
	}
}
