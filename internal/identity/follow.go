package identity

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	// usualRefresh is the time between fetches of a bundle without a hint (SPIFFE
	// Federation section 4.1), and the longest one after a failure.
	usualRefresh = 5 * time.Minute

	// minRefresh and maxRefresh bound what a bundle says of that: neither is its
	// endpoint to be asked all the time, nor may an authority that was withdrawn
	// be good for a week.
	minRefresh = time.Minute
	maxRefresh = 24 * time.Hour

	// firstRetry is the delay after the first failed fetch; it doubles from there.
	firstRetry = time.Second
)

// follow fetches the bundles that Federate was told to, until ctx ends.
func (s *Source) follow(ctx context.Context) error {
	var fetchers sync.WaitGroup
	defer fetchers.Wait()
	running := map[*federation]context.CancelFunc{}
	for {
		wanted := s.endpoints()
		for f, cancel := range running {
			if !wanted[f] {
				cancel()
				delete(running, f)
			}
		}
		for f := range wanted {
			if running[f] != nil {
				continue
			}
			ctx, cancel := context.WithCancel(ctx)
			running[f] = cancel
			fetchers.Go(func() { s.keep(ctx, f) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.followed:
		}
	}
}

// endpoints returns what there is to fetch.
func (s *Source) endpoints() map[*federation]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := make(map[*federation]bool)
	for _, f := range s.federated {
		if f.spec.Endpoint != (Endpoint{}) && f.err == nil {
			wanted[f] = true
		}
	}
	return wanted
}

// keep fetches at once, then as often as the bundle wants it, and sooner after a
// failure.
func (s *Source) keep(ctx context.Context, f *federation) {
	failures := 0
	for {
		b, err := s.fetch(ctx, &f.spec)
		if ctx.Err() != nil {
			return
		}
		next := between(b)
		if err = s.settle(f, b, err); err != nil {
			next = min(usualRefresh, firstRetry<<min(failures, 20))
			failures++
		} else {
			failures = 0
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// between returns how long a bundle that was fetched is good for, a little less
// than it says: a fleet must not ask in step.
func between(b *bundle) time.Duration {
	d := usualRefresh
	if b != nil && b.hint != 0 {
		d = b.hint
	}
	d = min(max(d, minRefresh), maxRefresh)
	return max(minRefresh, d-rand.N(d/5)) //nolint:gosec // spreads load, hides nothing
}

// settle puts what was fetched into service, or says why it does not and returns
// that: what was fetched last stays then. A federation that was replaced meanwhile
// gets nothing.
func (s *Source) settle(f *federation, b *bundle, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.federated, f) {
		return nil
	}
	if err == nil {
		err = f.older(b)
	}
	s.metrics.fetched(f.spec.TrustDomain, resultOf(err), s.cfg.Now())
	if err != nil {
		s.cfg.Log.Warn("trust bundle not refreshed",
			"trust_domain", f.spec.TrustDomain, "result", resultOf(err), "err", err, "have_bundle", f.bundle != nil)
		return err
	}
	s.take(f, b)
	return nil
}

// take puts b into service. One that makes us trust the same is not swapped in:
// tokens that were verified depend on the keys being those. The caller holds mu.
func (s *Source) take(f *federation, b *bundle) {
	if b.sequence != nil {
		f.highest = *b.sequence
	}
	if f.bundle.equal(b) {
		return
	}
	f.bundle = b
	s.mergeFederated()
	s.cfg.Log.Info("trust bundle changed", "trust_domain", f.spec.TrustDomain,
		"authorities", len(b.x509.X509Authorities()), "keys", b.keys.Len(), "sequence", f.highest)
	s.complain(f)
}

// older refuses what a bundle before has succeeded already. One without a sequence
// number is as new as it can be told (SPIFFE Federation section 4.2).
func (f *federation) older(b *bundle) error {
	if b.sequence == nil || *b.sequence >= f.highest {
		return nil
	}
	return &fetchError{fetchOlder, fmt.Errorf("its sequence is %d, and %d was here before", *b.sequence, f.highest)}
}
