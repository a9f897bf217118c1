// Package dns keeps up to date which addresses the host names of endpoints stand for.
package dns

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Bounds of what is asked and of what is taken.
const (
	// maxAddresses is how many addresses of a name are used, the lowest ones.
	maxAddresses = 64
	// maxLookups is how many names are looked up at once.
	maxLookups = 16
	// patience is how long a lookup may take, all servers and search domains included.
	patience = 15 * time.Second
)

// When a name is looked up again.
const (
	soonest    = 5 * time.Second  // however short its records are good for
	latest     = 5 * time.Minute  // however long
	untold     = 30 * time.Second // where nothing says for how long, as in the hosts file
	firstRetry = time.Second      // after a lookup that failed, and twice as long each time
	lastRetry  = 30 * time.Second
)

// Family says which addresses of a name are used. The zero value is both families.
type Family uint8

// The families.
const (
	Both Family = iota
	IPv4
	IPv6
)

// network is the family in the words of package net.
func (f Family) network() string {
	switch f {
	case Both:
		return "ip"
	case IPv4:
		return "ip4"
	case IPv6:
		return "ip6"
	}
	return "no family of addresses"
}

// Name is a host name, and what is wanted of it.
type Name struct {
	Host   string
	Family Family
	// Every is the time from one lookup to the next. When it is zero, the records say
	// it, but not less than 5 seconds nor more than 5 minutes; 30 seconds where they say
	// nothing.
	Every time.Duration
}

// Config is what a Resolver needs. Log is required.
type Config struct {
	Log *slog.Logger
	// Dial connects to a server of DNS; a net.Dialer when nil.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Registerer takes the metrics; they are not shown when it is nil.
	Registerer prometheus.Registerer
}

// Resolver looks names up in the hosts file and at the servers of the system's
// resolv.conf. It is safe for concurrent use.
type Resolver struct {
	log      *slog.Logger
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	turns    chan struct{} // one for each lookup that is under way
	routable func(netip.Addr) bool

	lookups *prometheus.CounterVec
	stale   prometheus.Gauge
}

// New returns a Resolver that has asked nothing yet.
func New(c Config) (*Resolver, error) {
	if c.Log == nil {
		return nil, errors.New("a resolver needs a logger")
	}
	r := &Resolver{
		log: c.Log, dial: c.Dial, turns: make(chan struct{}, maxLookups), routable: routable,
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_upstream_lookups_total",
			Help: "Lookups of host names of upstreams, by result.",
		}, []string{"result"}),
		stale: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_upstream_names_stale",
			Help: "Host names of upstreams whose last lookup failed.",
		}),
	}
	if r.dial == nil {
		r.dial = (&net.Dialer{}).DialContext
	}
	for _, result := range []string{answered, failed} {
		r.lookups.WithLabelValues(result)
	}
	if c.Registerer == nil {
		return r, nil
	}
	return r, errors.Join(c.Registerer.Register(r.lookups), c.Registerer.Register(r.stale))
}

// Results of lookups.
const (
	answered = "answered"
	failed   = "failed"
)

// Follow looks n up until ctx ends, and tells its addresses, in order and each once,
// whenever they are others than those it told before. A lookup that fails, or finds no
// address, changes nothing: what a name stood for is used until something else is
// known. It is asked for again after a second, then ever more slowly.
func (r *Resolver) Follow(ctx context.Context, n Name, tell func([]netip.Addr)) {
	f := &follower{Resolver: r, name: n}
	defer f.settle()
	for {
		addresses, wait := f.look(ctx)
		if ctx.Err() != nil {
			return
		}
		if addresses != nil && !slices.Equal(addresses, f.told) {
			r.log.DebugContext(ctx, "host name of an upstream has other addresses", "host", n.Host, "addresses", len(addresses))
			f.told = addresses
			tell(addresses)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// follower is one call of Follow.
type follower struct {
	*Resolver
	name     Name
	told     []netip.Addr
	failures int // in a row
}

// look returns what the name stands for, nil when that could not be found out, and
// after what time to look again.
func (f *follower) look(ctx context.Context) ([]netip.Addr, time.Duration) {
	select {
	case f.turns <- struct{}{}:
		defer func() { <-f.turns }()
	case <-ctx.Done():
		return nil, 0
	}
	found, err := f.Lookup(ctx, f.name)
	switch {
	case ctx.Err() != nil:
		return nil, 0
	case err != nil:
		f.failed(ctx, err)
		return nil, f.pause()
	}
	f.lookups.WithLabelValues(answered).Inc()
	if f.settle() {
		f.log.InfoContext(ctx, "host name of an upstream was found again", "host", f.name.Host)
	}
	if found.Left > 0 {
		f.log.WarnContext(ctx, "host name of an upstream has too many addresses", "host", f.name.Host, "ignored", found.Left)
	}
	return found.Addresses, f.interval(found)
}

func (f *follower) failed(ctx context.Context, err error) {
	f.lookups.WithLabelValues(failed).Inc()
	if f.failures++; f.failures == 1 {
		f.stale.Inc()
		f.log.WarnContext(ctx, "host name of an upstream cannot be found", "host", f.name.Host, "err", err)
	}
}

// settle forgets failures, and reports whether there were any.
func (f *follower) settle() bool {
	if f.failures == 0 {
		return false
	}
	f.failures = 0
	f.stale.Dec()
	return true
}

// pause is the time to wait after failures, half of it by chance.
func (f *follower) pause() time.Duration {
	longest := firstRetry << min(f.failures-1, 5)
	longest = min(longest, lastRetry)
	return longest/2 + rand.N(longest/2+1) //nolint:gosec // spreads load, hides nothing
}

// interval is the time to wait after an answer, a tenth more or less, so that proxies
// which started together do not go on asking together.
func (f *follower) interval(found Answer) time.Duration {
	every := f.name.Every
	switch {
	case every > 0:
	case found.Told:
		every = min(max(found.TTL, soonest), latest)
	default:
		every = untold
	}
	return every - every/10 + rand.N(every/5+1) //nolint:gosec // spreads load, hides nothing
}
