// Package geo tells where addresses are, by database files that may be replaced,
// damaged or taken away at any time.
package geo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/internal/policy"
)

// DefaultMaxAge is that of a Config without one. Who publishes databases does so
// each week, and wants those of before not to be used any more after 30 days.
const DefaultMaxAge = 30 * 24 * time.Hour

// Config is what an Atlas needs. Log is required.
type Config struct {
	// Files are databases in MaxMind's format, one of a kind. Without any nothing is
	// known of an address.
	Files []string
	Log   *slog.Logger
	// Registerer takes the metrics; they are not shown when it is nil.
	Registerer prometheus.Registerer

	// MaxAge is how long ago a database may have been built to be asked;
	// DefaultMaxAge when zero.
	MaxAge time.Duration
	// Reload is how often the files are looked at; 5 s when zero.
	Reload time.Duration
	Now    func() time.Time // time.Now when nil
}

// Atlas knows of addresses what the databases say that are in use. It is safe for
// concurrent use, but for Refresh and Run.
type Atlas struct {
	maxAge, reload time.Duration
	now            func() time.Time
	metrics        *metrics

	// sources are for Refresh alone.
	sources []*source

	// current is never nil after New, and replaced, never changed. Refresh is its
	// only writer.
	current atomic.Pointer[[]*database]
}

// New returns an Atlas that knows nothing before Refresh. It fails when the
// settings make no sense, or the metrics are registered already.
func New(c Config) (*Atlas, error) {
	switch {
	case c.Log == nil:
		return nil, errors.New("Log is required")
	case c.MaxAge < 0, c.Reload < 0:
		return nil, errors.New("MaxAge and Reload must not be negative")
	}
	a := &Atlas{maxAge: c.MaxAge, reload: c.Reload, now: c.Now}
	if a.maxAge == 0 {
		a.maxAge = DefaultMaxAge
	}
	if a.reload == 0 {
		a.reload = 5 * time.Second
	}
	if a.now == nil {
		a.now = time.Now
	}
	for i, file := range c.Files {
		if slices.Contains(c.Files[:i], file) {
			return nil, fmt.Errorf("%s is given twice", file)
		}
		a.sources = append(a.sources, &source{file: file, log: c.Log.With("file", file)})
	}
	a.current.Store(&[]*database{})
	var err error
	if a.metrics, err = newMetrics(c.Registerer, a, c.Files); err != nil {
		return nil, fmt.Errorf("register metrics of geo databases: %w", err)
	}
	return a, nil
}

// Run looks at the files from time to time, until ctx ends. It returns nil.
func (a *Atlas) Run(ctx context.Context) error {
	tick := time.NewTicker(a.reload)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			a.Refresh()
		}
	}
}

// Refresh looks at the files, and puts into use what has changed and is sound. What
// is not is logged and counted, and leaves in use what was there before. It is
// called once before Run, and by Run alone from then on.
func (a *Atlas) Refresh() {
	now := a.now()
	next := make([]*database, 0, len(a.sources))
	for _, s := range a.sources {
		if err := s.refresh(a.check(s, now)); err != nil {
			a.metrics.failures.WithLabelValues(s.file).Inc()
		}
		s.watch(a.ages(now))
		if s.database != nil {
			next = append(next, s.database)
		}
	}
	if !slices.Equal(next, *a.current.Load()) {
		a.current.Store(&next)
	}
}

// check says whether a database may be what a source has from now on.
func (a *Atlas) check(s *source, now time.Time) func(*database) error {
	return func(d *database) error {
		for _, other := range a.sources {
			if other == s && s.database != nil && s.database.kind != d.kind {
				return fmt.Errorf("is a %s, and was a %s", d.name(), s.database.name())
			}
			if other != s && other.database != nil && other.database.kind == d.kind {
				return fmt.Errorf("is a %s, which %s is already", d.name(), other.file)
			}
		}
		return a.ages(now)(d)
	}
}

// errAge is of a database that the passing of time makes usable or unusable.
type errAge struct{ text string }

func (e *errAge) Error() string { return e.text }

// tolerance is how far clocks may differ.
const tolerance = 24 * time.Hour

// ages says whether databases may be asked at a time.
func (a *Atlas) ages(now time.Time) func(*database) error {
	return func(d *database) error {
		switch age := now.Sub(d.Built); {
		case age > a.maxAge:
			return &errAge{fmt.Sprintf("was built on %s, more than %d days ago", d.Built.Format(time.DateOnly), a.maxAge/(24*time.Hour))}
		case age < -tolerance:
			return &errAge{fmt.Sprintf("was built on %s, which is in the future", d.Built.Format(time.DateOnly))}
		}
		return nil
	}
}

// Locate implements policy.Locator.
func (a *Atlas) Locate(address netip.Addr, now time.Time) *policy.Place {
	address = address.Unmap().WithZone("")
	all := *a.current.Load()
	p := &policy.Place{Databases: make([]policy.Database, 0, len(all))}
	for _, d := range all {
		if age := now.Sub(d.Built); age > a.maxAge || age < -tolerance {
			continue
		}
		p.Databases = append(p.Databases, d.Database)
		if !address.IsValid() || standsForAnother(address) {
			continue
		}
		if err := d.look(address, p); err != nil {
			a.metrics.lookups.WithLabelValues(d.file).Inc()
		}
	}
	return p
}

// Databases file what they know of IPv4 in the same tree, and lead to it from where
// IPv6 addresses hold one. Such an address would be said to be where an IPv4 address
// is that its owner may choose: of the server, with Teredo.
var transitional = []netip.Prefix{
	netip.MustParsePrefix("::/96"),        // IPv4-compatible: given up
	netip.MustParsePrefix("64:ff9b::/96"), // NAT64
	netip.MustParsePrefix("2001::/32"),    // Teredo
	netip.MustParsePrefix("2002::/16"),    // 6to4
}

func standsForAnother(a netip.Addr) bool {
	return a.Is6() && slices.ContainsFunc(transitional, func(p netip.Prefix) bool { return p.Contains(a) })
}
