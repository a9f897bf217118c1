package admission

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/pattern"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
	"github.com/sallyport/sallyport/storage"
)

// item is a resource as admission sees it. It is immutable.
type item struct {
	resource.Parsed
	scope  storage.Scope
	digest snapshot.Digest
	size   int // of its document, in bytes

	paths  []pattern.Path     // of a Route and a Policy; none means every path
	proxy  pattern.SPIFFE     // of an Enrollment
	listen endpoint           // of a Listener
	policy *resourcev1.Policy // of a Policy, and what a Grant is in its time
	terms  []policy.Term      // of a Policy and a Condition: what it refers to by name

	// addresses is of a Policy or Condition that looks at where requests come from,
	// and of a Listener that does not declare how that is known.
	addresses bool
}

func newItem(p resource.Parsed, document []byte, digest snapshot.Digest) *item {
	all, environments := p.Scope()
	it := &item{Parsed: p, scope: storage.Scope{All: all, Environments: environments}, digest: digest, size: len(document)}
	it.Document = nil // admission has no use for it
	if it.policy = resource.PolicyOf(p.Spec); it.policy != nil {
		it.paths = parsePaths(it.policy.GetPaths())
	}
	switch spec := p.Spec.(type) {
	case *resourcev1.Route:
		it.paths = parsePaths(spec.GetPaths())
	case *resourcev1.Policy:
		it.addresses = policy.LooksAtAddress(spec.GetWhen())
		it.terms = policy.TermsOf(spec.GetWhen())
	case *resourcev1.RateLimit:
		it.addresses = limitsByAddress(spec)
		it.terms = policy.TermsOf(spec.GetWhen())
	case *resourcev1.Condition:
		it.addresses = policy.LooksAtAddress(spec.GetWhen())
		it.terms = policy.TermsOf(spec.GetWhen())
	case *resourcev1.Set:
		// Its members may be very many: no more is asked of them than what they are.
		it.Spec = &resourcev1.Set{Environments: spec.GetEnvironments(), Cidrs: one(spec.GetCidrs()), Ids: one(spec.GetIds())}
	case *resourcev1.Enrollment:
		it.proxy, _ = pattern.ParseSPIFFE(spec.GetSpiffeId()) // package resource has accepted it
	case *resourcev1.Listener:
		it.listen = parseEndpoint(spec.GetAddress())
		it.addresses = spec.GetClientIp() == nil
	}
	return it
}

// one returns at most one of a list, as a list of its own.
func one(list []string) []string { return slices.Clone(list[:min(1, len(list))]) }

// read reads a stored version. One that this build does not understand is an
// error: nobody could tell what would become of it.
func read(v storage.Version) (*item, error) {
	p, err := resource.ParseDocument(v.Document)
	if err != nil {
		return nil, err
	}
	return newItem(p, v.Document, v.Digest), nil
}

// place is where a resource refers to another.
type place struct {
	field string
	index int // in a list; -1 when it is none
	tail  string

	line, column int // in the text of the field, from 1; 0 when it is none
}

func (p place) String() string {
	if p.index < 0 {
		return p.field
	}
	return fmt.Sprintf("%s[%d]%s", p.field, p.index, p.tail)
}

// references yields what the resource refers to, and where.
func (it *item) references() iter.Seq2[place, resource.Key] {
	return func(yield func(place, resource.Key) bool) {
		if it.inEnvironments(yield) && it.named(yield) {
			it.refers(yield)
		}
	}
}

// inEnvironments yields the environments that the resource names.
func (it *item) inEnvironments(yield func(place, resource.Key) bool) bool {
	spec, ok := it.Spec.(interface{ GetEnvironments() []string })
	if !ok {
		return true
	}
	for i, name := range spec.GetEnvironments() {
		if !yield(place{field: "spec.environments", index: i}, environmentKey(name)) {
			return false
		}
	}
	return true
}

// signInField is where a route names the provider at which people sign in.
const signInField = "spec.authentication.signIn.identityProvider"

func environmentKey(name string) resource.Key {
	return resource.Key{Kind: resource.KindEnvironment, Name: name}
}

// named yields what a condition refers to by name.
func (it *item) named(yield func(place, resource.Key) bool) bool {
	for _, t := range it.terms {
		if !yield(place{field: whenField, index: -1, line: t.Line, column: t.Column}, compile.TermKey(it.Key.Namespace, t)) {
			return false
		}
	}
	return true
}

const whenField = "spec.when"

