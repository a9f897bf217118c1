// Package publish turns commits into signed snapshots in etcd: one publisher
// in the fleet, elected by etcd and fenced by the database.
package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

const (
	// reconcileEvery is how often everything is compared with the database and
	// with etcd, whatever notifications said.
	reconcileEvery = 5 * time.Second
	// freshnessEvery is how often each head is confirmed.
	freshnessEvery = 10 * time.Second

	// Bounds of the wait before another term.
	shortestWait = 50 * time.Millisecond
	longestWait  = 3 * time.Second
	// healthyAfter is how long a term lasts that makes the wait short again.
	healthyAfter = 10 * time.Second
)

// Store is the part of the store that publishing needs.
type Store interface {
	storage.Publishing
	KeySets(ctx context.Context, after snapshot.Generation) ([]*proxyv1.SignedKeySet, error)
	storage.History
	Position(ctx context.Context) (snapshot.Position, error)
	Changed(ctx context.Context) <-chan struct{}
}

// Target is where snapshots are published: an etcd.
type Target interface {
	// Lead calls lead while holder is the elected publisher.
	Lead(ctx context.Context, holder string, lead func(context.Context) error) error
	// Heads returns the signed heads that are published.
	Heads(ctx context.Context, v *snapshot.Verifier) ([]snapshot.Head, error)
	// Publish makes a snapshot the newest of its environment. Publishing again
	// what is there mends what is missing. storage.ErrAhead if a later head is
	// there, or another one for the same place in history.
	Publish(ctx context.Context, v *snapshot.Verifier, snap *snapshot.Snapshot) error
	PublishFreshness(ctx context.Context, environment string, f *proxyv1.SignedFreshness) error
	// PublishKeySets makes the key sets that v knows those that are published.
	// storage.ErrAhead if there is a later one that follows from them.
	PublishKeySets(ctx context.Context, v *snapshot.Verifier) error
}

// Config is what a Publisher needs. All fields but Verifier, Meanwhile, Now, Retention
// and History are required.
type Config struct {
	Store  Store
	Target Target
	// TargetName names the target's cursors in the store.
	TargetName string
	// Security is the security lane, which expired revocations are removed from.
	Security Lane
	Signer   *snapshot.Signer
	// Verifier has the key pinned that proxies pin, and learns of the key sets that
	// the store has; that of Signer when nil.
	Verifier *snapshot.Verifier
	// Holder names this replica.
	Holder string
	Log    *slog.Logger
	// Meanwhile is called while this replica is elected, with a context that ends
	// when it is not any more, and returns then; its error ends the term. None when
	// it is nil.
	Meanwhile func(ctx context.Context) error
	Now       func() time.Time // time.Now when nil
	// Retention is for how long the states of revisions that were superseded are kept
	// in History, which it needs; for ever when 0.
	Retention time.Duration
	History   History
}

// Publisher publishes while it is elected.
type Publisher struct {
	store    Store
	target   Target
	security Lane
	name     string
	signer   *snapshot.Signer
	verifier *snapshot.Verifier
	holder   string
	log      *slog.Logger
	beside   func(ctx context.Context) error // nil for none
	now      func() time.Time

	retention time.Duration
	history   History

	reconcileEvery, freshnessEvery, expireEvery, retainEvery time.Duration
}

// New returns a publisher that does nothing until Run.
func New(c Config) *Publisher {
	now, verifier := c.Now, c.Verifier
	if now == nil {
		now = time.Now
	}
	if verifier == nil {
		verifier = c.Signer.Verifier()
	}
	return &Publisher{
		store:    c.Store,
		target:   c.Target,
		security: c.Security,
		name:     c.TargetName,
		signer:   c.Signer,
		verifier: verifier,
		holder:   c.Holder,
		log:      c.Log,
		beside:   c.Meanwhile,
		now:      now,

		reconcileEvery: reconcileEvery,
		freshnessEvery: freshnessEvery,
		expireEvery:    expireEvery,
		retainEvery:    retainEvery,

		retention: c.Retention,
		history:   c.History,
	}
}

// Run stands for election and publishes while elected, until ctx ends. It
// outlives every failure of the database and of etcd.
func (p *Publisher) Run(ctx context.Context) error {
	wait := shortestWait
	for ctx.Err() == nil {
		began := time.Now()
		err := p.stand(ctx)
		if ctx.Err() != nil {
			break
		}
		level := slog.LevelWarn
		if errors.Is(err, storage.ErrAhead) || errors.Is(err, ErrKey) || errors.Is(err, snapshot.ErrSigning) {
			level = slog.LevelError // nothing is published until someone acts
		}
		p.log.Log(ctx, level, "publishing ended", "err", err)
		if wait = min(2*wait, longestWait); time.Since(began) > healthyAfter {
			wait = shortestWait
		}
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(wait)): //nolint:gosec // jitter
		}
	}
	return nil
}

// stand stands for election, and publishes once elected. A replica whose key does
// not sign for the fleet leaves that to others.
func (p *Publisher) stand(ctx context.Context) error {
	if err := p.trust(ctx); errors.Is(err, ErrKey) {
		return err
	}
	return p.target.Lead(ctx, p.holder, p.lead)
}

// lead publishes during one term. It returns when the term is over, or when
// another replica may do better: the next term starts from what the database
// and etcd hold, as any other would.
//
// The security lane is published beside the environments: a revocation does not
// wait for whatever large snapshot is under way.
func (p *Publisher) lead(ctx context.Context) error {
	term, err := p.store.BeginTerm(ctx, p.holder)
	if err != nil {
		return fmt.Errorf("begin term: %w", err)
	}
	p.log.InfoContext(ctx, "became publisher", "term", term)
	g, ctx := errgroup.WithContext(ctx)
	for _, immediate := range []bool{true, false} {
		t := &tenure{
			Publisher: p, term: term, immediate: immediate,
			environments: map[string]*environment{}, known: map[string]snapshot.Digest{},
		}
		g.Go(func() error { return t.run(ctx) })
	}
	g.Go(func() error { return p.expire(ctx) })
	if p.beside != nil {
		g.Go(func() error { return p.beside(ctx) })
	}
	if p.retention > 0 {
		g.Go(func() error { return p.retain(ctx, term) })
	}
	return g.Wait()
}

// run publishes one lane until the term is over.
func (t *tenure) run(ctx context.Context) (err error) {
	changed := t.store.Changed(ctx)
	reconcile, fresh := time.NewTicker(t.reconcileEvery), time.NewTicker(t.freshnessEvery)
	defer reconcile.Stop()
	defer fresh.Stop()
	retry, wait := time.NewTimer(t.reconcileEvery), shortestWait
	defer retry.Stop()
	if err = t.reconcile(ctx); err == nil {
		err = t.confirm(ctx)
	}
	for err == nil {
		if wait = min(2*wait, t.reconcileEvery); t.failing() {
			retry.Reset(wait)
		} else {
			wait = shortestWait
		}
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-changed:
			err = t.sync(ctx)
		case <-retry.C:
			err = t.sync(ctx)
		case <-reconcile.C:
			err = t.reconcile(ctx)
		case <-fresh.C:
			err = t.confirm(ctx)
		}
	}
	return err
}
