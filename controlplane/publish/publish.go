// Package publish turns commits into signed snapshots in etcd: one publisher
// in the fleet, elected by etcd and fenced by the database.
package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/failpoint"
	"github.com/sallyport/sallyport/internal/resource"
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
	// batch is how many revisions are signed in one transaction.
	batch = 100
)

// Store is the part of the store that publishing needs.
type Store interface {
	storage.Publishing
	Position(ctx context.Context) (snapshot.Position, error)
	Changed(ctx context.Context) <-chan struct{}
}

// Target is where snapshots are published: an etcd.
type Target interface {
	// Lead calls lead while holder is the elected publisher.
	Lead(ctx context.Context, holder string, lead func(context.Context) error) error
	// Publish makes a snapshot the newest of its environment. Publishing again
	// what is there mends what is missing.
	Publish(ctx context.Context, v *snapshot.Verifier, snap *snapshot.Snapshot) error
	PublishFreshness(ctx context.Context, environment string, f *proxyv1.SignedFreshness) error
}

// Config is what a Publisher needs. All fields but Now are required.
type Config struct {
	Store  Store
	Target Target
	// TargetName names the target's cursors in the store.
	TargetName string
	Signer     *snapshot.Signer
	// Holder names this replica.
	Holder string
	Log    *slog.Logger
	Now    func() time.Time // time.Now when nil
}

// Publisher publishes while it is elected.
type Publisher struct {
	store    Store
	target   Target
	name     string
	signer   *snapshot.Signer
	verifier *snapshot.Verifier
	holder   string
	log      *slog.Logger
	now      func() time.Time
}

// New returns a publisher that does nothing until Run.
func New(c Config) *Publisher {
	now := c.Now
	if now == nil {
		now = time.Now
	}
	return &Publisher{
		store:    c.Store,
		target:   c.Target,
		name:     c.TargetName,
		signer:   c.Signer,
		verifier: c.Signer.Verifier(),
		holder:   c.Holder,
		log:      c.Log,
		now:      now,
	}
}

// Run stands for election and publishes while elected, until ctx ends. It
// outlives every failure of the database and of etcd.
func (p *Publisher) Run(ctx context.Context) error {
	const longest = 3 * time.Second
	wait := 50 * time.Millisecond
	for ctx.Err() == nil {
		led := false
		err := p.target.Lead(ctx, p.holder, func(ctx context.Context) error {
			led = true
			return p.lead(ctx)
		})
		if ctx.Err() != nil {
			break
		}
		level := slog.LevelWarn
		if errors.Is(err, storage.ErrAhead) {
			level = slog.LevelError // nothing is published until someone acts
		}
		p.log.Log(ctx, level, "publishing ended", "err", err)
		if wait = min(2*wait, longest); led {
			wait = 50 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(wait)): //nolint:gosec // jitter
		}
	}
	return nil
}

// environment is what a publisher knows of one environment during its term.
type environment struct {
	name string
	// snapshot is the newest one that is signed and recorded in the database;
	// nil until there is one.
	snapshot *snapshot.Snapshot
	// published is the revision that was last seen whole in the target.
	published snapshot.Revision
}

