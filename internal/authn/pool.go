package authn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config is what a Pool needs. Log is required; zero values of the rest mean
// what their comments say.
type Config struct {
	Log *slog.Logger
	// Registerer takes the metrics; they are not shown when it is nil.
	Registerer prometheus.Registerer
	// Client brings the transport to providers; its other fields are not used.
	// When nil: the system's certificate authorities, and only such addresses as
	// providers may have. A transport that is given dials what it likes.
	Client *http.Client

	// Refresh is the time between background fetches of a key set whose issuer
	// does not say how long it stays; 5 m.
	Refresh  time.Duration
	CoolDown time.Duration // between fetches for an unknown kid; 10 s
	MaxAge   time.Duration // after which a key set is of no use any more; 24 h
	Timeout  time.Duration // for one fetch; 5 s
	Wait     time.Duration // the longest that a request waits for a fetch; 2 s

	// CacheEntries bounds the verified tokens and opened sessions that are
	// remembered, and the device tokens besides; 16,384.
	CacheEntries int
	// ProofEntries bounds the DPoP proofs that are remembered, each for about a
	// minute and in about 100 bytes; 262,144.
	ProofEntries int

	Now func() time.Time // time.Now when nil
}

type limits struct {
	refresh, coolDown, maxAge, wait time.Duration
}

// Pool keeps the key sets and the verified tokens of the providers in service,
// across snapshots. It is safe for concurrent use.
type Pool struct {
	limits  limits
	fetcher *fetcher
	cache   *cache
	devices *cache // of its own: what devices sign pushes no verified token out
	proofs  *proofs
	metrics *metrics
	log     *slog.Logger
	now     func() time.Time

	// changed has room for one: live is not what Run has seen.
	changed chan struct{}

	mu sync.Mutex
	// live is replaced, never changed: Authenticators share it.
	live map[ProviderName]*provider
	id   uint64 // of the youngest provider
}

// New returns a Pool without providers. It fails when a setting is negative,
// Log is missing, or the metrics are registered already.
func New(c Config) (*Pool, error) {
	if c.Log == nil {
		return nil, errors.New("Log is required")
	}
	durations := []time.Duration{c.Refresh, c.CoolDown, c.MaxAge, c.Timeout, c.Wait}
	if slices.Min(durations) < 0 || min(c.CacheEntries, c.ProofEntries) < 0 {
		return nil, errors.New("durations, CacheEntries and ProofEntries must not be negative")
	}
	m, err := newMetrics(c.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register authentication metrics: %w", err)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Pool{
		limits: limits{
			refresh:  or(c.Refresh, 5*time.Minute),
			coolDown: or(c.CoolDown, 10*time.Second),
			maxAge:   or(c.MaxAge, 24*time.Hour),
			wait:     or(c.Wait, 2*time.Second),
		},
		fetcher: newFetcher(c.Client, or(c.Timeout, 5*time.Second)),
		cache:   newCache(or(c.CacheEntries, 16384)),
		devices: newCache(or(c.CacheEntries, 16384)),
		proofs:  &proofs{newReplays(or(c.ProofEntries, 1<<18), m.proofs), newNonces()},
		metrics: m, log: c.Log, now: c.Now,
		changed: make(chan struct{}, 1),
	}, nil
}

func or[T comparable](v, fallback T) T {
	if v == *new(T) {
		return fallback
	}
	return v
}

// Sync makes providers, whose names are unique, the ones in service, and
// returns the Authenticator that goes with them. A provider whose keys come from
// where they did keeps them, and one that did not change at all its verified
// tokens. The others' keys are fetched as soon as Run runs; requests that need
// them wait for that as for an unknown kid. A provider that cannot be used, for
// a URL or its JWKS, is logged and denies.
func (p *Pool) Sync(providers []Provider) *Authenticator {
	a, unusable := p.sync(providers)
	for name, err := range unusable {
		p.log.Error("identity provider cannot be used", "provider", name, "err", err)
	}
	return a
}

func (p *Pool) sync(providers []Provider) (*Authenticator, map[string]error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	unusable := map[string]error{}
	next := make(map[ProviderName]*provider, len(providers))
	for _, spec := range providers {
		v := p.adopt(spec)
		if v.err != nil {
			unusable[v.name] = v.err
		}
		next[spec.Key()] = v
	}
	for name, old := range p.live {
		if next[name] == nil {
			p.metrics.forget(old.name)
		}
	}
	p.live = next
	select {
	case p.changed <- struct{}{}:
	default:
	}
	return &Authenticator{providers: next, cache: p.cache, devices: p.devices, proofs: p.proofs, metrics: p.metrics}, unusable
}

// adopt makes the provider for spec out of what is in service. The caller
// holds mu.
func (p *Pool) adopt(spec Provider) *provider {
	spec.own()
	old := p.live[spec.Key()]
	// All of the spec is compared: a digest that somebody forgot to set must
	// not keep old rules in force.
	if old != nil && reflect.DeepEqual(old.spec, spec) {
		return old
	}
	p.id++
	return p.newProvider(spec, old)
}

// Run fetches the keys of the providers in service, and asks them again for tokens of
// requests that are carried, until ctx ends, and returns nil then. A Pool runs once.
func (p *Pool) Run(ctx context.Context) error {
	var fetchers sync.WaitGroup
	defer fetchers.Wait()
	running := map[runner]context.CancelFunc{}
	for {
		wanted := p.wanted()
		for k, cancel := range running {
			if !wanted[k] {
				cancel()
				delete(running, k)
			}
		}
		for k := range wanted {
			if running[k] != nil {
				continue
			}
			ctx, cancel := context.WithCancel(ctx)
			running[k] = cancel
			fetchers.Go(func() { k.run(ctx) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.changed:
		}
	}
}

// runner is what of a provider runs while that is in service.
type runner interface{ run(ctx context.Context) }

func (p *Pool) wanted() map[runner]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	wanted := make(map[runner]bool, len(p.live))
	for _, v := range p.live {
		if v.keys != nil && v.source.jwks == "" {
			wanted[v.keys] = true
		}
		if v.asks != nil {
			wanted[v.asks] = true
		}
	}
	return wanted
}