// refers yields the other references, which are within the namespace but for
// that of an Enrollment.
func (it *item) refers(yield func(place, resource.Key) bool) {
	key := func(kind resource.Kind, name string) resource.Key {
		return resource.Key{Kind: kind, Namespace: it.Key.Namespace, Name: name}
	}
	switch spec := it.Spec.(type) {
	case *resourcev1.Enrollment:
		yield(place{field: "spec.environment", index: -1}, environmentKey(spec.GetEnvironment()))
	case *resourcev1.Revocation:
		if name := spec.GetDevice(); name != "" {
			yield(place{field: "spec.device", index: -1}, key(resource.KindDevice, name))
		}
	case *resourcev1.Route:
		if name := spec.GetUpstream(); name != "" && !yield(place{field: "spec.upstream", index: -1}, key(resource.KindUpstream, name)) {
			return
		}
		for i, share := range spec.GetSplit().GetShares() {
			if !yield(place{field: "spec.split.shares", index: i, tail: ".upstream"}, key(resource.KindUpstream, share.GetUpstream())) {
				return
			}
		}
		for i, name := range spec.GetAuthentication().GetIdentityProviders() {
			if !yield(place{field: "spec.authentication.identityProviders", index: i}, key(resource.KindIdentityProvider, name)) {
				return
			}
		}
		if in := spec.GetAuthentication().GetSignIn(); in != nil {
			if !yield(place{field: signInField, index: -1}, key(resource.KindIdentityProvider, in.GetIdentityProvider())) {
				return
			}
		}
		if v := spec.GetValidation(); v != nil {
			yield(place{field: "spec.validation.schema", index: -1}, key(resource.KindSchema, v.GetSchema()))
		}
	}
	if spec := it.policy; spec != nil {
		for i, name := range spec.GetRoutes().GetNames() {
			if !yield(place{field: "spec.routes.names", index: i}, key(resource.KindRoute, name)) {
				return
			}
		}
		for i, m := range spec.GetPrincipals() {
			if name := m.GetIdentityProvider(); name != "" &&
				!yield(place{field: "spec.principals", index: i, tail: ".identityProvider"}, key(resource.KindIdentityProvider, name)) {
				return
			}
			if name := m.GetKey(); name != "" &&
				!yield(place{field: "spec.principals", index: i, tail: ".key"}, key(resource.KindAPIKey, name)) {
				return
			}
		}
	}
}

// claims returns the hosts, paths and conditions of a route; methods are compared
// apart.
func (it *item) claims() []compile.Claim {
	spec, ok := it.Spec.(*resourcev1.Route)
	if !ok {
		return nil
	}
	return compile.Claims(&resourcev1.Route{
		Hosts: spec.GetHosts(), Paths: spec.GetPaths(), Headers: spec.GetHeaders(), Query: spec.GetQuery(),
	})
}

// secrets returns the IDs of an API key's secrets. A Revocation names a key by
// nothing else, wherever it is.
func (it *item) secrets() (ids []string) {
	if spec, ok := it.Spec.(*resourcev1.ApiKey); ok {
		for _, s := range spec.GetSecrets() {
			ids = append(ids, s.GetId())
		}
	}
	return ids
}

// trustDomain is what a TrustDomain is of.
func (it *item) trustDomain() string {
	spec, _ := it.Spec.(*resourcev1.TrustDomain)
	return spec.GetTrustDomain()
}

// selection is a set of routes of one namespace: those with a label, or all of
// them when it names none.
type selection struct{ namespace, label, value string }

// isIn yields the selections that a route is in.
func (it *item) isIn() iter.Seq[selection] {
	return func(yield func(selection) bool) {
		if it.Key.Kind != resource.KindRoute || !yield(selection{namespace: it.Key.Namespace}) {
			return
		}
		for label, value := range it.Labels {
			if !yield(selection{it.Key.Namespace, label, value}) {
				return
			}
		}
	}
}

// selector returns a selection that holds every route that a policy selects,
// the same one each time; false for policies that name their routes.
func (it *item) selector() (selection, bool) {
	spec := it.policy
	switch labels := spec.GetRoutes().GetLabels(); {
	case spec == nil:
		return selection{}, false
	case spec.GetRoutes().GetAll():
		return selection{namespace: it.Key.Namespace}, true
	case len(labels) > 0:
		first := slices.Min(slices.Collect(maps.Keys(labels)))
		return selection{it.Key.Namespace, first, labels[first]}, true
	}
	return selection{}, false
}

