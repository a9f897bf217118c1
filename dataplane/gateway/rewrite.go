package gateway

import (
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/dataplane/signin"
	"github.com/sallyport/sallyport/internal/request"
)

// direct finds out where an allowed request is sent on to, or its client is sent.
// What cannot be said is denied.
func (v *verdict) direct() {
	r := v.way.route
	var ok bool
	if to := r.Rewrites.Redirect; to != nil {
		var location string
		location, ok = to.Location(&v.request)
		v.own, v.status = &own{Answer: signin.Answer{Location: location}}, to.Status
	} else {
		v.choose()
		v.host, v.target, ok = r.Rewrites.Target.Of(&v.request)
	}
	if !ok {
		v.deny(failure{reason: request.ReasonPathTooLong, status: http.StatusRequestURITooLong, detail: "the path that the route makes is too long"})
	}
}

// went says where a request went that did not go where it was asked to; empty for
// one that did. Queries are not recorded.
func (v *verdict) went() string {
	path, _, _ := strings.Cut(v.target, "?")
	switch {
	case v.way == nil:
		return ""
	case v.own != nil:
		path, _, _ = strings.Cut(v.own.Location, "?")
		return path
	}
	if v.host == v.request.Host && path == v.request.Path {
		return ""
	}
	return v.host + path
}
