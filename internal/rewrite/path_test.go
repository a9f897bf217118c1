package rewrite_test

import (
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/pattern"
	"github.com/sallyport/sallyport/internal/request"
	"github.com/sallyport/sallyport/internal/rewrite"
)

func TestPath(t *testing.T) {
	const refused, untaken = "refused", ""
	for _, c := range []struct{ templates, target, path, want string }{
		{"/a", "/b", "/a", "/b"},
		{"/a", "/", "/a", "/"},
		{"/a", "/b/", "/a", "/b/"},
		{"/a", "/b", "/c", untaken},
		{"/a/{id}", "/b/{id}", "/a/7", "/b/7"},
		{"/a/{id}", "/{id}/b/", "/a/7", "/7/b/"},
		{"/{a}/{b}", "/{b}/{a}/{b}", "/1/2", refused}, // a template has a name once
		{"/{a}/{b}", "/{b}-/{a}", "/1/2", refused},
		{"/{a}/{b}", "/{b}/{a}", "/1%20x;y/2", "/2/1%20x;y"},
		{"/a/{id} /a/{x}/{id}", "/b/{id}", "/a/1/2", "/b/2"},
		{"/a/{id}", "/b/{id}/c", "/a/x%2Fy", "/b/x%2Fy/c"}, // where the route keeps it
		{"/a/**", "/**", "/a/x%2Fy/z", "/x%2Fy/z"},
		{"/a/b", "/c", "/a%2Fb", untaken},
		{"/a", "/b%2Fc", "", refused},
		{"/a/{id} /a/{x}/{id}", "/b/{x}", "", refused},
		{"/a/**", "/b/**", "/a", "/b"},
		{"/a/**", "/b/**", "/a/", "/b/"},
		{"/a/**", "/b/**", "/a/x/y/", "/b/x/y/"},
		{"/a/**", "/**", "/a", "/"},
		{"/a/**", "/**", "/a/", "/"},
		{"/a/**", "/**", "/a/x", "/x"},
		{"/a/**", "/b", "/a/x", "/b"},
		{"", "/b/**", "/", "/b/"},
		{"", "/b/**", "/x", "/b/x"},
		{"/a", "/b/**", "/a", refused},
		{"/a/*", "/b/*", "/a/x", refused},
		{"/a/today /a/{id}", "/b/{id}", "/a/today", refused},
		{"/a/{id} /a/**", "/b", "/a/7", "/b"},
		{"/a", "b", "", refused},
		{"/a", "/b/..", "", refused},
		{"/a", "/b//c", "", refused},
		{"/a", "/%2e", "", refused},
		{"/a", "/b?c", "", refused},
		{"/a", "/b\r\nX: y", "", refused},
	} {
		p, err := rewrite.NewPath(strings.Fields(c.templates), c.target)
		if err != nil {
			if c.want != refused {
				t.Errorf("%q to %q: %v", c.templates, c.target, err)
			}
			continue
		}
		if got, ok := p.Of(c.path); ok != (c.want != untaken) || got != c.want {
			t.Errorf("%q of %q to %q: %q, want %q", c.path, c.templates, c.target, got, c.want)
		}
	}
}

func TestPathsThatAreTooLong(t *testing.T) {
	p, err := rewrite.NewPath([]string{"/a/**"}, "/longer/**")
	if err != nil {
		t.Fatal(err)
	}
	path := "/a/" + strings.Repeat("x", request.MaxPathLength-len("/longer/"))
	if _, ok := p.Of(path); !ok {
		t.Error("the longest is refused")
	}
	if _, ok := p.Of(path + "x"); ok {
		t.Error("a longer one is made")
	}
}

// Whatever a route takes, what is made of it is a path that would be let through.
func FuzzPath(f *testing.F) {
	f.Add("/a/{id}/**", "/b/{id}/**", "/a/%20;x/y/")
	f.Add("/**", "/**", "/%25/41")
	f.Add("/{a}/{b}", "/{b}/{a}", "/%25/2e")
	f.Add("/{a}/{b}", "/{b}/{a}", "/x%2Fy/..z%2F.z")
	f.Fuzz(func(t *testing.T, template, target, path string) {
		c, err := request.Canonicalise(request.Raw{Method: "GET", Target: path, Host: "a", ProtoMajor: 2})
		if err != nil {
			return
		}
		p, err := rewrite.NewPath([]string{template}, target)
		if err != nil {
			return
		}
		from, err := pattern.ParsePath(template)
		if err != nil {
			t.Fatal(err)
		}
		made, ok := p.Of(c.Path)
		again, err := request.Canonicalise(request.Raw{Method: "GET", Target: made, Host: "a", ProtoMajor: 2})
		switch {
		case !from.Match(c.Path):
			if ok {
				t.Errorf("%q is none of %q, and makes %q", c.Path, template, made)
			}
		case !ok && len(made) <= request.MaxPathLength:
			t.Errorf("%q of %q by %q makes %q, which is none", c.Path, template, target, made)
		case ok && (err != nil || again.Target != made):
			t.Errorf("%q of %q by %q makes %q: %v", c.Path, template, target, made, err)
		}
	})
}
