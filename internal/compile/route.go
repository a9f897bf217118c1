package compile

import (
	"slices"

	"github.com/sallyport/sallyport/internal/resource"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// route builds the route table and resolves what routes refer to.
func (t *Table) route(prev *Table, documents []*document) {
	if prev != nil && prev.matcher != nil && slices.Equal(prev.matcher.documents, documents) {
		t.matcher = prev.matcher
	} else {
		t.matcher = newMatcher(documents)
	}
	t.resolved = make([]*Route, len(documents))
	t.namespaces = make(map[string]*namespace)
	for slot, d := range documents {
		r := t.resolve(d, t.matcher.conflicts[int32(slot)])
		t.resolved[slot] = r
		in := t.namespaces[r.Key.Namespace]
		if in == nil {
			in = &namespace{names: make(map[string]int32), labels: make(map[label][]int32)}
			t.namespaces[r.Key.Namespace] = in
		}
		in.names[r.Key.Name] = int32(slot)
		for name, value := range r.Labels {
			in.labels[label{name, value}] = append(in.labels[label{name, value}], int32(slot))
		}
	}
}

// resolve returns the route of a document, with what it refers to. conflict
// says which other route claims the same.
func (t *Table) resolve(d *document, conflict string) *Route {
	r := &Route{Key: d.entry.Key, Digest: d.entry.Digest, Labels: d.labels, document: d}
	if d.reject == "" && conflict != "" {
		t.reject(d, conflict)
	}
	if d.reject == "" && conflict == "" {
		spec, _ := d.spec.(*resourcev1.Route)
		t.refer(r, spec)
	}
	if own, rejected := t.rejected[r.Key]; rejected {
		r.rejected = true
		r.deny(own)
	}
	return r
}

// refer resolves the references of a route. What is not there makes the route
// one to reject; what was rejected makes it one to deny.
func (t *Table) refer(r *Route, spec *resourcev1.Route) {
	r.Authentication, r.Paths = spec.GetAuthentication(), r.document.paths
	r.Conditions, r.WebSocket = r.document.claims.conditions, spec.GetWebSocket()
	r.Assertion, r.IdentityHeaders = spec.GetAssertion(), spec.GetIdentityHeaders()
	r.Record, r.CORS = spec.GetRecord(), corsOf(spec.GetCors())
	r.IdleTimeout, r.ServerHeaders, r.ErrorPages = spec.GetIdleTimeout().AsDuration(), spec.GetServerHeaders(), spec.GetErrorPages()
	r.EscapedSlashes = spec.GetEncodedSlashes() == resourcev1.EncodedSlashes_ENCODED_SLASHES_KEEP
	r.Timeout = defaultTimeout
	if spec.GetTimeout() != nil {
		r.Timeout = spec.GetTimeout().AsDuration()
	}
	t.target(r, spec)
	for _, name := range spec.GetAuthentication().GetIdentityProviders() {
		d := t.referred(r, resource.KindIdentityProvider, name)
		if d == nil {
			continue
		}
		r.Providers = append(r.Providers, d.provider)
		if spec.GetAuthentication().GetRequireIntrospection() && !Introspects(d.provider.Spec) {
			t.reject(r.document, "requires introspection, which "+d.entry.Key.String()+" does not have")
		}
	}
	t.signIn(r, spec.GetAuthentication().GetSignIn())
	t.validates(r, spec.GetValidation())
}

// target resolves where requests go, and what is made of them.
func (t *Table) target(r *Route, spec *resourcev1.Route) {
	var err error
	if r.Rewrites, err = rewritesOf(spec); err != nil {
		t.reject(r.document, resource.RejectReason(err))
	}
	switch {
	case r.Rewrites.Redirect != nil:
		return
	case spec.GetSplit() != nil:
		r.Split = t.split(r, spec.GetSplit())
		return
	}
	if d := t.referred(r, resource.KindUpstream, spec.GetUpstream()); d != nil {
		r.Upstream = d.upstream
	}
}

// signIn resolves at which provider a route has people sign in.
func (t *Table) signIn(r *Route, spec *resourcev1.SignIn) {
	if spec == nil {
		return
	}
	d := t.referred(r, resource.KindIdentityProvider, spec.GetIdentityProvider())
	switch {
	case d == nil:
	case d.provider.Spec.GetSignIn() == nil:
		t.reject(r.document, "has people sign in at "+d.entry.Key.String()+", which has no signIn")
	default:
		r.SignIn, r.SessionLifetime = d.provider, defaultSession
		if spec.GetSessionLifetime() != nil {
			r.SessionLifetime = spec.GetSessionLifetime().AsDuration()
		}
	}
}

// Introspects reports whether a route that requires introspection may take what a
// provider vouches for: it is asked for its tokens, or has none.
func Introspects(p *resourcev1.IdentityProvider) bool {
	return p.GetIntrospection() != nil || p.GetX509() != nil
}

// referred returns the document that r refers to, if it is enforced.
func (t *Table) referred(r *Route, kind resource.Kind, name string) *document {
	key := resource.Key{Kind: kind, Namespace: r.Key.Namespace, Name: name}
	d := t.documents[key]
	if d == nil {
		t.reject(r.document, missing(key))
		return nil
	}
	if rejection, rejected := t.rejected[key]; rejected {
		r.deny(rejection)
		return nil
	}
	return d
}

func missing(key resource.Key) string { return "refers to " + key.String() + ", which is not there" }

// deny makes r unavailable because of a rejection, unless it is already.
func (r *Route) deny(because rejection) {
	if r.Unavailable == "" {
		r.Unavailable, r.culprit = because.text(), because.document.entry.Key.String()
	}
}
