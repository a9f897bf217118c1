// Package health asks endpoints, again and again, whether they can take requests.
package health

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Bounds of checks.
const (
	maxChecks = 64          // at once
	maxHead   = 16 << 10    // bytes of the head of an answer
	maxBody   = 4 << 10     // bytes that are read of its body
	spread    = time.Second // over which first checks are spread
)

// Kind is how an endpoint is asked.
type Kind uint8

// The kinds. The zero value is none, which no endpoint passes.
const (
	HTTP Kind = iota + 1 // GET, over HTTP/1.1 or HTTP/2
	TCP                  // a connection, with its TLS
	GRPC                 // grpc.health.v1.Health/Check
)

// Check is what an endpoint has to pass.
type Check struct {
	Kind    Kind
	Path    string  // for HTTP, with the query if there is one
	Host    string  // for HTTP and GRPC; the endpoint's address when empty
	Pass    []Range // of statuses, for HTTP; those of 200 to 299 when empty
	Service string  // for GRPC; all of the server when empty

	Interval time.Duration // from the end of one check to the next, a tenth more or less
	Timeout  time.Duration // of one check, its connection included
	Healthy  int           // how many have to pass in a row for an unhealthy endpoint to be healthy
	Fail     int           // how many have to fail in a row for a healthy one to be unhealthy
}

// Range is a range of statuses, both ends included.
type Range struct{ From, To int }

// Endpoint is what is asked.
type Endpoint struct {
	Upstream, Address string // for logs, and for a Check without a Host
	// Connect makes a connection as requests do, with their proof of who is there, that
	// speaks one of the protocols, in the order of preference.
	Connect func(ctx context.Context, protocols ...string) (net.Conn, error)
}

// ErrNotAsked says that there is no connection for a reason that is ours: it tells nothing
// of the endpoint. Connect returns it.
var ErrNotAsked = errors.New("endpoint was not asked")

// Config is what a Prober needs. Log is required.
type Config struct {
	Log *slog.Logger
	// Registerer takes the metrics; they are not shown when it is nil.
	Registerer prometheus.Registerer
}

// Prober checks endpoints, each time over a connection of its own: one that is open
// already says nothing of whether others can be had. It is safe for concurrent use.
type Prober struct {
	log    *slog.Logger
	turns  chan struct{} // one for each check that is under way
	checks *prometheus.CounterVec
}

// Results of checks.
const (
	passed = "passed"
	failed = "failed"
)

// New returns a Prober that has asked nobody yet.
func New(c Config) (*Prober, error) {
	if c.Log == nil {
		return nil, errors.New("a prober needs a logger")
	}
	p := &Prober{
		log: c.Log, turns: make(chan struct{}, maxChecks),
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_upstream_checks_total",
			Help: "Checks of the health of endpoints, by result.",
		}, []string{"result"}),
	}
	for _, result := range []string{passed, failed} {
		p.checks.WithLabelValues(result)
	}
	if c.Registerer == nil {
		return p, nil
	}
	return p, c.Registerer.Register(p.checks)
}

// Watch checks e until ctx ends, for the first time within a second, and tells after
// each check whether the endpoint is healthy. Until then that is not known; the first
// check alone decides it, and from then on as many in a row as c says.
func (p *Prober) Watch(ctx context.Context, c Check, e Endpoint, tell func(healthy bool)) {
	var s standing
	for wait := rand.N(min(spread, c.Interval) + 1); ; wait = c.pause() { //nolint:gosec // spreads load, hides nothing
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		err := p.inTurn(ctx, c, e)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, ErrNotAsked):
			continue
		}
		p.count(err)
		if s.take(err == nil, c) {
			p.changed(ctx, e, err)
		}
		tell(s.healthy)
	}
}

// pause is the time to the next check.
func (c *Check) pause() time.Duration {
	return c.Interval - c.Interval/10 + rand.N(c.Interval/5+1) //nolint:gosec // spreads load, hides nothing
}

func (p *Prober) inTurn(ctx context.Context, c Check, e Endpoint) error {
	select {
	case p.turns <- struct{}{}:
		defer func() { <-p.turns }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return p.Check(ctx, c, e)
}

func (p *Prober) count(err error) {
	if err != nil {
		p.checks.WithLabelValues(failed).Inc()
		return
	}
	p.checks.WithLabelValues(passed).Inc()
}

func (p *Prober) changed(ctx context.Context, e Endpoint, err error) {
	if err != nil {
		p.log.WarnContext(ctx, "endpoint is unhealthy", "upstream", e.Upstream, "address", e.Address, "err", err)
		return
	}
	p.log.InfoContext(ctx, "endpoint is healthy", "upstream", e.Upstream, "address", e.Address)
}

// standing is what the checks of an endpoint have come to. In the zero value there were
// none.
type standing struct {
	known, healthy bool
	against        int // how many in a row spoke against it
}

// take counts a check, and reports whether the endpoint has become what it was not. One
// that is found healthy at first was taken for that.
func (s *standing) take(pass bool, c Check) (changed bool) {
	if !s.known {
		s.known, s.healthy = true, pass
		return !pass
	}
	if pass == s.healthy {
		s.against = 0
		return false
	}
	enough := c.Fail
	if pass {
		enough = c.Healthy
	}
	if s.against++; s.against < enough {
		return false
	}
	s.healthy, s.against = pass, 0
	return true
}
