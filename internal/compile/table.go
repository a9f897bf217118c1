package compile

import (
	"iter"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/cors"
	"github.com/sallyport/sallyport/internal/pattern"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/request"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/route"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// Table is a snapshot made ready to decide. It is immutable and safe for
// concurrent use. A nil or zero Table has no routes.
type Table struct {
	snapshot *snapshot.Snapshot

	// What requests meet, and EnforcedRoot walks. Routes are by the value that
	// the matcher returns.
	matcher     *matcher
	routes      []*Route
	policies    *policy.Set
	upstreams   []*Upstream
	providers   []*Provider
	apiKeys     []*APIKey
	domains     []*TrustDomain
	schemas     []*Schema
	listeners   []*Listener
	environment *document   // nil when there is none
	named       []*document // terms that are enforced
	limits      []*RateLimit

	rejects []Reject

	// What the next table is made from.
	documents  map[resource.Key]*document // all but terms, policies and the like
	byName     map[resource.Key]*document // what conditions refer to by name
	written    map[resource.Key]*document // policies, and what else selects routes
	rejected   map[resource.Key]rejection
	resolved   []*Route                   // routes before what other documents deny
	namespaces map[string]*namespace      // the routes of each
	selections map[string]*selections     // the policies of each namespace, by what they select
	unbound    map[resource.Key]*document // policies that select no route

	// sums are those that EnforcedRoot has found last, of this table or of one that it
	// was made from. It compares with them, and takes nothing from them on trust.
	sums *atomic.Pointer[sums]
}

// Route is where the requests go that it matches, and what they need.
type Route struct {
	Key    resource.Key
	Digest snapshot.Digest
	Labels map[string]string

	Upstream       *Upstream                  // nil for a redirect, and for a split
	Split          *Split                     // nil for none
	Authentication *resourcev1.Authentication // not to be modified
	Providers      []*Provider                // that it names

	// SignIn is at which provider people sign in, nil for none. It has a sign_in.
	SignIn          *Provider
	SessionLifetime time.Duration

	// Paths are its templates, the most specific first. It is not to be changed.
	Paths []pattern.Path

	// Conditions are what it wants of headers and query. They are not to be changed.
	Conditions []request.Condition

	// Validation is what its requests are compared with, nil for nothing.
	Validation *Validation

	Rewrites Rewrites
	CORS     *cors.Rule // nil for none
	Timeout  time.Duration

	IdleTimeout   time.Duration          // 0 for none
	ServerHeaders bool                   // what names the upstream's software stays
	ErrorPages    *resourcev1.ErrorPages // nil for none; not to be modified

	WebSocket      bool // requests may become one
	EscapedSlashes bool // they are kept, as parts of segments

	Assertion       *resourcev1.Assertion // nil for none; not to be modified
	IdentityHeaders []resourcev1.IdentityHeader
	Record          *resourcev1.RecordRule // nil for none; not to be modified

	// Limits bound how many requests are let through, ordered by key.
	Limits []*RateLimit

	// Unavailable, when not empty, says why every request of this route is
	// denied: a control of it was rejected. All fields but Key, Digest and
	// Labels may be zero then.
	Unavailable string

	document *document
	rejected bool   // the route itself: it is in the table to deny, and not enforced
	culprit  string // the rejected resource
}

// ID returns the name by which the policies of the route are found.
func (r *Route) ID() policy.RouteID {
	return policy.RouteID{Namespace: r.Key.Namespace, Name: r.Key.Name}
}

// Upstream is an Upstream that is enforced. Tables share it while its document
// stays the same.
type Upstream struct {
	Key    resource.Key
	Digest snapshot.Digest
	Spec   *resourcev1.Upstream

	document *document
}

// Provider is an IdentityProvider that is enforced. Tables share it while its
// document stays the same.
type Provider struct {
	Key    resource.Key
	Digest snapshot.Digest
	Spec   *resourcev1.IdentityProvider

	document *document
}

// APIKey is an ApiKey that is enforced. Tables share it while its document stays
// the same. No other of its namespace has one of its secrets' IDs.
type APIKey struct {
	Key    resource.Key
	Digest snapshot.Digest
	Spec   *resourcev1.ApiKey

	document *document
}

// TrustDomain is a TrustDomain that is enforced. Tables share it while its
// document stays the same. There is no other of the same trust domain.
type TrustDomain struct {
	Key    resource.Key
	Digest snapshot.Digest
	Spec   *resourcev1.TrustDomain

	document *document
}

// Listener is a Listener that is enforced.
type Listener struct {
	Key    resource.Key
	Digest snapshot.Digest
	Spec   *resourcev1.Listener

	document *document
}

// Reject is a document that is not enforced, and why.
type Reject = resource.Reject

// Head returns the head of the snapshot that t was made of.
func (t *Table) Head() snapshot.Head { return t.Snapshot().Head() }

// Snapshot returns what t was made of; nil for a table of nothing.
func (t *Table) Snapshot() *snapshot.Snapshot {
	if t == nil {
		return nil
	}
	return t.snapshot
}

// Match returns the route that a canonical request takes, nil when none does, and
// when that route does not keep the escaped slashes of its path: c.Ambiguity says so.
// It does not allocate for those that have a route.
func (t *Table) Match(c *request.Canonical) (*Route, route.Result) {
	if t == nil || t.matcher == nil {
		return nil, route.Result{}
	}
	slot, result := t.matcher.table.Match(c)
	if !result.Found() {
		return nil, result
	}
	if r := t.routes[slot]; r.keeps(c) || c.Ambiguity() == nil {
		return r, result
	}
	return nil, route.Result{}
}

// keeps reports whether the escaped slashes of a path are kept. They never are where
// slashes would make it one of the gateway's own.
func (r *Route) keeps(c *request.Canonical) bool {
	return r.EscapedSlashes && !strings.HasPrefix(c.Path, resource.ReservedPath+"%2F")
}

// Preflight returns the route of the request that a browser asks about before it sends
// it, if that route answers such questions; nil if c is another request.
func (t *Table) Preflight(c *request.Canonical) *Route {
	method := cors.Method(c)
	if method == "" {
		return nil
	}
	asked := *c
	asked.Method = method
	r, _ := t.Match(&asked)
	if r == nil || r.CORS == nil {
		return nil
	}
	return r
}

// Candidates yields all routes that claim a request, each once, in the order in which
// they would take it: the first is the one of Match, if it keeps what the path has of
// escaped slashes.
func (t *Table) Candidates(c *request.Canonical) iter.Seq[*Route] {
	return func(yield func(*Route) bool) {
		if t == nil || t.matcher == nil {
			return
		}
		seen := make(map[int32]bool)
		for slot := range t.matcher.table.Candidates(c) {
			if !seen[slot] && !yield(t.routes[slot]) {
				return
			}
			seen[slot] = true
		}
	}
}

// Route returns a route by its name, nil if there is none.
func (t *Table) Route(id policy.RouteID) *Route {
	if t == nil || t.namespaces[id.Namespace] == nil {
		return nil
	}
	slot, ok := t.namespaces[id.Namespace].names[id.Name]
	if !ok {
		return nil
	}
	return t.routes[slot]
}

// Policies returns the policies, by route. A nil Table's deny everything.
func (t *Table) Policies() *policy.Set {
	if t == nil {
		return nil
	}
	return t.policies
}

// Listeners returns where to listen, ordered by key. It is not to be changed.
func (t *Table) Listeners() []*Listener {
	if t == nil {
		return nil
	}
	return t.listeners
}

// Upstreams returns the upstreams, ordered by key. It is not to be changed.
func (t *Table) Upstreams() []*Upstream {
	if t == nil {
		return nil
	}
	return t.upstreams
}

// Providers returns the identity providers, ordered by key. It is not to be
// changed.
func (t *Table) Providers() []*Provider {
	if t == nil {
		return nil
	}
	return t.providers
}

// APIKeys returns the API keys, ordered by key. It is not to be changed.
func (t *Table) APIKeys() []*APIKey {
	if t == nil {
		return nil
	}
	return t.apiKeys
}

// TrustDomains returns the trust domains, ordered by key. It is not to be changed.
func (t *Table) TrustDomains() []*TrustDomain {
	if t == nil {
		return nil
	}
	return t.domains
}

// The ages from which on what is in force is called stale where the environment does
// not say. Proxies serve on then: see docs/decisions/0018-staleness.md.
const (
	DefaultConfigurationAge = 15 * time.Minute
	DefaultSecurityAge      = 5 * time.Minute
)

// Staleness returns how old the configuration may get before action is taken.
func (t *Table) Staleness() (limit time.Duration, action resourcev1.StalenessAction) {
	return t.rule((*resourcev1.Environment).GetConfigurationAge, DefaultConfigurationAge)
}

// SecurityStaleness returns the same of what is known of revocations.
func (t *Table) SecurityStaleness() (limit time.Duration, action resourcev1.StalenessAction) {
	return t.rule((*resourcev1.Environment).GetSecurityAge, DefaultSecurityAge)
}

// Records returns how decisions are recorded, nil where nothing is said. It is not to
// be changed.
func (t *Table) Records() *resourcev1.Records {
	if t == nil || t.environment == nil {
		return nil
	}
	spec, _ := t.environment.spec.(*resourcev1.Environment)
	return spec.GetRecords()
}

func (t *Table) rule(of func(*resourcev1.Environment) *resourcev1.StalenessRule, otherwise time.Duration) (time.Duration, resourcev1.StalenessAction) {
	if t != nil && t.environment != nil {
		spec, _ := t.environment.spec.(*resourcev1.Environment)
		if rule := of(spec); rule != nil {
			return rule.GetLimit().AsDuration(), rule.GetAction()
		}
	}
	return otherwise, resourcev1.StalenessAction_STALENESS_ACTION_SERVE
}

// Rejects returns what of the snapshot is not enforced, ordered by key. It is
// not to be changed.
func (t *Table) Rejects() []Reject {
	if t == nil {
		return nil
	}
	return t.rejects
}
