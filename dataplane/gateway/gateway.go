// Package gateway is where policy is enforced: it takes in requests, lets
// through those that the table in force allows, and answers for the others.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/dataplane/access"
	"github.com/sallyport/sallyport/dataplane/assertion"
	"github.com/sallyport/sallyport/dataplane/denials"
	"github.com/sallyport/sallyport/dataplane/limit"
	"github.com/sallyport/sallyport/dataplane/overload"
	"github.com/sallyport/sallyport/dataplane/record"
	"github.com/sallyport/sallyport/dataplane/signin"
	"github.com/sallyport/sallyport/dataplane/trace"
	"github.com/sallyport/sallyport/dataplane/upstream"
	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/failpoint"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/authority"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/revocation"
	"github.com/sallyport/sallyport/internal/session"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// Config is what a Gateway needs. All fields but the last ones are required.
type Config struct {
	Identity  *identity.Source
	Authn     *authn.Pool
	Upstreams *upstream.Pool
	Record    *record.Recorder
	SignIn    *signin.Client
	Log       *slog.Logger

	// Age says how long before now the control plane last confirmed the table in
	// force, and SecurityAge the revocations; known is false if it never has. They are
	// asked for each request.
	Age, SecurityAge func(now time.Time) (age time.Duration, known bool)

	// Geo says where clients are, for policies that ask; nothing is known of that when
	// it is nil.
	Geo policy.Locator
	// Assertions makes what upstreams are told of who sent a request. When it is
	// nil, routes that want it deny.
	Assertions *assertion.Signer
	// LoggedOut has a session that has ended here be cut off in the whole fleet, and
	// returns nil once that is committed. When it is nil, no logout is confirmed.
	LoggedOut func(ctx context.Context, proof *proxyv1.LogoutRequest) error
	// Limits counts the rate limits of the fleet. When it is nil, each proxy has a
	// share of them.
	Limits LimitStore
	// Trace has requests take part in traces. When it is nil, what they say of traces is
	// passed on as it came.
	Trace *trace.Tracer
	// Overload says which requests this process is too busy for; none when it is nil.
	Overload *overload.Guard
	// Access takes a line of each request; none are made when it is nil.
	Access *access.Log
	// Registerer takes the metrics; they are not shown when it is nil.
	Registerer prometheus.Registerer
	// Listen opens the socket of an address; net.Listen, of TCP, when it is nil.
	Listen func(address string) (net.Listener, error)
	// Drain is how long requests may take to end when their listener does; 10 s
	// when zero.
	Drain time.Duration
	// Reload is how often files of certificates, authorities and revocation lists
	// are looked at; 5 s when zero.
	Reload time.Duration
	Now    func() time.Time // time.Now when nil
}

// Gateway decides on requests by the table that Apply put in force and the
// revocations that Revoke did. It is safe for concurrent use.
type Gateway struct {
	identity    *identity.Source
	authn       *authn.Pool
	authorities *authority.Pool
	upstreams   *upstream.Pool
	record      *record.Recorder
	signin      *signin.Client
	logouts     logouts
	log         *slog.Logger
	age         func(now time.Time) (time.Duration, bool)
	secureAge   func(now time.Time) (time.Duration, bool)
	now         func() time.Time
	geo         policy.Locator    // nil for none
	asserts     *assertion.Signer // nil for none
	trace       *trace.Tracer     // nil for none
	access      *access.Log       // nil for none
	overload    *overload.Guard   // nil for none
	turns       turns
	pace        pace
	denials     *denials.Counts
	metrics     *metrics
	listeners   *listeners
	explained   explained
	vigil       vigil
	buffers     buffers
	exchanges   exchanges
	alarms      alarms
	streams     streams
	limits      *limit.Pool        // belongs to Apply
	store       LimitStore         // nil for none
	holding     atomic.Int64       // bytes of bodies in memory
	under       map[string]*atOnce // way, by limit; belongs to Apply

	// cookies opens sessions. It is nil until UseCookieKeys, its only writer.
	cookies atomic.Pointer[session.Ring]

	applying sync.Mutex // held by Apply, and guards nothing else

	// state is never nil after New (it starts as the one that denies
	// everything) and never changed in place. Apply is its only writer; a
	// request loads it once and keeps it.
	state atomic.Pointer[state]

	// revocations is nil before the first, and then nobody is let through. Revoke
	// is its only writer; a request loads it once to be decided, and once more
	// when it is an open stream.
	revocations atomic.Pointer[revocation.Set]
}

// state is all that an answer depends on, besides the request.
type state struct {
	table     *compile.Table // nil for none
	policies  *policy.Set
	authn     *authn.Authenticator
	upstreams *upstream.Set

	limit, securityLimit staleness

	revision  []string     // as answers name it, and nobody changes it; nil for none
	routeless *record.Rule // of what is allowed without a route; nil for none

	limits map[*compile.RateLimit]*limiter

	ways sync.Map // *compile.Route to *way, made as they are needed
}

