// Package publish turns commits into signed snapshots in any number of etcds: one
// publisher in the fleet, elected by one of them and fenced by the database.
package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
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

// Election elects the publisher: an etcd.
type Election interface {
	// Lead calls lead while holder is the elected publisher.
	Lead(ctx context.Context, holder string, lead func(context.Context) error) error
}

// Target is where snapshots are published: an etcd. Its errors are
// storage.ErrAway when it cannot be reached, and storage.ErrFull when it takes
// nothing any more.
type Target interface {
	// Heads returns the signed heads that are published.
	Heads(ctx context.Context, v *snapshot.Verifier) ([]snapshot.Head, error)
	// Publish makes a snapshot the newest of its environment. Publishing again
	// what is there mends what is missing. storage.ErrAhead if a later head is
	// there, or another one for the same place in history: a publisher that was
	// deposed takes nothing back.
	Publish(ctx context.Context, v *snapshot.Verifier, snap *snapshot.Snapshot) error
	PublishFreshness(ctx context.Context, environment string, f *proxyv1.SignedFreshness) error
	// PublishKeySets makes the key sets that v knows those that are published.
	// storage.ErrAhead if there is a later one that follows from them.
	PublishKeySets(ctx context.Context, v *snapshot.Verifier) error
}

// Place is a target with its name, which its cursors in the store have.
type Place struct {
	Name string
	Target
}

// Task is done beside publishing, while this replica is elected: with a context that
// ends when it is not any more, in the term that it was elected for. It returns then;
// its error ends the term.
type Task func(ctx context.Context, term storage.Term) error

// Config is what a Publisher needs. All fields but Verifier, Meanwhile, Registerer
// and Now are required.
type Config struct {
	Store    Store
	Election Election
	// Targets are where the same is published, at least one, each at its own pace.
	// The cursors of others are forgotten when a term begins.
	Targets []Place
	// Security is the security lane, which expired revocations are removed from.
	Security Lane
	Signer   *snapshot.Signer
	// Verifier has the key pinned that proxies pin, and learns of the key sets that
	// the store has; that of Signer when nil.
	Verifier *snapshot.Verifier
	// Holder names this replica.
	Holder string
	Log    *slog.Logger
	// Meanwhile is done while this replica is elected.
	Meanwhile []Task
	// Registerer takes the metrics; nobody when nil.
	Registerer prometheus.Registerer
	Now        func() time.Time // time.Now when nil
}

// Publisher publishes while it is elected.
type Publisher struct {
	store    Store
	election Election
	places   []Place
	security Lane
	signer   *snapshot.Signer
	verifier *snapshot.Verifier
	holder   string
	log      *slog.Logger
	tasks    []Task
	now      func() time.Time
	term     storage.Term // the last of this replica; Run's, and 0 before the first
	// confirmed says when each lane of each target was confirmed last, in this term.
	confirmed *prometheus.GaugeVec

	reconcileEvery, freshnessEvery, expireEvery, surveyWithin time.Duration
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
		store:     c.Store,
		election:  c.Election,
		places:    c.Targets,
		security:  c.Security,
		signer:    c.Signer,
		verifier:  verifier,
		holder:    c.Holder,
		log:       c.Log,
		tasks:     c.Meanwhile,
		now:       now,
		confirmed: newConfirmed(c.Registerer),

		reconcileEvery: reconcileEvery,
		freshnessEvery: freshnessEvery,
		expireEvery:    expireEvery,
		surveyWithin:   surveyWithin,
	}
}

// newConfirmed is registered by whoever has metrics.
func newConfirmed(r prometheus.Registerer) *prometheus.GaugeVec {
	return promauto.With(r).NewGaugeVec(prometheus.GaugeOpts{
		Name: "sallyport_target_confirmed_timestamp_seconds",
		Help: "When all of the lane was last confirmed to be published at the target; on the replica that publishes alone.",
	}, []string{"target", "lane"})
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
		p.ended(ctx, err)
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

// ended has the database know why nothing is published, unless another publisher, or
// the next term of this one, has something to say. That it cannot be told ends nothing.
func (p *Publisher) ended(ctx context.Context, why error) {
	if p.term == 0 {
		return // others may publish: this replica does not know
	}
	err := p.store.Report(ctx, p.term, storage.Trouble{Target: everywhere, Error: why.Error()})
	if err != nil {
		p.log.DebugContext(ctx, "end of the term was not recorded", "err", err)
	}
}

// stand stands for election, and publishes once elected. A replica whose key does
// not sign for the fleet leaves that to others.
func (p *Publisher) stand(ctx context.Context) error {
	if err := p.trust(ctx); errors.Is(err, ErrKey) {
		return err
	}
	return p.election.Lead(ctx, p.holder, p.lead)
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
	p.term = term
	p.log.InfoContext(ctx, "became publisher", "term", term)
	if err := p.settleCursors(ctx, term); err != nil {
		return err
	}
	defer p.confirmed.Reset()
	g, ctx := errgroup.WithContext(ctx)
	for _, immediate := range []bool{true, false} {
		t := newTenure(p, term, immediate)
		g.Go(func() error { return t.run(ctx) })
		for _, o := range t.outlets {
			g.Go(func() error { return o.run(ctx) })
		}
	}
	g.Go(func() error { return p.expire(ctx) })
	for _, task := range p.tasks {
		g.Go(func() error { return task(ctx, term) })
	}
	return g.Wait()
}

// settleCursors forgets how far the targets are that are not published to any more:
// else history would be kept for them for ever. Nothing is lost if one comes back:
// it gets what is newest, and a cursor with that.
func (p *Publisher) settleCursors(ctx context.Context, term storage.Term) error {
	names := make([]string, len(p.places))
	for i, place := range p.places {
		names[i] = place.Name
	}
	gone, err := p.store.KeepCursors(ctx, term, names)
	if err != nil {
		return fmt.Errorf("forget cursors: %w", err)
	}
	for _, name := range gone {
		p.log.WarnContext(ctx, "target is not published to any more", "target", name)
	}
	return nil
}
