package compile

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/pattern"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/request"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/route"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// document is what a document says to an environment, whatever else there is.
// It is immutable, and kept from table to table while its digest stays.
type document struct {
	entry  snapshot.Entry
	labels map[string]string
	spec   proto.Message // nil when rejected
	reject string        // why it is rejected; empty when it is not

	control control // what denies when it is rejected, and of a Policy what it selects
	claims  *claims // of a Route, rejected or not; nil when they cannot be read

	// Of a Policy and a Condition: what it refers to by name. A policy that refers
	// to something is compiled again with that, and linked is what it was.
	terms  []policy.Term // of a RateLimit too
	linked []use

	// One of these is set for the kinds that have it, unless rejected.
	policy   *policy.Policy
	limit    *RateLimit
	members  *policy.Members
	paths    []pattern.Path // of a Route, the most specific first
	upstream *Upstream
	provider *Provider
	apiKey   *APIKey
	schema   *Schema
	domain   *TrustDomain
}

// read never fails: what cannot be understood is rejected.
func read(environment string, e snapshot.Entry) *document {
	d := &document{entry: e}
	envelope, err := resource.ParseEnvelope(e.Document)
	if err != nil {
		// A Set does not take such a document. Nobody can tell what it controls.
		d.refuse(err)
		d.control = control{reach: everywhere}
		return d
	}
	d.labels = envelope.Document.GetLabels()
	d.control = controlOf(envelope)
	if err = d.understand(environment); err != nil {
		d.refuse(err)
	}
	if e.Key.Kind == resource.KindRoute {
		if d.claims = readClaims(envelope.Document.GetSpec()); d.claims == nil {
			d.control = control{reach: everywhere}
			d.refuse(cmp.Or(err, errUnreadable))
		}
	}
	return d
}

func (d *document) refuse(err error) {
	d.reject = resource.RejectReason(err)
	d.members, d.terms = nil, nil
	if d.entry.Key.Kind == resource.KindGrant {
		d.control = control{} // what does not allow denies nothing
	}
	d.spec, d.limit, d.schema = nil, nil, nil
	d.policy, d.upstream, d.provider, d.apiKey, d.domain = nil, nil, nil, nil, nil
}

var (
	errElsewhere  = errors.New("is not for this environment")
	errUnreadable = errors.New("what it matches cannot be told")
)

func (d *document) understand(environment string) error {
	parsed, err := resource.Understand(d.entry.Document)
	if err != nil {
		return err
	}
	all, environments := parsed.Scope()
	if !all && !slices.Contains(environments, environment) || parsed.Key.Kind.Immediate() {
		return errElsewhere
	}
	d.spec = parsed.Spec
	switch spec := parsed.Spec.(type) {
	case *resourcev1.Policy:
		d.control = control{reach: selected, namespace: d.entry.Key.Namespace, routes: spec.GetRoutes()}
		err = d.compilePolicy(policySpec(d.entry.Key, spec))
		d.terms = policy.TermsOf(spec.GetWhen())
	case *resourcev1.Grant:
		d.control = control{reach: selected, namespace: d.entry.Key.Namespace, routes: spec.GetRoutes()}
		err = d.compilePolicy(grantSpec(d.entry.Key, spec))
	case *resourcev1.RateLimit:
		d.control = control{reach: selected, namespace: d.entry.Key.Namespace, routes: spec.GetRoutes()}
		err = d.compileLimit(spec, nil)
		d.terms = policy.TermsOf(spec.GetWhen())
	case *resourcev1.Condition:
		err = policy.CheckCondition(spec.GetWhen(), nil, d.entry.Key.Name)
		d.terms = policy.TermsOf(spec.GetWhen())
	case *resourcev1.Set:
		d.members = MembersOf(spec)
		d.spec = &resourcev1.Set{} // of the texts, which may be very many, nobody has any more use
	case *resourcev1.Route:
		d.paths = templates(spec)
	case *resourcev1.Upstream:
		d.upstream = &Upstream{Key: d.entry.Key, Digest: d.entry.Digest, Spec: spec, document: d}
	case *resourcev1.IdentityProvider:
		d.provider = &Provider{Key: d.entry.Key, Digest: d.entry.Digest, Spec: spec, document: d}
		err = checkKeys(spec)
	case *resourcev1.Schema:
		d.schema, err = newSchema(d, spec)
	case *resourcev1.TrustDomain:
		d.domain = &TrustDomain{Key: d.entry.Key, Digest: d.entry.Digest, Spec: spec, document: d}
	case *resourcev1.ApiKey:
		d.apiKey = &APIKey{Key: d.entry.Key, Digest: d.entry.Digest, Spec: spec, document: d}
	}
	return err
}

// compileLimit makes d.limit of a RateLimit.
func (d *document) compileLimit(spec *resourcev1.RateLimit, terms *policy.Terms) error {
	l, err := newRateLimit(d.entry.Key, spec, terms)
	if err != nil {
		return err
	}
	l.Digest, l.document, d.limit = d.entry.Digest, d, l
	return nil
}

// templates returns the paths of a route in the order in which they match.
func templates(r *resourcev1.Route) []pattern.Path {
	paths := make([]pattern.Path, 0, len(r.GetPaths()))
	for _, text := range r.GetPaths() {
		if p, err := pattern.ParsePath(text); err == nil {
			paths = append(paths, p)
		}
	}
	slices.SortFunc(paths, pattern.Path.Compare)
	return paths
}

// control says which routes of an environment a document controls.
type control struct {
	reach     reach
	namespace string                    // but for nothing and everywhere
	routes    *resourcev1.RouteSelector // when selected
}

