// Package balance chooses which endpoint of an upstream a request goes to, and passes
// over those that fail: without sockets, and with the time and the chance that it is
// given, so that all of it can be tried out.
package balance

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Method is how an endpoint is chosen among those that requests go to.
type Method uint8

// The methods.
const (
	RoundRobin   Method = iota // by turns
	LeastRequest               // of two by chance, the one with fewer requests in flight
	Hash                       // the same for requests with the same Key
)

// MostEndpoints is how many a Balancer has. What is more is left out.
const MostEndpoints = 256

// Config is how a Balancer chooses. The zero value goes by turns, and passes nobody
// over.
type Config struct {
	Method Method
	// SlowStart is how long the share of an endpoint that comes, or comes back, grows
	// from a tenth to the whole; it has that at once when zero.
	SlowStart time.Duration
	// Zone is where we are, as endpoints have it: "REGION/ZONE", "REGION", or empty for
	// unknown. Requests go to endpoints of our zone, or, unless Near percent of these can
	// take them, to those of our region as well, or else to all.
	Zone string
	Near int
	// Panic is the percentage of endpoints below which it does not matter that others
	// are ejected or unhealthy: requests go to all of them.
	Panic    int
	Ejection Ejection

	Now  func() time.Time // time.Now when nil
	Rand func() uint64    // of math/rand/v2 when nil
}

// Ejection is when an endpoint is passed over for what became of requests.
type Ejection struct {
	// After is how many requests have to fail in a row; no number ejects when zero.
	After int
	// Time is how long the first ejection takes, and Most the longest: each that
	// follows on another is longer by Time.
	Time, Most time.Duration
	// Percent is how many of a hundred endpoints are ejected at most.
	Percent int
	// Avoid is how long an endpoint that could not be connected to comes behind all
	// others, however many they are.
	Avoid time.Duration
}

// bounded is c with what it cannot be at the nearest that it can.
func (c Config) bounded() Config {
	e := &c.Ejection
	if c.Method > Hash {
		c.Method = RoundRobin
	}
	c.SlowStart, c.Panic = max(c.SlowStart, 0), min(max(c.Panic, 0), 100)
	c.Near = min(max(c.Near, 0), 100)
	e.After, e.Percent = max(e.After, 0), min(max(e.Percent, 0), 100)
	e.Time, e.Most, e.Avoid = max(e.Time, 0), max(e.Most, 0), max(e.Avoid, 0)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Uint64
	}
	return c
}

// Balancer chooses among endpoints. It is safe for concurrent use.
type Balancer struct {
	config Config

	// view is never nil after New. It is replaced with mu held, and never changed.
	view atomic.Pointer[view]
	turn atomic.Uint64

	mu sync.Mutex // held while endpoints change what they are
}

// New returns a Balancer without endpoints. What is out of range in c is taken for the
// nearest that is not.
func New(c Config) *Balancer {
	b := &Balancer{config: c.bounded()}
	b.view.Store(&view{until: never})
	return b
}

// Endpoints returns those that were given last, in order. They are not to be changed.
func (b *Balancer) Endpoints() []*Endpoint { return b.view.Load().all }

// Replace makes endpoints, whose addresses are unique, those that requests go to. What
// is known of one stays with it: who replaces some gives those that stay once more. A
// request that has begun goes on among those of before.
func (b *Balancer) Replace(endpoints []*Endpoint) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]*Endpoint, min(len(endpoints), MostEndpoints))
	copy(all, endpoints)
	first := len(b.view.Load().all) == 0 && !slices.ContainsFunc(all, func(e *Endpoint) bool { return e.known })
	for _, e := range all {
		if first {
			e.in = true // there is nobody whose share it could grow into
		}
	}
	b.renew(all)
}

// Heir returns an endpoint for another Balancer that is where e is, in a zone and with a
// weight that may be others, and of which is known what is known of e, which is one of
// b's. Requests in flight are e's.
func (b *Balancer) Heir(e *Endpoint, zone string, weight int) *Endpoint {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := NewEndpoint(e.address, zone, weight).Named(e.name)
	h.failures.Store(e.failures.Load())
	h.ejected.Store(e.ejected.Load())
	h.avoided.Store(e.avoided.Load())
	h.unhealthy.Store(e.unhealthy.Load())
	h.ejections, h.in, h.since, h.known = e.ejections, e.in, e.since, true
	return h
}

// renew makes a view of endpoints as they are now. mu is held.
func (b *Balancer) renew(all []*Endpoint) { b.view.Store(b.look(all, b.config.Now().UnixNano())) }

// current is the view at this time.
func (b *Balancer) current() *view {
	v := b.view.Load()
	if v.until == never || b.config.Now().UnixNano() < v.until {
		return v
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if v = b.view.Load(); v.until <= b.config.Now().UnixNano() {
		b.renew(v.all)
		v = b.view.Load()
	}
	return v
}

// never is a time that does not come.
const never = math.MaxInt64