// lead publishes during one term. It returns with the first error: the next
// term starts from what the database and etcd hold, as any other would.
func (p *Publisher) lead(ctx context.Context) error {
	term, err := p.store.BeginTerm(ctx, p.holder)
	if err != nil {
		return fmt.Errorf("begin term: %w", err)
	}
	p.log.InfoContext(ctx, "became publisher", "term", term)
	t := &tenure{Publisher: p, term: term, environments: map[string]*environment{}}
	changed := p.store.Changed(ctx)
	reconcile, fresh := time.NewTicker(reconcileEvery), time.NewTicker(freshnessEvery)
	defer reconcile.Stop()
	defer fresh.Stop()
	if err := t.reconcile(ctx); err != nil {
		return err
	}
	if err := t.confirm(ctx); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
			err = t.sync(ctx)
		case <-reconcile.C:
			err = t.reconcile(ctx)
		case <-fresh.C:
			err = t.confirm(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// tenure is one term of a publisher. It belongs to the goroutine of lead.
type tenure struct {
	*Publisher
	term         storage.Term
	environments map[string]*environment
}

// sync brings every environment up to the database, and the target up to that.
func (t *tenure) sync(ctx context.Context) error {
	heads, err := t.store.Heads(ctx)
	if err != nil {
		return fmt.Errorf("read heads: %w", err)
	}
	var errs []error // one environment's trouble does not hold up the others
	for _, h := range heads {
		if err := t.syncOne(ctx, h); err != nil {
			errs = append(errs, fmt.Errorf("environment %s: %w", h.Environment, err))
		}
	}
	return errors.Join(errs...)
}

func (t *tenure) syncOne(ctx context.Context, h storage.EnvironmentHead) error {
	e := t.environments[h.Environment]
	if e == nil {
		restored, err := t.restore(ctx, h)
		if err != nil {
			return err
		}
		e = restored
		t.environments[h.Environment] = e
	}
	return t.advance(ctx, e, h.Revision)
}

// reconcile is sync for everything, including what was already published:
// what has gone from etcd is written again.
func (t *tenure) reconcile(ctx context.Context) error {
	for _, e := range t.environments {
		e.published = 0
	}
	return t.sync(ctx)
}

// restore reads the newest signed snapshot of an environment from the database.
func (t *tenure) restore(ctx context.Context, h storage.EnvironmentHead) (*environment, error) {
	e := &environment{name: h.Environment}
	if h.Signed == nil {
		return e, nil
	}
	head, err := t.verifier.VerifyHead(h.Signed)
	if err != nil {
		return nil, fmt.Errorf("recorded head: %w", err)
	}
	versions, err := t.store.EnvironmentState(ctx, h.Environment, head.Revision)
	if err != nil {
		return nil, fmt.Errorf("read state at revision %d: %w", head.Revision, err)
	}
	set, err := with(nil, e.name, versions)
	if err != nil {
		return nil, err
	}
	if e.snapshot, err = snapshot.Assemble(head, set); err != nil {
		return nil, fmt.Errorf("revision %d as recorded: %w", head.Revision, err)
	}
	return e, nil
}

// advance signs what was committed since, up to the revision, and publishes
// the newest. Every revision of the environment gets a head in the database,
// each holding the digest of the one before; the target gets the last.
func (t *tenure) advance(ctx context.Context, e *environment, to snapshot.Revision) error {
	for e.snapshot.Head().Revision < to {
		if err := t.sign(ctx, e); err != nil {
			return err
		}
	}
	if e.snapshot == nil || e.published == e.snapshot.Head().Revision {
		return nil
	}
	head := e.snapshot.Head()
	if err := t.target.Publish(ctx, t.verifier, e.snapshot); err != nil {
		return fmt.Errorf("publish revision %d: %w", head.Revision, err)
	}
	cursor, err := t.store.Cursor(ctx, t.name, e.name)
	if err != nil {
		return fmt.Errorf("read cursor: %w", err)
	}
	e.published = head.Revision
	if cursor >= head.Revision {
		return nil
	}
	if err := t.store.AdvanceCursor(ctx, t.term, t.name, e.name, head.Revision); err != nil {
		return fmt.Errorf("advance cursor: %w", err)
	}
	failpoint.Hit("publish.cursor")
	t.log.InfoContext(ctx, "snapshot published", "environment", e.name, "revision", head.Revision,
		"root", head.Root.Short(), "documents", head.Documents)
	return t.confirmOne(ctx, e)
}

// sign makes heads for the next revisions of an environment.
func (t *tenure) sign(ctx context.Context, e *environment) error {
	at := e.snapshot.Head().Revision
	revisions, err := t.store.EnvironmentRevisions(ctx, e.name, at, batch)
	if err != nil {
		return fmt.Errorf("read revisions after %d: %w", at, err)
	}
	if len(revisions) == 0 {
		return fmt.Errorf("no revision after %d was found", at)
	}
	position, err := t.store.Position(ctx)
	if err != nil {
		return fmt.Errorf("read epoch: %w", err)
	}
	snap, heads := e.snapshot, make([]snapshot.Head, 0, len(revisions))
	for _, r := range revisions {
		if snap, err = t.signOne(ctx, position.Epoch, e.name, snap, r); err != nil {
			return fmt.Errorf("revision %d: %w", r.Revision, err)
		}
		heads = append(heads, snap.Head())
	}
	failpoint.Hit("publish.signed")
	if err := t.store.SaveHeads(ctx, t.term, heads); err != nil {
		return fmt.Errorf("record heads: %w", err)
	}
	failpoint.Hit("publish.recorded")
	e.snapshot = snap
	return nil
}

func (t *tenure) signOne(ctx context.Context, epoch snapshot.Epoch, environment string, before *snapshot.Snapshot, r storage.EnvironmentRevision) (*snapshot.Snapshot, error) {
	base, versions := before.Set(), r.Versions
	if before == nil || founds(environment, versions) {
		// Resources of all environments were there before this one was.
		var err error
		if versions, err = t.store.EnvironmentState(ctx, environment, r.Revision); err != nil {
			return nil, fmt.Errorf("read state: %w", err)
		}
		base = nil
	}
	set, err := with(base, environment, versions)
	if err != nil {
		return nil, err
	}
	head, err := t.signer.SignHead(snapshot.Statement{
		Epoch:       epoch,
		Environment: environment,
		Revision:    r.Revision,
		Previous:    before.Head().Digest(),
		Root:        set.Root(),
		Documents:   set.Len(),
	})
	if err != nil {
		return nil, err
	}
	return snapshot.Assemble(head, set)
}

// founds reports whether the versions create or replace the environment itself.
func founds(environment string, versions []storage.Version) bool {
	key := resource.Key{Kind: resource.KindEnvironment, Name: environment}
	return slices.ContainsFunc(versions, func(v storage.Version) bool { return v.Key == key && !v.Deleted })
}

// with returns the set after the versions. Those that are deleted, or whose
// scope has left the environment, are gone from it.
func with(set *snapshot.Set, environment string, versions []storage.Version) (*snapshot.Set, error) {
	var upserts []snapshot.Entry
	var removed []resource.Key
	for _, v := range versions {
		if v.Deleted || !v.Scope.Includes(environment) {
			removed = append(removed, v.Key)
			continue
		}
		entry, err := snapshot.NewEntry(v.Document)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v.Key, err)
		}
		if entry.Key != v.Key || entry.Digest != v.Digest {
			return nil, fmt.Errorf("%s: the stored document is not the one that was committed", v.Key)
		}
		upserts = append(upserts, entry)
	}
	return set.With(upserts, removed), nil
}

// confirm issues a freshness statement for every published head.
func (t *tenure) confirm(ctx context.Context) error {
	var errs []error
	for _, e := range t.environments {
		errs = append(errs, t.confirmOne(ctx, e))
	}
	return errors.Join(errs...)
}

func (t *tenure) confirmOne(ctx context.Context, e *environment) error {
	if e.snapshot == nil || e.published != e.snapshot.Head().Revision {
		return nil
	}
	head := e.snapshot.Head()
	signed, err := t.signer.SignFreshness(snapshot.Freshness{
		Epoch:       head.Epoch,
		Environment: e.name,
		Revision:    head.Revision,
		HeadDigest:  head.Digest(),
		IssuedAt:    t.now(),
	})
	if err != nil {
		return err
	}
	if err := t.target.PublishFreshness(ctx, e.name, signed); err != nil {
		return fmt.Errorf("confirm revision %d of %s: %w", head.Revision, e.name, err)
	}
	return nil
}