// New returns a Gateway that denies everything, listens nowhere, and has
// started nothing.
func New(c Config) (*Gateway, error) {
	switch {
	case c.Identity == nil, c.Authn == nil:
		return nil, errors.New("Identity and Authn are required")
	case c.Upstreams == nil, c.Record == nil:
		return nil, errors.New("Upstreams and Record are required")
	case c.SignIn == nil:
		return nil, errors.New("SignIn is required")
	case c.Log == nil, c.Age == nil, c.SecurityAge == nil:
		return nil, errors.New("the Log, Age and SecurityAge are required")
	case c.Drain < 0, c.Reload < 0:
		return nil, errors.New("Drain and Reload must not be negative")
	}
	m, err := newMetrics(c.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register metrics of the gateway: %w", err)
	}
	authorities, err := authority.NewPool(c.Log, c.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register metrics of authorities: %w", err)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Listen == nil {
		c.Listen = func(address string) (net.Listener, error) { return net.Listen("tcp", address) }
	}
	g := &Gateway{
		identity: c.Identity, authn: c.Authn, authorities: authorities, upstreams: c.Upstreams, record: c.Record,
		signin: c.SignIn, logouts: newLogouts(c.LoggedOut), log: c.Log,
		age: c.Age, secureAge: c.SecurityAge, now: c.Now, geo: c.Geo, asserts: c.Assertions, metrics: m,
		denials: denials.New(c.Now()),
	}
	g.limits, g.store = limit.NewPool(c.Now()), c.Limits
	g.trace, g.access, g.overload, g.turns = c.Trace, c.Access, c.Overload, newTurns()
	g.pace = newPace()
	g.listeners = newListeners(g, c)
	g.state.Store(&state{})
	return g, nil
}

// Apply puts table in force: requests that begin after it has returned are
// decided by it. Those from before were decided by the one before; what is still
// carried of them is decided on again within a second, while Run runs. Connections
// to upstreams and listeners that did not change are kept; a listener that cannot
// be opened is one of Listeners' and stops no other.
func (g *Gateway) Apply(table *compile.Table) {
	g.applying.Lock()
	defer g.applying.Unlock()
	next := g.prepare(g.state.Load(), table)
	if failpoint.Active("gateway.skip-swap") {
		return
	}
	// Closed before the swap, no listener of the past serves the future;
	// opened after it, none of the future serves the past.
	g.listeners.close(table.Listeners())
	g.state.Store(next)
	g.listeners.open(table.Listeners())
	g.metrics.forget(table)
	g.log.Info("table applied", "revision", int64(table.Head().Revision), "rejects", len(table.Rejects()))
}

// UseCookieKeys has sessions opened and sealed with the keys of r, in requests that
// begin after it has returned. With nil there are none.
func (g *Gateway) UseCookieKeys(r *session.Ring) { g.cookies.Store(r) }

// Current returns the table in force, nil before the first.
func (g *Gateway) Current() *compile.Table { return g.state.Load().table }

// Run serves until ctx ends, and requests that are under way then for as long
// as Config.Drain says. It returns nil. A Gateway runs once.
func (g *Gateway) Run(ctx context.Context) error {
	deciding, end := context.WithCancel(context.WithoutCancel(ctx))
	var other sync.WaitGroup
	other.Go(func() { g.keepDeciding(deciding) })
	other.Go(func() { g.keepVigil(deciding) })
	g.listeners.run(ctx)
	end()
	other.Wait()
	return nil
}

// prepare makes the state of table, with what the one before has of the same.
func (g *Gateway) prepare(before *state, table *compile.Table) *state {
	next := &state{
		table: table, policies: table.Policies(), authn: before.authn, upstreams: before.upstreams,
		revision: []string{strconv.FormatInt(int64(table.Head().Revision), 10)},
	}
	next.routeless = recording(table, nil)
	next.limit, next.securityLimit = limitOf(table.Staleness()), limitOf(table.SecurityStaleness())
	next.limits = before.limits
	if before.table == nil || !same(before.table.RateLimits(), table.RateLimits()) {
		next.limits = g.newLimiters(table.RateLimits())
		g.metrics.forgetLimits(before.table.RateLimits(), table.RateLimits())
	}
	kept := before.table != nil && same(before.table.Providers(), table.Providers())
	if !kept {
		next.authn = g.authn.Sync(providers(table.Providers())).
			WithAuthorities(g.authorities.Sync(authorities(table.Providers()))).WithJWTSVIDs(g.identity)
	}
	if !kept || !same(before.table.APIKeys(), table.APIKeys()) {
		next.authn = next.authn.WithAPIKeys(apiKeys(table.APIKeys()))
	}
	if before.table == nil || !same(before.table.TrustDomains(), table.TrustDomains()) {
		g.identity.Federate(federated(table.TrustDomains()))
	}
	if before.table == nil || !same(before.table.Upstreams(), table.Upstreams()) {
		next.upstreams = g.upstreams.Sync(upstreams(table.Upstreams()))
	}
	return next
}

// refresh looks at the files that say whose certificates are trusted.
func (g *Gateway) refresh() {
	g.authorities.Refresh()
	g.identity.Refresh()
}

// vouchers are asked in handshakes for client certificates that are no SVIDs.
func (g *Gateway) vouchers() identity.Vouchers { return g.state.Load().authn.Authorities() }

// same reports whether a and b are one slice: tables share what did not change.
func same[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
