package authn

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/token"
)

const (
	// maxWaiters bounds the requests that wait for one fetch: an issuer that
	// hangs must not collect them. It is what 2,000 requests a second bring while
	// an issuer takes half a second to say what its new key is.
	maxWaiters = 1024
	// maxDoubters bounds those among them whose key is known and whose signature
	// is not of it: mostly forged.
	maxDoubters = maxWaiters / 4

	// firstRetry is the delay after the first failed fetch; it doubles from there.
	firstRetry = time.Second

	// minRefresh and maxRefresh bound what an issuer says of how long its keys
	// stay: neither is it to be asked all the time, nor may a key that it has
	// withdrawn be good for a day.
	minRefresh = time.Minute
	maxRefresh = time.Hour
)

// keys is the key set of one provider, refreshed in the background. Requests
// only ever read what was fetched last; an unknown kid brings the next fetch
// forward, once in a cool-down, whoever asks and however often.
type keys struct {
	name    string
	from    source
	limits  limits
	fetcher *fetcher
	log     *slog.Logger
	metrics *metrics
	now     func() time.Time

	// current is nil until the first fetch succeeded. Only run writes it.
	current atomic.Pointer[published]

	// wake is sent to when a fetch is wanted before its time.
	wake chan struct{}

	mu sync.Mutex
	// pending is closed when the fetch that was asked for has ended; nil when
	// none was. It starts as the first fetch.
	pending chan struct{}
	waiters int
	cool    time.Time // no fetch on demand before
	stopped bool      // nobody will fetch any more
	absent  absences
}

// published is a key set as it was fetched.
type published struct {
	set *token.KeySet
	at  time.Time
}

func (p *Pool) newKeys(name string, from source) *keys {
	return &keys{
		name: name, from: from, limits: p.limits, absent: newAbsences(), fetcher: p.fetcher, log: p.log, metrics: p.metrics, now: p.now,
		wake: make(chan struct{}, 1), pending: make(chan struct{}),
	}
}

// usable returns the last good set, or nil when there is none or it is too old
// to be relied on. A nil keys has none.
func (k *keys) usable(now time.Time) *token.KeySet {
	if k == nil {
		return nil
	}
	p := k.current.Load()
	if p == nil || k.from.jwks == "" && now.Sub(p.at) > k.limits.maxAge {
		return nil
	}
	return p.set
}

// find returns the usable set, after a fetch if that may bring the kid. The
// set that it returns may lack the kid.
func (k *keys) find(ctx context.Context, kid string, now time.Time) *token.KeySet {
	set := k.usable(now)
	if k == nil || set.Has(kid) {
		return set
	}
	before := k.current.Load()
	if done := k.demand(kid, maxWaiters, now); done != nil {
		k.await(ctx, done)
	}
	if after := k.current.Load(); after != before && !after.set.Has(kid) {
		k.miss(kid, now)
	}
	return k.usable(now)
}

// renewed returns the usable set when it is another than one that a signature
// did not fit, after a fetch if need be: an issuer may give a new key the name
// of its old one. Else it returns nil.
func (k *keys) renewed(ctx context.Context, old *token.KeySet, now time.Time) *token.KeySet {
	if set := k.usable(now); set != old {
		return set
	}
	if done := k.demand("", maxDoubters, now); done != nil {
		k.await(ctx, done)
	}
	if set := k.usable(now); set != old {
		return set
	}
	return nil
}

// demand returns what to wait for, or nil when waiting is of no use: the last
// fetch on demand was a moment ago, or did not bring this kid, or so many wait
// already.
func (k *keys) demand(kid string, most int, now time.Time) <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	if kid != "" && k.absent.has(kid, now) {
		return nil
	}
	if k.pending == nil {
		if k.stopped || now.Before(k.cool) {
			return nil
		}
		k.cool = now.Add(k.limits.coolDown)
		k.pending = make(chan struct{})
		select {
		case k.wake <- struct{}{}:
		default:
		}
	}
	if k.waiters >= most {
		return nil
	}
	k.waiters++
	return k.pending
}

// miss remembers that the issuer, just asked, has no such kid.
func (k *keys) miss(kid string, now time.Time) {
	k.mu.Lock()
	k.absent.add(kid, now.Add(absenceLasts*k.limits.coolDown))
	k.mu.Unlock()
}

func (k *keys) await(ctx context.Context, done <-chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, k.limits.wait)
	defer cancel()
	select {
	case <-done:
	case <-ctx.Done():
	}
	k.mu.Lock()
	k.waiters--
	k.mu.Unlock()
}

// run fetches until ctx ends: at once, then as long as the issuer says or at
// every interval, sooner after failures and on demand.
func (k *keys) run(ctx context.Context) {
	defer k.stop()
	for failures := 0; ; {
		next, ok := k.refresh(ctx)
		if ok {
			failures = 0
		} else {
			next = min(next, firstRetry<<min(failures, 20))
			failures++
		}
		k.end()
		timer := time.NewTimer(spread(next))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-k.wake:
			timer.Stop()
		}
	}
}

// end lets those go on who wait. A demand that came during a fetch is met by
// it, whatever had started it.
func (k *keys) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pending == nil {
		return
	}
	close(k.pending)
	k.pending = nil
	select {
	case <-k.wake:
	default:
	}
}

func (k *keys) stop() {
	k.mu.Lock()
	k.stopped = true
	k.mu.Unlock()
	k.end()
}

// spread makes fetches a little earlier, so that a fleet does not ask in step.
func spread(d time.Duration) time.Duration {
	return d - time.Duration(rand.Int64N(int64(d/5)+1)) //nolint:gosec // G404: nobody gains by guessing it
}

// refresh replaces the set by what the issuer publishes now, and returns when to
// do it again. Whatever is wrong with what it publishes, the last good set
// stays, for as long as its age allows.
func (k *keys) refresh(ctx context.Context) (next time.Duration, ok bool) {
	set, fresh, err := k.fetcher.fetch(ctx, k.from)
	if ctx.Err() != nil {
		return k.limits.refresh, false
	}
	result := resultOf(err)
	k.metrics.fetched(k.name, result)
	last := k.current.Load()
	if err != nil {
		k.log.Warn("key set not refreshed", "provider", k.name, "result", result, "err", err, "have_keys", last != nil)
		return k.limits.refresh, false
	}
	// An equal set keeps its identity, on which verified tokens depend.
	if last != nil && last.set.Equal(set) {
		set = last.set
	} else {
		k.log.Info("key set changed", "provider", k.name, "keys", set.Len(), "ignored", set.Ignored())
	}
	k.current.Store(&published{set, k.now()})
	if fresh < 0 {
		return k.limits.refresh, true
	}
	return min(max(fresh, minRefresh), maxRefresh), true
}
