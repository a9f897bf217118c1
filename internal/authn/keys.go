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

// maxWaiters bounds the requests that wait for one fetch: an issuer that hangs
// must not collect them.
const maxWaiters = 256

// firstRetry is the delay after the first failed fetch; it doubles from there.
const firstRetry = time.Second

// keys is the key set of one provider, refreshed in the background. Requests
// only ever read what was fetched last; an unknown kid brings the next fetch
// forward, once in a cool-down, whoever asks and however often.
type keys struct {
	name    string
	url     string
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
}

// published is a key set as it was fetched.
type published struct {
	set *token.KeySet
	at  time.Time
}

func (p *Pool) newKeys(name, url string) *keys {
	return &keys{
		name: name, url: url, limits: p.limits, fetcher: p.fetcher, log: p.log, metrics: p.metrics, now: p.now,
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
	if p == nil || now.Sub(p.at) > k.limits.maxAge {
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
	if done := k.demand(now); done != nil {
		k.await(ctx, done)
	}
	return k.usable(now)
}

// demand returns what to wait for, or nil when waiting is of no use: the last
// fetch on demand was a moment ago, or too many wait already.
func (k *keys) demand(now time.Time) <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
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
	if k.waiters >= maxWaiters {
		return nil
	}
	k.waiters++
	return k.pending
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

// run fetches until ctx ends: at once, then at every interval, sooner after
// failures and on demand.
func (k *keys) run(ctx context.Context) {
	defer k.stop()
	for failures := 0; ; {
		if k.refresh(ctx) {
			failures = 0
		} else {
			failures++
		}
		k.end()
		timer := time.NewTimer(k.delay(failures))
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

// delay spreads fetches out, so that a fleet does not ask in step.
func (k *keys) delay(failures int) time.Duration {
	d := k.limits.refresh
	if failures > 0 {
		d = min(d, firstRetry<<min(failures-1, 20))
	}
	return d - time.Duration(rand.Int64N(int64(d/5)+1)) //nolint:gosec // G404: nobody gains by guessing it
}

// refresh replaces the set by what the issuer publishes now. Whatever is wrong
// with that, the last good set stays, for as long as its age allows.
func (k *keys) refresh(ctx context.Context) bool {
	set, result, err := k.fetcher.fetch(ctx, k.url)
	if ctx.Err() != nil {
		return false
	}
	k.metrics.fetched(k.name, result)
	last := k.current.Load()
	if err != nil {
		k.log.Warn("key set not refreshed", "provider", k.name, "result", result, "err", err, "have_keys", last != nil)
		return false
	}
	// An equal set keeps its identity, on which verified tokens depend.
	if last != nil && last.set.Equal(set) {
		set = last.set
	} else {
		k.log.Info("key set changed", "provider", k.name, "keys", set.Len(), "ignored", set.Ignored())
	}
	k.current.Store(&published{set, k.now()})
	return true
}
