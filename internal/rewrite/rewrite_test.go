package rewrite_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/sallyport/sallyport/internal/request"
	"github.com/sallyport/sallyport/internal/rewrite"
)

func path(t *testing.T, target string) *rewrite.Path {
	t.Helper()
	p, err := rewrite.NewPath(nil, target)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var asked = request.Canonical{Host: "shop.example", Target: "/a?b=c", Path: "/a", RawQuery: "b=c"}

func TestTarget(t *testing.T) {
	for _, c := range []struct {
		target rewrite.Target
		want   string
	}{
		{rewrite.Target{}, "shop.example /a?b=c true"},
		{rewrite.Target{Host: "in"}, "in /a?b=c true"},
		{rewrite.Target{Path: path(t, "/x/**")}, "shop.example /x/a?b=c true"},
	} {
		if got := fmt.Sprintln(c.target.Of(&asked)); got != c.want+"\n" {
			t.Errorf("%+v: %s", c.target, got)
		}
	}
}

func TestLocation(t *testing.T) {
	for _, c := range []struct {
		to   rewrite.Redirect
		want string
	}{
		{rewrite.Redirect{Path: path(t, "/x")}, "/x?b=c true"},
		{rewrite.Redirect{Host: "new.example:8443"}, "https://new.example:8443/a?b=c true"},
		{rewrite.Redirect{Scheme: "http"}, "http://shop.example/a?b=c true"},
		{rewrite.Redirect{Scheme: "http", Host: "h", Path: path(t, "/**")}, "http://h/a?b=c true"},
	} {
		if got := fmt.Sprintln(c.to.Location(&asked)); got != c.want+"\n" {
			t.Errorf("%+v: %s", c.to, got)
		}
	}
}

// Lists that belong to others are not written to.
func TestChanges(t *testing.T) {
	list := make([]string, 1, 4)
	list[0] = "first"
	h := http.Header{"Kept": {"k"}, "Gone": {"g"}, "Set": {"a", "b"}, "Added": list}
	c := rewrite.Changes{
		Remove: []string{"Gone", "Missing"}, Set: []rewrite.Field{{Name: "Set", Value: "s"}},
		Add: []rewrite.Field{{Name: "Added", Value: "second"}, {Name: "New", Value: "n"}},
	}
	c.Apply(h)
	if got := fmt.Sprint(h); got != "map[Added:[first second] Kept:[k] New:[n] Set:[s]]" {
		t.Error(got)
	}
	if list[:2][1] != "" {
		t.Error("a list of the request was written to")
	}
}

func TestChecks(t *testing.T) {
	const both, removal, none = "set and removed", "removed", "neither"
	state := func(check func(string, bool) error, name string) string {
		switch set, removed := check(name, false) == nil, check(name, true) == nil; {
		case set && removed:
			return both
		case removed:
			return removal
		case set:
			return "set alone"
		}
		return none
	}
	for name, want := range map[string][2]string{
		"X-Source":                    {both, both},
		"Content-Type":                {both, both},
		"Authorization":               {removal, both},
		"Cookie":                      {removal, both},
		"X-Api-Key":                   {removal, both},
		"Host":                        {none, both}, // no field of an answer, and no harm in one
		"Connection":                  {none, none},
		"Te":                          {none, none},
		"Transfer-Encoding":           {none, none},
		"Content-Length":              {none, none},
		"Content-Encoding":            {none, none},
		"Upgrade":                     {none, none},
		"Trailer":                     {none, none},
		"X-Forwarded-For":             {none, both},
		"Forwarded":                   {none, both},
		"X-User":                      {none, both},
		"Sallyport-Assertion":         {none, none},
		"Sallyport-Decision-Id":       {none, none},
		"Sec-Websocket-Accept":        {none, none},
		"Grpc-Status":                 {both, none},
		"Set-Cookie":                  {both, removal},
		"Alt-Svc":                     {both, removal},
		"Access-Control-Allow-Origin": {both, removal},
		"x-source":                    {none, none},
		"X_Source":                    {none, none},
		"X Source":                    {none, none},
		"X-A\r\nX-B":                  {none, none},
		"":                            {none, none},
	} {
		if got := [2]string{state(rewrite.CheckRequest, name), state(rewrite.CheckResponse, name)}; got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	for value, ok := range map[string]bool{"": true, "a b": true, "é": true, "a\tb": true, " a": false, "a ": false, "a\r\nb": false, "a\x00": false} {
		if err := rewrite.CheckValue(value); (err == nil) != ok {
			t.Errorf("%q: %v", value, err)
		}
	}
}
