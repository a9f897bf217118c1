package compile

import (
	"iter"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/failpoint"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// defaultTimeout is that of routes that name none.
const defaultTimeout = 30 * time.Second

// defaultSession is how long sessions are taken by routes that do not say it: a
// day's work.
const defaultSession = 10 * time.Hour

// Compile makes s ready to decide. It never fails: see Table.Rejects. What prev
// has of the same documents is used again, so that a change costs about what it
// touches; prev may be nil, and is not changed.
func Compile(prev *Table, s *snapshot.Snapshot) *Table {
	if t := patch(prev, s); t != nil {
		return t
	}
	return build(prev, s)
}

// build compiles all of s, with what prev has of the same documents.
func build(prev *Table, s *snapshot.Snapshot) *Table {
	t := &Table{
		snapshot:  s,
		documents: make(map[resource.Key]*document, s.Set().Len()),
		byName:    make(map[resource.Key]*document),
		written:   make(map[resource.Key]*document),
		rejected:  make(map[resource.Key]rejection),
		sums:      &atomic.Pointer[sums]{},
	}
	routes := t.read(prev)
	t.arrange()
	t.route(prev, routes)
	t.linkPolicies()
	t.resolvePolicies(maps.Values(t.written))
	t.attach()
	t.list()
	t.summarize()
	return t
}

// same reports whether documents that prev has read read the same in s.
func same(prev *Table, s *snapshot.Snapshot) bool {
	return prev != nil && prev.Head().Environment == s.Head().Environment
}

// read reads every document that prev has not read. It returns the routes in
// the order of the snapshot's set, which is that of their key digests.
func (t *Table) read(prev *Table) (routes []*document) {
	environment := t.snapshot.Head().Environment
	known := func(snapshot.Entry) *document { return nil }
	if same(prev, t.snapshot) {
		known = prev.document
	}
	all := make([]*document, 0, t.snapshot.Set().Len())
	for e := range t.snapshot.Set().All() {
		d := known(e)
		if d == nil {
			d = &document{entry: e}
		}
		all = append(all, d)
	}
	inParallel(len(all), func(i int) {
		if !all[i].isRead() {
			all[i] = read(environment, all[i].entry)
		}
	})
	for _, d := range all {
		key := d.entry.Key
		t.kind(key.Kind)[key] = d
		if key.Kind == resource.KindRoute {
			routes = append(routes, d)
		}
		if d.reject != "" {
			t.reject(d, d.reject)
		}
	}
	return routes
}

// document returns what t has read of e's bytes, nil when it has not.
func (t *Table) document(e snapshot.Entry) *document {
	d := t.kind(e.Key.Kind)[e.Key]
	if d == nil || d.entry.Digest != e.Digest {
		return nil
	}
	return d
}

// kind returns the documents among which those of a kind are.
func (t *Table) kind(kind resource.Kind) map[resource.Key]*document {
	switch {
	case isAttached(kind):
		return t.written
	case isTerm(kind):
		return t.byName
	}
	return t.documents
}

func (d *document) isRead() bool { return d.spec != nil || d.reject != "" }

// inParallel calls do with 0 to n-1, on every processor when it is worth it.
func inParallel(n int, do func(int)) {
	const share = 256
	var wg sync.WaitGroup
	workers := min(runtime.GOMAXPROCS(0), (n+share-1)/share)
	for w := range workers {
		wg.Go(func() {
			for i := n * w / workers; i < n*(w+1)/workers; i++ {
				do(i)
			}
		})
	}
	wg.Wait()
}

// rejection is a document that is not enforced.
type rejection struct {
	document *document
	reason   string
}

// text says in one line what was rejected and why.
func (r rejection) text() string { return r.document.entry.Key.String() + ": " + r.reason }

// before returns which of two is told where one can be, so that equal snapshots
// say the same. The zero rejection comes last.
func (r rejection) before(o rejection) rejection {
	if r.document == nil || o.document.entry.Key.Compare(r.document.entry.Key) < 0 {
		return o
	}
	return r
}

func (t *Table) reject(d *document, reason string) {
	t.rejected[d.entry.Key] = rejection{d, reason}
}

// arrange puts into their places the kinds that stand alone.
func (t *Table) arrange() {
	for _, d := range t.documents {
		if d.reject != "" {
			continue
		}
		switch spec := d.spec.(type) {
		case *resourcev1.Upstream:
			t.upstreams = append(t.upstreams, d.upstream)
		case *resourcev1.IdentityProvider:
			t.providers = append(t.providers, d.provider)
		case *resourcev1.ApiKey:
			t.apiKeys = append(t.apiKeys, d.apiKey)
		case *resourcev1.Schema:
			t.schemas = append(t.schemas, d.schema)
		case *resourcev1.TrustDomain:
			t.domains = append(t.domains, d.domain)
		case *resourcev1.Listener:
			t.listeners = append(t.listeners, &Listener{Key: d.entry.Key, Digest: d.entry.Digest, Spec: spec, document: d})
		case *resourcev1.Environment:
			t.environment = d
		}
	}
	t.name()
	slices.SortFunc(t.upstreams, func(a, b *Upstream) int { return a.Key.Compare(b.Key) })
	slices.SortFunc(t.providers, func(a, b *Provider) int { return a.Key.Compare(b.Key) })
	slices.SortFunc(t.apiKeys, func(a, b *APIKey) int { return a.Key.Compare(b.Key) })
	t.apiKeys = slices.DeleteFunc(t.apiKeys, t.taken())
	slices.SortFunc(t.domains, func(a, b *TrustDomain) int { return a.Key.Compare(b.Key) })
	t.domains = slices.DeleteFunc(t.domains, t.known())
	slices.SortFunc(t.listeners, func(a, b *Listener) int { return a.Key.Compare(b.Key) })
}

// name gathers the terms that are enforced.
func (t *Table) name() {
	t.named = nil
	for _, d := range t.byName {
		if d.reject == "" {
			t.named = append(t.named, d)
		}
	}
}

// taken reports of one ApiKey after the other whether one before has an ID of
// its, and rejects it then: whose key it is must not be in doubt.
func (t *Table) taken() func(*APIKey) bool {
	type secret struct{ namespace, id string }
	owners := make(map[secret]*APIKey)
	return func(k *APIKey) bool {
		for _, s := range k.Spec.GetSecrets() {
			if other := owners[secret{k.Key.Namespace, s.GetId()}]; other != nil {
				t.reject(k.document, "has the ID "+s.GetId()+", as "+other.Key.String())
				return true
			}
		}
		for _, s := range k.Spec.GetSecrets() {
			owners[secret{k.Key.Namespace, s.GetId()}] = k
		}
		return false
	}
}

// known reports of one TrustDomain after the other whether one before is of the
// same trust domain, and rejects it then: two bundles would be the union of two.
func (t *Table) known() func(*TrustDomain) bool {
	first := make(map[string]*TrustDomain)
	return func(d *TrustDomain) bool {
		name := d.Spec.GetTrustDomain()
		if other := first[name]; other != nil {
			t.reject(d.document, "is of "+name+", as "+other.Key.String())
			return true
		}
		first[name] = d
		return false
	}
}

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

// resolvePolicies rejects those policies that refer to what is not there.
func (t *Table) resolvePolicies(documents iter.Seq[*document]) {
	for d := range documents {
		if spec := resource.PolicyOf(d.spec); spec != nil {
			if key, absent := t.absent(d.entry.Key.Namespace, spec); absent {
				t.reject(d, missing(key))
			}
		}
	}
}

// absent returns the first thing that a policy refers to and that is not there.
func (t *Table) absent(namespace string, p *resourcev1.Policy) (resource.Key, bool) {
	for _, name := range p.GetRoutes().GetNames() {
		key := resource.Key{Kind: resource.KindRoute, Namespace: namespace, Name: name}
		if t.documents[key] == nil {
			return key, true
		}
	}
	for _, m := range p.GetPrincipals() {
		key := resource.Key{Kind: resource.KindIdentityProvider, Namespace: namespace, Name: m.GetIdentityProvider()}
		if key.Name != "" && t.documents[key] == nil {
			return key, true
		}
		key = resource.Key{Kind: resource.KindAPIKey, Namespace: namespace, Name: m.GetKey()}
		if key.Name != "" && t.documents[key] == nil {
			return key, true
		}
	}
	return resource.Key{}, false
}

// attach attaches policies to routes, and makes routes deny that a rejected
// document controls.
func (t *Table) attach() {
	t.routes = slices.Clone(t.resolved)
	t.unbound = make(map[resource.Key]*document)
	t.selections = make(map[string]*selections)
	for _, d := range t.written {
		in := t.selections[d.entry.Key.Namespace]
		if in == nil {
			in = newSelections()
			t.selections[d.entry.Key.Namespace] = in
		}
		in.add(d)
	}
	above := t.above()
	used := make(map[*document]bool, len(t.written))
	bound := make([]policy.Binding, 0, len(t.routes)+1)
	for slot := range t.routes {
		b, documents := t.bind(int32(slot), above)
		bound = append(bound, b)
		for _, d := range documents {
			used[d] = true
		}
	}
	for key, d := range t.written {
		if _, rejected := t.rejected[key]; !rejected && !used[d] {
			t.unbound[key] = d
		}
	}
	t.policies = policy.NewSet(append(bound, t.unattached()))
}

// unattached is the binding of the policies that select no route: they are
// held, and match nothing.
func (t *Table) unattached() policy.Binding {
	var b policy.Binding
	for _, d := range t.unbound {
		if d.policy != nil {
			b.Policies = append(b.Policies, d.policy)
		}
	}
	return b
}

// bind puts the route of a slot into force. It returns the binding of the
// policies that select it, and their documents.
func (t *Table) bind(slot int32, above []rejection) (policy.Binding, []*document) {
	r := t.resolved[slot]
	documents := t.selections[r.Key.Namespace].of(r)
	b := policy.Binding{Route: r.ID(), Policies: make([]*policy.Policy, 0, len(documents))}
	var because rejection
	var limits []*RateLimit
	for _, d := range documents {
		switch rejection, rejected := t.rejected[d.entry.Key]; {
		case !rejected && d.limit != nil:
			limits = append(limits, d.limit)
		case !rejected:
			b.Policies = append(b.Policies, d.policy)
		case d.entry.Key.Kind != resource.KindGrant: // which denies nothing
			because = because.before(rejection)
		}
	}
	if failpoint.Active("gateway.drop-policy") && len(b.Policies) > 0 {
		b.Policies = b.Policies[1:]
	}
	for _, rejection := range above {
		if rejection.document.control.controls(r) {
			because = because.before(rejection)
		}
	}
	if len(limits) > 0 {
		limited := *r
		limited.Limits = limits
		slices.SortFunc(limits, func(a, b *RateLimit) int { return a.Key.Compare(b.Key) })
		r = &limited
	}
	if because.document != nil && r.Unavailable == "" {
		denying := *r
		denying.deny(because)
		r = &denying
	}
	if r.Unavailable != "" {
		b.Unavailable = r.culprit + " was rejected"
	}
	t.routes[slot] = r
	return b, documents
}

// above returns the rejections that reach further than a selection of routes,
// or are no policies'.
func (t *Table) above() []rejection {
	var above []rejection
	for key, r := range t.rejected {
		if r.document.control.reach != nothing && !isSelection(key, r.document) {
			above = append(above, r)
		}
	}
	return above
}

// summarize lists the rejects.
func (t *Table) summarize() {
	for key, r := range t.rejected {
		t.rejects = append(t.rejects, Reject{Key: key, Reason: r.reason})
	}
	slices.SortFunc(t.rejects, func(a, b Reject) int { return a.Key.Compare(b.Key) })
}
