package rewrite

import (
	"net/http"
	"slices"

	"github.com/sallyport/sallyport/internal/request"
)

// Target is where requests are sent on to. What is empty stays as it was asked for;
// the zero Target changes nothing.
type Target struct {
	Host string
	Path *Path
}

// Of returns the host and the target of a canonical request as they are forwarded.
// It is false where the path would be too long.
func (t *Target) Of(c *request.Canonical) (host, target string, ok bool) {
	host, target = c.Host, c.Target
	if t.Host != "" {
		host = t.Host
	}
	if t.Path == nil {
		return host, target, true
	}
	path, ok := t.Path.Of(c.Path)
	return host, withQuery(path, c.RawQuery), ok
}

func withQuery(path, query string) string {
	if query == "" {
		return path
	}
	return path + "?" + query
}

// Redirect is where clients are sent to. What is empty is as they asked for it. The
// query stays.
type Redirect struct {
	Status       int // 301, 302, 303, 307 or 308
	Scheme, Host string
	Path         *Path
}

// Location returns the Location of the answer to a canonical request. It is false
// where the path would be too long.
func (r *Redirect) Location(c *request.Canonical) (string, bool) {
	path, ok := c.Path, true
	if r.Path != nil {
		path, ok = r.Path.Of(c.Path)
	}
	location := withQuery(path, c.RawQuery)
	if r.Scheme == "" && r.Host == "" {
		return location, ok // relative, and so on the port that the client knows
	}
	scheme, host := "https", c.Host
	if r.Scheme != "" {
		scheme = r.Scheme
	}
	if r.Host != "" {
		host = r.Host
	}
	return scheme + "://" + host + location, ok
}

// Field is a header field, its name a canonical key.
type Field struct{ Name, Value string }

// Changes are what becomes of a header: some fields are removed, then some set, then
// some added to what is there. The zero value changes nothing.
type Changes struct {
	Remove   []string // canonical keys
	Set, Add []Field
}

// Apply changes h. Lists of values that it held stay as they are.
func (c *Changes) Apply(h http.Header) {
	for _, name := range c.Remove {
		delete(h, name)
	}
	for _, f := range c.Set {
		h[f.Name] = []string{f.Value}
	}
	for _, f := range c.Add {
		h[f.Name] = append(slices.Clip(h[f.Name]), f.Value)
	}
}

// Removes reports whether a field is removed. Trailers are fields as well.
func (c *Changes) Removes(name string) bool {
	return slices.Contains(c.Remove, name)
}
