package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/internal/policy"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// vigilEvery is how often ages are held against their limits when nobody asks.
const vigilEvery = time.Second

// staleness is from which age on something is stale, and whether requests are denied
// then. The zero value has no limit.
type staleness struct {
	limit time.Duration
	deny  bool
}

func limitOf(limit time.Duration, action resourcev1.StalenessAction) staleness {
	return staleness{limit: limit, deny: action == resourcev1.StalenessAction_STALENESS_ACTION_DENY}
}

// exceeded reports whether an age is too high. One that nobody knows is.
func (s staleness) exceeded(age policy.Age) bool {
	return s.limit > 0 && (!age.Known || age.Is > s.limit)
}

func (s staleness) denies(age policy.Age) bool { return s.deny && s.exceeded(age) }

func (s staleness) action() string {
	if s.deny {
		return "DENY"
	}
	return "SERVE"
}

// ages are those of what is in force.
func (g *Gateway) ages(now time.Time) (a policy.Ages) {
	a.Configuration.Is, a.Configuration.Known = g.age(now)
	a.Security.Is, a.Security.Known = g.secureAge(now)
	return a
}

// vigil says when something becomes stale, and when it is not any more: whoever
// serves on, as the environment demands, should not do so in silence.
type vigil struct {
	mu    sync.Mutex
	stale map[string]bool // by clock; what is missing is not
}

// keepVigil looks at the ages until ctx ends.
func (g *Gateway) keepVigil(ctx context.Context) {
	tick := time.NewTicker(vigilEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			g.watchAges(ctx)
		}
	}
}

// watchAges holds the ages of what is in force against the environment's limits.
// Before anything is in force there is nothing to be stale.
func (g *Gateway) watchAges(ctx context.Context) {
	s := g.state.Load()
	if s.table == nil {
		return
	}
	ages := g.ages(g.now())
	g.watchAge(ctx, "configuration", s.limit, ages.Configuration)
	if g.revocations.Load() != nil {
		g.watchAge(ctx, "security", s.securityLimit, ages.Security)
	}
}

func (g *Gateway) watchAge(ctx context.Context, clock string, s staleness, age policy.Age) {
	stale := s.exceeded(age)
	g.metrics.ageOf(clock, s, stale)
	v := &g.vigil
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.stale == nil {
		v.stale = make(map[string]bool)
	}
	was := v.stale[clock]
	v.stale[clock] = stale
	switch {
	case stale && !was && age.Known:
		g.log.ErrorContext(ctx, "staleness limit exceeded", "clock", clock, "age", age.Is.Round(time.Second), "limit", s.limit, "action", s.action())
	case stale && !was: // it was never confirmed
		g.log.ErrorContext(ctx, "staleness limit exceeded", "clock", clock, "limit", s.limit, "action", s.action())
	case was && !stale:
		g.log.InfoContext(ctx, "staleness ended", "clock", clock, "age", age.Is.Round(time.Second), "limit", s.limit)
	}
}

// ageOf shows a clock's limit, and whether it is exceeded.
func (m *metrics) ageOf(clock string, s staleness, stale bool) {
	m.ageLimits.DeletePartialMatch(prometheus.Labels{"clock": clock})
	m.ageLimits.WithLabelValues(clock, s.action()).Set(s.limit.Seconds())
	is := 0.0
	if stale {
		is = 1
	}
	m.stale.WithLabelValues(clock).Set(is)
}