type reach uint8

const (
	nothing    reach = iota // but what names the document
	selected                // routes of the namespace that the selector selects
	namespaced              // every route of the namespace
	everywhere              // every route
)

// controlOf believes an envelope, of which a newer build may know more than
// this one, unless it says less than what this build knows of the kind.
func controlOf(e resource.Envelope) control {
	c := control{namespace: e.Key.Namespace}
	switch d := e.Document; d.GetReach() {
	case resourcev1.Reach_REACH_UNSPECIFIED:
		c.reach = namespaced
	case resourcev1.Reach_REACH_REFERENCES:
		if e.Key.Kind == resource.KindPolicy || e.Key.Kind == resource.KindRateLimit {
			c.reach = namespaced
		}
	case resourcev1.Reach_REACH_ROUTES:
		c.reach, c.routes = selected, d.GetRoutes()
		if !isSelector(d.GetRoutes()) {
			c.reach = namespaced
		}
	default:
		c.reach = everywhere
	}
	if e.Key.Kind == resource.KindEnvironment || c.reach != nothing && c.namespace == "" {
		c.reach = everywhere
	}
	return c
}

// isSelector reports whether all of s is understood.
func isSelector(s *resourcev1.RouteSelector) bool {
	given := 0
	for _, is := range [...]bool{len(s.GetNames()) > 0, len(s.GetLabels()) > 0, s.GetAll()} {
		if is {
			given++
		}
	}
	return given == 1 && len(s.ProtoReflect().GetUnknown()) == 0
}

// claims are what a route matches, in terms that package route takes.
type claims struct {
	hosts, paths, methods []string
	conditions            []request.Condition

	// none: it names methods, of which none is served. It matches nothing.
	none bool
}

// readClaims reads what a Route matches even when there is more to it than
// this build understands. It returns nil when that is not to be told.
func readClaims(spec []byte) *claims {
	var r resourcev1.Route
	if err := proto.Unmarshal(spec, &r); err != nil {
		return nil
	}
	c := &claims{hosts: r.GetHosts(), paths: r.GetPaths()}
	for _, method := range r.GetMethods() {
		if isServed(method) {
			c.methods = append(c.methods, method)
		}
	}
	c.none = len(r.GetMethods()) > 0 && len(c.methods) == 0
	c.conditions = conditionsOf(&r)
	if len(c.conditions) > route.MaxConditions {
		return nil
	}
	if len(c.hosts) == 0 || len(c.hosts)*max(1, len(c.paths)) > route.MaxClaims {
		return nil
	}
	for _, host := range c.hosts {
		if name, wildcard := strings.CutPrefix(host, "*."); !request.IsHost(host) && !(wildcard && request.IsHost("x."+name)) {
			return nil
		}
	}
	for _, path := range c.paths {
		if _, err := pattern.ParsePath(path); err != nil {
			return nil
		}
	}
	return c
}

// isServed asks the one who would have to let such a request through.
func isServed(method string) bool {
	_, err := request.Canonicalise(request.Raw{Method: method, Target: "/", Host: "a", ProtoMajor: 2})
	return err == nil
}

// Claim is one combination of host, path and method that a route matches. Two
// routes with the same claim are in conflict.
type Claim struct {
	Host       string
	Path       string // the template without names
	Method     string // empty: every method
	Conditions string // in words
}

// Claims returns what a route claims. Templates that do not parse are left out.
func Claims(r *resourcev1.Route) []Claim {
	return (&claims{hosts: r.GetHosts(), paths: r.GetPaths(), methods: r.GetMethods(), conditions: conditionsOf(r)}).all()
}

func (c *claims) all() []Claim {
	paths, methods := c.paths, c.methods
	if len(paths) == 0 {
		paths = []string{"/**"}
	}
	if len(methods) == 0 {
		methods = []string{""}
	}
	conditions := inWords(c.conditions)
	all := make([]Claim, 0, len(c.hosts)*len(paths)*len(methods))
	for _, text := range paths {
		path, err := pattern.ParsePath(text)
		if err != nil {
			continue
		}
		template := shape(path)
		for _, host := range c.hosts {
			for _, method := range methods {
				all = append(all, Claim{Host: host, Path: template, Method: method, Conditions: conditions})
			}
		}
	}
	return all
}

// shape is the text that all templates share that match the same paths.
func shape(p pattern.Path) string {
	var b strings.Builder
	for s := range p.Segments() {
		b.WriteByte('/')
		switch s.Kind {
		case pattern.One:
			b.WriteByte('*')
		case pattern.Rest:
			b.WriteString("**")
		case pattern.Literal:
			b.WriteString(s.Text)
		}
	}
	return b.String()
}

// entry returns the entry of the route table for a route with these claims.
func (c *claims) entry(d *document, slot int32) route.Entry[int32] {
	return route.Entry[int32]{
		Namespace: d.entry.Key.Namespace, Name: d.entry.Key.Name,
		Hosts: c.hosts, Paths: c.paths, Methods: c.methods, Conditions: c.conditions,
		Digest: d.entry.Digest, Value: slot,
	}
}

// part returns the entry of the route table for one claim alone.
func (c *claims) part(of Claim, name int, slot int32) route.Entry[int32] {
	e := route.Entry[int32]{
		Name: fmt.Sprint(name), Hosts: []string{of.Host}, Paths: []string{of.Path}, Conditions: c.conditions, Value: slot,
	}
	if of.Method != "" {
		e.Methods = []string{of.Method}
	}
	return e
}
