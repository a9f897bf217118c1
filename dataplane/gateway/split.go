package gateway

import (
	"math/rand/v2"

	"github.com/sallyport/sallyport/dataplane/upstream"
	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/policy"
)

// shares are the upstreams of a split route, nil for those that are not there.
func shares(s *state, r *compile.Route) []*upstream.Upstream {
	if r.Split == nil {
		return nil
	}
	all := make([]*upstream.Upstream, len(r.Split.Shares))
	for i, share := range r.Split.Shares {
		all[i] = s.upstreams.Upstream(upstreamName(share.Upstream.Key))
	}
	return all
}

// choose picks the upstream of an allowed request, and what it is told it is.
func (v *verdict) choose() {
	v.upstream, v.audience = v.way.upstream, v.way.told.audience
	s := v.way.route.Split
	if s == nil {
		return
	}
	var i int
	if key := v.stickiness(s); key != "" {
		i = s.Of(key)
	} else {
		i = s.At(rand.Uint64()) //nolint:gosec // it spreads, and protects nothing
	}
	if i < 0 {
		return
	}
	v.upstream, v.share = v.way.shares[i], name(s.Shares[i].Upstream.Key)
	if v.audience == "" {
		v.audience = v.share
	}
}

// stickiness is what has the same of it goes to the same upstream; empty for nothing.
func (v *verdict) stickiness(s *compile.Split) string {
	switch p := v.principal; {
	case s.ByHeader != "":
		if values := v.request.Header[s.ByHeader]; len(values) > 0 {
			return values[0]
		}
	case s.ByPrincipal && p != nil && p.Kind != policy.Anonymous:
		return p.Issuer + " " + p.ID
	}
	return ""
}
