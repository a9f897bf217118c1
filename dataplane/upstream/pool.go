// Package upstream keeps the connections to where requests go, and sends
// requests over them: to each endpoint in turn, with proof of who is at the
// other end.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/dataplane/upstream/balance"
	"github.com/sallyport/sallyport/dataplane/upstream/retry"
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

	Endpoints []string // host:port

	Plaintext bool
	TLS       *TLS
	SPIFFE    *SPIFFE

	Balancing Balancing
	Ejection  Ejection
	Retries   Retries
	Circuit   Circuit
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

	mu sync.Mutex
	// live is replaced, never changed: Sets share it.
	live map[Name]*Upstream
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
	p := &Pool{identity: c.Identity, log: c.Log, connectTimeout: c.ConnectTimeout, avoid: c.Avoid, now: c.Now, metrics: m}
	if p.connectTimeout == 0 {
		p.connectTimeout = 3 * time.Second
	}
	if p.avoid == 0 {
		p.avoid = 5 * time.Second
	}
	if p.now == nil {
		p.now = time.Now
	}
	return p, nil
}

// Sync makes specs, whose names are unique, the upstreams in service. One that
// did not change keeps its connections; those of the others are closed as soon
// as no request uses them. A Set of before goes on working.
func (p *Pool) Sync(specs []Spec) *Set {
	set, gone := p.sync(specs)
	for _, u := range gone {
		u.retire()
	}
	return set
}

func (p *Pool) sync(specs []Spec) (*Set, []*Upstream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := make(map[Name]*Upstream, len(specs))
	for _, spec := range specs {
		spec.complete()
		u := p.live[spec.Key()]
		// All of the spec is compared: a digest that somebody forgot to set
		// must not keep old endpoints in service.
		if u == nil || !reflect.DeepEqual(u.spec, spec) {
			u = p.newUpstream(spec)
		}
		next[spec.Key()] = u
	}
	var gone []*Upstream
	for name, u := range p.live {
		if next[name] != u {
			gone = append(gone, u)
		}
		if next[name] == nil {
			p.metrics.forget(name.String())
		}
	}
	p.live = next
	return &Set{next}, gone
}

// Run keeps connections that rest on our identity from outliving it: whenever
// it, or whom it trusts, is renewed, requests go over new ones. It returns nil
// when ctx ends, with all unused connections closed.
func (p *Pool) Run(ctx context.Context) error {
	for {
		changed := p.identity.Changed()
		for _, u := range p.all() {
			if u.spec.SPIFFE != nil {
				u.renew()
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			for _, u := range p.all() {
				u.retire()
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

// newUpstream makes one of a Spec that is complete. It connects to nobody yet.
func (p *Pool) newUpstream(spec Spec) *Upstream {
	spec.Endpoints = slices.Clone(spec.Endpoints)
	u := &Upstream{
		spec: spec, name: spec.Key().String(), pool: p, scheme: "https",
		balancer: balance.New(spec.balancing(p.avoid, p.now)),
		budget:   retry.New(spec.Retries.BudgetPercent, spec.Retries.BudgetPerSecond, p.now),
	}
	u.balancer.Replace(endpointsAt(spec.Endpoints))
	switch {
	case spec.Plaintext:
		u.scheme = "http"
	case spec.TLS != nil && spec.TLS.CAFile != "":
		u.roots = &roots{file: spec.TLS.CAFile}
	}
	return u
}

// endpointsAt returns an endpoint for each address that differs.
func endpointsAt(addresses []string) []*balance.Endpoint {
	all := make([]*balance.Endpoint, 0, len(addresses))
	for i, address := range addresses {
		if !slices.Contains(addresses[:i], address) {
			all = append(all, balance.NewEndpoint(address, "", 1))
		}
	}
	return all
}
