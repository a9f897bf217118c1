package gateway

import (
	"net/http"
	"time"

	"github.com/sallyport/sallyport/dataplane/assertion"
	"github.com/sallyport/sallyport/internal/compile"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

const headerAssertion = "Sallyport-Assertion"

// told is what a route's upstream is told of who sends its requests. The zero
// value is nothing.
type told struct {
	signed   bool
	audience string
	plain    []assertion.Field
}

func tells(r *compile.Route) told {
	t := told{signed: r.Assertion != nil, audience: r.Assertion.GetAudience()}
	if t.audience == "" && r.Upstream != nil {
		t.audience = name(r.Upstream.Key)
	}
	for _, h := range r.IdentityHeaders {
		t.plain = append(t.plain, field(h))
	}
	return t
}

// field is one without a name for what is not known.
func field(h resourcev1.IdentityHeader) assertion.Field {
	switch h {
	case resourcev1.IdentityHeader_IDENTITY_HEADER_SUBJECT:
		return assertion.Subject
	case resourcev1.IdentityHeader_IDENTITY_HEADER_ISSUER:
		return assertion.Issuer
	case resourcev1.IdentityHeader_IDENTITY_HEADER_KIND:
		return assertion.Kind
	case resourcev1.IdentityHeader_IDENTITY_HEADER_GROUPS:
		return assertion.Groups
	case resourcev1.IdentityHeader_IDENTITY_HEADER_SPIFFE_ID:
		return assertion.SPIFFEID
	case resourcev1.IdentityHeader_IDENTITY_HEADER_EMAIL:
		return assertion.Email
	case resourcev1.IdentityHeader_IDENTITY_HEADER_UNSPECIFIED:
	}
	return 0
}

// introduce makes the assertion of an allowed request. An upstream that counts on
// one is never asked without: what cannot be asserted is denied.
func (g *Gateway) introduce(environment string, now time.Time, v *verdict) {
	t := &v.way.told
	if !t.signed {
		return
	}
	if g.asserts != nil {
		about := assertion.About{
			Environment: environment, Route: v.way.name, Audience: v.audience, Principal: v.principal,
		}
		v.assertion = g.asserts.Header(&about, now)
	}
	if v.assertion == nil {
		v.allow, v.status, v.reason, v.detail = false, http.StatusServiceUnavailable, ReasonUnasserted, ""
	}
}

// tell adds to a request what its upstream is told. Whatever clients said in
// these fields is gone already.
func (v *verdict) tell(h http.Header) {
	if v.assertion != nil {
		h[headerAssertion] = v.assertion
	}
	for _, f := range v.way.told.plain {
		if value := f.Value(v.principal); value != "" {
			h[f.Name()] = []string{value}
		}
	}
}
