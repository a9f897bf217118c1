package admission_test

import (
	"fmt"
	"strings"
	"testing"
)

func TestRedirectsToThemselves(t *testing.T) {
	const loop, leads = true, false
	for _, c := range []struct {
		hosts, paths, redirect string
		want                   bool
	}{
		{"a", `"/x"`, "path: /x", loop},
		{"a", `"/x"`, "path: /y", leads},
		{"a", `"/x/**"`, "path: /x", loop},
		{"a", `"/x/**"`, "path: /x/y", loop},
		{"a", `"/x/**"`, "path: /x/**", loop},
		{"a", `"/x/**"`, "path: /y/**", leads},
		{"a", `"/x/**"`, "path: /taken", leads},
		{"a", `"/**"`, "path: /taken", leads}, // another route takes it
		{"a", `"/**"`, "path: /free", loop},
		{"a", ``, "path: /free", loop},
		{"a", `"/x/{id}"`, `path: "/x/{id}"`, loop},
		{"a", `"/x/{id}"`, `path: "/x/"`, leads},
		{"a", `"/x/{id}"`, `path: "/x/7"`, loop},
		{"a", `"/x/{id}", "/y/{id}"`, `path: "/y/{id}"`, loop}, // then from the second on
		{"a", `"/x"`, "host: a", loop},
		{"a", `"/x"`, "host: b", leads},
		{"a, b", `"/x"`, "host: b", loop},
		{"a", `"/x"`, "host: b, path: /x", leads},
		{"a", `"/x"`, "scheme: http", leads}, // where no proxy listens
		{"'*.a'", `"/x"`, "host: b.a", leads},
	} {
		f := newFleet(t, `Upstream shop/u {endpoints: ["u:1"], tls: {}}
			Route shop/taken {hosts: [a], paths: ["/taken"], upstream: u, authentication: {anonymous: true}}`)
		_, problems := f.apply(t, fmt.Sprintf(`Route shop/r {hosts: [%s], paths: [%s], redirect: {%s}, authentication: {anonymous: true}}`, c.hosts, c.paths, c.redirect))
		if got := strings.Contains(texts(problems), "redirect_loop"); got != c.want || problems.Total > 1 {
			t.Errorf("%+v: %s", c, texts(problems))
		}
	}
}
