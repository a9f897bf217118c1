// Package upstream keeps the connections to where requests go, and sends
// requests over them: to each endpoint in turn, with proof of who is at the
// other end.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/dataplane/upstream/dns"
	"github.com/sallyport/sallyport/dataplane/upstream/health"
	"github.com/sallyport/sallyport/internal/identity"
)

// Name is the key of an Upstream.
type Name struct{ Namespace, Name string }

// String returns "namespace/name".
func (n Name) String() string { return n.Namespace + "/" + n.Name }

// Spec is an Upstream as a snapshot has it. One of Plaintext, TLS and SPIFFE is
// set; a Spec with none of them is never connected to.
type Spec struct {
	Namespace, Name string
	Digest          [32]byte // of its document

	Endpoints []string // host:port; each address that a host name has is an endpoint

	Plaintext bool
	TLS       *TLS
	SPIFFE    *SPIFFE

	Balancing  Balancing
	Ejection   Ejection
	Retries    Retries
	Circuit    Circuit
	Resolution Resolution
	Check      *health.Check     // of each endpoint; nil for none
	Zones      map[string]string // where endpoints are: "REGION/ZONE" or "REGION"
	// Near is the percentage of the endpoints of our zone, or of our region, that have to
	// be able to take requests for the others not to get any; 70 when zero.
	Near int
}

// Key returns the upstream's name.
func (s *Spec) Key() Name { return Name{s.Namespace, s.Name} }

// TLS is HTTPS to an endpoint that is verified by name.
type TLS struct {
	CAFile     string // PEM, read again when it changes; the system's roots when empty
	ServerName string // the endpoint's host when empty
}

// SPIFFE is HTTPS with SPIFFE identities on both sides.
type SPIFFE struct {
	Peers []identity.Pattern // of which the peer's ID has to match one
}

// Config is what a Pool needs. Identity and Log are required.
type Config struct {
	Identity *identity.Source
	Log      *slog.Logger
	// Registerer takes the metrics; they are not shown when it is nil.
	Registerer prometheus.Registerer

	ConnectTimeout time.Duration // for TCP and again for TLS; 3 s when zero
	// Avoid is how long an endpoint that could not be connected to is only
	// tried when all others fail; 5 s when zero.
	Avoid time.Duration

	// Zone is where we are, in the words of Spec.Zones; empty for unknown.
	Zone string

	// Names looks host names of endpoints up; one that asks as the system is set up to
	// when nil.
	Names *dns.Resolver

	Now func() time.Time // time.Now when nil
}

// Pool keeps the upstreams in service across snapshots. It is safe for
// concurrent use.
type Pool struct {
	identity              *identity.Source
	log                   *slog.Logger
	metrics               *metrics
	connectTimeout, avoid time.Duration
	now                   func() time.Time
	zone                  string
	names                 *dns.Resolver
	prober                *health.Prober

	mu sync.Mutex
	// live is replaced, never changed: Sets share it.
	live map[Name]*Upstream
	// answers are the addresses of names that somebody follows, by name without Every.
	answers map[dns.Name][]netip.Addr

	// synced, of size one, says that there may be other errands.
	synced chan struct{}
}

// Set is the upstreams of one snapshot. It is immutable and safe for concurrent
// use. A nil Set is empty.
type Set struct{ upstreams map[Name]*Upstream }

// Upstream returns an upstream by name, nil when there is none.
func (s *Set) Upstream(n Name) *Upstream {
	if s == nil {
		return nil
	}
	return s.upstreams[n]
}

// New returns a Pool without upstreams. It fails when something required is
// missing, a setting is negative, or the metrics are registered already.
func New(c Config) (*Pool, error) {
	if c.Identity == nil || c.Log == nil {
		return nil, errors.New("upstreams need an identity and a logger")
	}
	if c.ConnectTimeout < 0 || c.Avoid < 0 {
		return nil, errors.New("settings of upstreams must not be negative")
	}
	m, err := newMetrics(c.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register metrics of upstreams: %w", err)
	}
	p := &Pool{
		identity: c.Identity, log: c.Log, connectTimeout: c.ConnectTimeout, avoid: c.Avoid, now: c.Now, metrics: m, zone: c.Zone, names: c.Names,
		answers: map[dns.Name][]netip.Addr{}, synced: make(chan struct{}, 1),
	}
	if p.names == nil {
		if p.names, err = dns.New(dns.Config{Log: c.Log, Registerer: c.Registerer}); err != nil {
			return nil, fmt.Errorf("register metrics of host names: %w", err)
		}
	}
	if p.prober, err = health.New(health.Config{Log: c.Log, Registerer: c.Registerer}); err != nil {
		return nil, fmt.Errorf("register metrics of checks: %w", err)
	}
	if p.connectTimeout == 0 {
		p.connectTimeout = 3 * time.Second
	}
	if p.avoid == 0 {
		p.avoid = 5 * time.Second
	}
	if p.now == nil {
		p.now = time.Now
	}
	if c.Registerer != nil {
		if err := c.Registerer.Register(newStates(p)); err != nil {
			return nil, fmt.Errorf("register metrics of endpoints: %w", err)
		}
	}
	return p, nil
}

// Sync makes specs, whose names are unique, the upstreams in service. What is known of
// an endpoint stays with it, and so do its connections if they are made as before; those
// to endpoints that are gone are closed as soon as no request uses them. A Set of before
// goes on working.
func (p *Pool) Sync(specs []Spec) *Set {
	set, changed := p.sync(specs)
	for _, c := range changed {
		c.leave()
	}
	p.review()
	return set
}

// sync also returns the connections of which some may not be wanted any more.
func (p *Pool) sync(specs []Spec) (*Set, []*connections) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := make(map[Name]*Upstream, len(specs))
	var changed []*connections
	for _, spec := range specs {
		spec.complete()
		u := p.live[spec.Key()]
		// All of the spec is compared: a digest that somebody forgot to set
		// must not keep old endpoints in service.
		if u == nil || !reflect.DeepEqual(u.spec, spec) {
			u = p.newUpstream(spec, u)
			changed = append(changed, u.connections)
		}
		next[spec.Key()] = u
	}
	for name, u := range p.live {
		if now := next[name]; now == nil || now.connections != u.connections {
			u.connections.want(nil)
			changed = append(changed, u.connections)
		}
		if next[name] == nil {
			p.metrics.forget(name.String())
		}
	}
	p.live = next
	return &Set{next}, changed
}

// Run looks up the names of endpoints, checks their health, and keeps connections that rest on our identity
// from outliving it: whenever it, or whom it trusts, is renewed, requests go over new
// ones. It returns nil when ctx ends, with all unused connections closed.
func (p *Pool) Run(ctx context.Context) error {
	var errands sync.WaitGroup
	defer errands.Wait()
	errands.Go(func() { p.tend(ctx) })
	for {
		changed := p.identity.Changed()
		for _, u := range p.all() {
			if u.spec.SPIFFE != nil {
				u.connections.renew()
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			for _, u := range p.all() {
				u.connections.close()
			}
			return nil
		}
	}
}

func (p *Pool) all() []*Upstream {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*Upstream, 0, len(p.live))
	for _, u := range p.live {
		all = append(all, u)
	}
	return all
}