// covers reports whether outer is everywhere that inner is.
func covers(outer, inner storage.Scope) bool {
	if outer.All {
		return true
	}
	return !inner.All && !slices.ContainsFunc(inner.Environments, func(e string) bool { return !outer.Includes(e) })
}

// meets reports whether there may be an environment in both.
func meets(a, b storage.Scope) bool {
	return a.All || b.All || slices.ContainsFunc(a.Environments, b.Includes)
}

// share reports whether two lists have a member in common; an empty one has
// them all.
func share(a, b []string) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// parsePaths parses templates that package resource has accepted.
func parsePaths(templates []string) []pattern.Path {
	paths := make([]pattern.Path, 0, len(templates))
	for _, text := range templates {
		if p, err := pattern.ParsePath(text); err == nil {
			paths = append(paths, p)
		}
	}
	return paths
}

// overlap reports whether some text fits both templates.
func overlap(a, b []pattern.Segment) bool {
	for i := 0; ; i++ {
		switch {
		case i < len(a) && a[i].Kind == pattern.Rest, i < len(b) && b[i].Kind == pattern.Rest:
			return true
		case i == len(a) || i == len(b):
			return len(a) == len(b)
		case !sameSegment(a[i], b[i]):
			return false
		}
	}
}

func sameSegment(a, b pattern.Segment) bool {
	if a.Kind == pattern.Literal && b.Kind == pattern.Literal {
		return a.Text == b.Text
	}
	// One stands for any text but none, which is what follows a last slash.
	return (a.Kind == pattern.One || a.Text != "") && (b.Kind == pattern.One || b.Text != "")
}

// overlapping reports whether a path fits a template of each list; an empty one
// takes every path.
func overlapping(a, b []pattern.Path) bool {
	if len(a) == 0 || len(b) == 0 {
		return true
	}
	return slices.ContainsFunc(a, func(p pattern.Path) bool {
		segments := slices.Collect(p.Segments())
		return slices.ContainsFunc(b, func(q pattern.Path) bool { return overlap(segments, slices.Collect(q.Segments())) })
	})
}

// endpoint is what a Listener binds. The zero endpoint, and port 0, which is
// any that is free, are nobody's.
type endpoint struct{ host, port string }

func parseEndpoint(address string) endpoint {
	i := strings.LastIndexByte(address, ':')
	if i < 0 || address[i+1:] == "0" {
		return endpoint{}
	}
	e := endpoint{host: strings.Trim(address[:i], "[]"), port: address[i+1:]}
	switch e.host {
	case "::":
		e.host = "" // takes IPv4 as well
	case "localhost":
		e.host = "127.0.0.1"
	}
	return e
}

// excludes reports whether a machine can bind only one of the two.
func (e endpoint) excludes(o endpoint) bool {
	if e.port == "" || e.port != o.port {
		return false
	}
	const anyIPv4 = "0.0.0.0"
	isIPv4 := func(host string) bool { return !strings.Contains(host, ":") }
	return e.host == o.host || e.host == "" || o.host == "" ||
		e.host == anyIPv4 && isIPv4(o.host) || o.host == anyIPv4 && isIPv4(e.host)
}

// keeps reports whether what a resource has become is all that others may have
// needed of it: to be where it was, of a Route what policies look at, and of an
// IdentityProvider whether it can be asked and what it vouches by.
func keeps(old, now *item) bool {
	if now == nil || !covers(now.scope, old.scope) {
		return false
	}
	if p, ok := old.Spec.(*resourcev1.IdentityProvider); ok {
		after, _ := now.Spec.(*resourcev1.IdentityProvider)
		return compile.Introspects(p) == compile.Introspects(after) && (p.GetSignIn() == nil || after.GetSignIn() != nil) &&
			wantsCertificates(old) == wantsCertificates(now)
	}
	switch before := old.Spec.(type) {
	case *resourcev1.Condition:
		after, _ := now.Spec.(*resourcev1.Condition)
		return before.GetWhen() == after.GetWhen()
	case *resourcev1.Set:
		after, _ := now.Spec.(*resourcev1.Set)
		return len(before.GetCidrs()) > 0 == (len(after.GetCidrs()) > 0)
	}
	before, ok := old.Spec.(*resourcev1.Route)
	if !ok {
		return true
	}
	after, _ := now.Spec.(*resourcev1.Route)
	return maps.Equal(old.Labels, now.Labels) && slices.Equal(before.GetMethods(), after.GetMethods()) &&
		slices.Equal(before.GetPaths(), after.GetPaths()) && proto.Equal(before.GetAuthentication(), after.GetAuthentication())
}
