package policy_test

import (
	"testing"

	"github.com/sallyport/sallyport/internal/pattern"
	"github.com/sallyport/sallyport/internal/policy"
)

func TestParams(t *testing.T) {
	var templates []pattern.Path
	for _, text := range []string{"/users/me", "/users/{user}", "/users/{user}/orders/{id}", "/files/{name}/**"} {
		p, err := pattern.ParsePath(text)
		if err != nil {
			t.Fatal(err)
		}
		templates = append(templates, p)
	}
	const yes, no, failed = policy.ReasonAllowed, policy.ReasonNoMatch, policy.ReasonEvaluationError
	for _, c := range []struct {
		path, query, when string
		reason            policy.Reason
	}{
		{"/", "a=1&a=2&b=x%20y+z", `request.params["a"] == "1" && request.params.b == "x y z"`, yes}, // the first value
		{"/", "a=1", `"a" in request.params && !has(request.params.c) && size(request.params) == 1`, yes},
		{"/", "a=1", `request.params["c"] == ""`, failed},
		{"/", "a", `request.params.a == ""`, yes},
		{"/", "", `size(request.params) == 0`, yes},
		{"/", "A=1", `"a" in request.params`, no}, // names count as they are spelled
		{"/", "a=%zz", `"a" in request.params`, failed},
		{"/", "a=1;b=2", `"a" in request.params`, failed},
		{"/", "a=%zz", `has(request.params)`, no},
		{"/", "a=%zz", `request.params.a == "1" || request.method == "GET"`, yes},

		{"/users/ann", "", `principal.id == request.path_params.user`, yes},
		{"/users/bob", "", `principal.id == request.path_params.user`, no},
		{"/users/%C3%A4nn", "", `request.path_params.user == "\u00e4nn"`, yes},
		{"/users/a%2Fb", "", `request.path_params.user == "a/b"`, yes},
		{"/users/ann/orders/7", "", `request.path_params.user == "ann" && request.path_params["id"] == "7"`, yes},
		{"/files/x/y/z", "", `request.path_params.name == "x" && size(request.path_params) == 1`, yes},
		{"/users/me", "", `size(request.path_params) == 0`, yes},
		{"/users/me", "", `request.path_params.user == "me"`, failed},
		{"/elsewhere", "", `"user" in request.path_params`, no},
	} {
		in := request(user("ann"), "GET", c.path)
		in.Query, in.Templates = c.query, templates
		for _, text := range []string{c.when, `type(request.method) == string && (` + c.when + `)`} { // by closures, and by the library
			if got := onOrders(allow(t, "p", authenticated(), when(text))).Decide(in); got.Reason != c.reason {
				t.Errorf("%s?%s when %s: got %+v, want %s", c.path, c.query, text, got, c.reason)
			}
		}
	}
}
