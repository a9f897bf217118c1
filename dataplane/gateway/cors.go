package gateway

import (
	"net/http"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/request"
)

// The reasons of answers to what browsers ask before they send a request.
const (
	ReasonPreflight        = "preflight"
	ReasonPreflightRefused = "preflight_refused"
)

// preflight answers what a browser asks about a request to a route. It has no
// credentials yet, and learns no more than what a page may do.
func (g *Gateway) preflight(s grounds, r *compile.Route, c *request.Canonical) (v verdict) {
	v.way = g.way(s.state, r)
	if r.Unavailable != "" {
		v.status, v.reason, v.detail = http.StatusForbidden, ReasonUnavailable, r.Unavailable
		return v
	}
	if refused := r.CORS.Preflight(c); refused != "" {
		v.status, v.reason, v.detail = http.StatusForbidden, ReasonPreflightRefused, refused
		return v
	}
	v.allow, v.status, v.reason, v.own = true, http.StatusOK, ReasonPreflight, &own{}
	return v
}
