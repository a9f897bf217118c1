package resource

import (
	"net/textproto"
	"strings"

	"github.com/sallyport/sallyport/internal/request"
	"github.com/sallyport/sallyport/internal/rewrite"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// rewrites refuses what a route could not make of requests and answers.
func (d *decoder) rewrites(s *resourcev1.Route) {
	at := atSpec().to("rewrite")
	if host := s.GetRewrite().GetHost(); host != "" {
		d.checked(at.to("host"), host, checkHost)
	}
	target := func(text string) error {
		if text == "" {
			return nil
		}
		_, err := rewrite.NewPath(s.GetPaths(), text)
		return err
	}
	d.checked(at.to("path"), s.GetRewrite().GetPath(), target)
	at = atSpec().to("redirect")
	if host := s.GetRedirect().GetHost(); host != "" {
		d.checked(at.to("host"), host, checkHostPort)
	}
	d.checked(at.to("path"), s.GetRedirect().GetPath(), target)
	d.changes("requestHeaders", s.GetRequestHeaders(), rewrite.CheckRequest)
	d.changes("responseHeaders", s.GetResponseHeaders(), rewrite.CheckResponse)
}

// checkHostPort accepts a host, with a port if there is one.
func checkHostPort(text string) error {
	if i := strings.LastIndexByte(text, ':'); i > strings.LastIndexByte(text, ']') {
		return checkEndpoint(text)
	}
	return checkHost(text)
}

// changes refuses what may not be changed of a header, and what is named twice.
func (d *decoder) changes(field string, c *resourcev1.HeaderChanges, check func(name string, removes bool) error) {
	seen := make(map[string]bool)
	named := func(at *place, name string, removes bool) {
		key := textproto.CanonicalMIMEHeaderKey(name)
		d.checked(at, key, func(string) error { return check(key, removes) })
		if seen[key] {
			d.follow(at.String(), ReasonInvalidValue, quote(key)+" is named twice")
		}
		seen[key] = true
	}
	for i, name := range c.GetRemove() {
		named(atSpec().to(field).to("remove").element(i), name, true)
	}
	values := func(list string, fields []*resourcev1.HeaderField) {
		for i, f := range fields {
			at := atSpec().to(field).to(list).element(i)
			named(at.to("name"), f.GetName(), false)
			d.checked(at.to("value"), f.GetValue(), rewrite.CheckValue)
		}
	}
	values("set", c.GetSet())
	values("add", c.GetAdd())
}

// split refuses shares of the same upstream, and a header that no request has.
func (d *decoder) split(s *resourcev1.Split) {
	seen := make(map[string]bool)
	at := atSpec().to("split")
	for i, share := range s.GetShares() {
		name := at.to("shares").element(i).to("upstream")
		d.checked(name, share.GetUpstream(), checkDNSLabel)
		if seen[share.GetUpstream()] {
			d.follow(name.String(), ReasonInvalidValue, quote(share.GetUpstream())+" has a share already")
		}
		seen[share.GetUpstream()] = true
	}
	if name := textproto.CanonicalMIMEHeaderKey(s.GetHeader()); name != "" {
		c := request.Condition{Kind: request.Present, Name: name}
		d.checked(at.to("header"), name, func(string) error { return c.Check() })
	}
}
