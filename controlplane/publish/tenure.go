package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/internal/failpoint"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

const (
	// batch is how many revisions are signed in one transaction. Their
	// documents are in memory together.
	batch = 20
	// atOnce is how many environments are worked on at the same time.
	atOnce = 4
	// everywhere is the target of what is wrong with all of them.
	everywhere = ""
)

// tenure is what one term of a publisher does for a lane: for all environments,
// or for the security lane, which is treated like one. It signs what was committed,
// once, and has its outlets bring that to the targets. It belongs to the goroutine of
// run; an environment, to the one that works on it.
type tenure struct {
	*Publisher
	term         storage.Term
	immediate    bool // it is for the security lane
	environments map[string]*environment
	outlets      []*outlet
	report       report

	// signed is what run has left for the outlets; nil before the first time. What it
	// points to does not change.
	signed atomic.Pointer[map[string]signed]
}

// signed is what there is to publish of an environment.
type signed struct {
	snapshot *snapshot.Snapshot // nil when nothing could be signed
	newest   bool               // nothing later was committed that could not be signed
}

// environment is what a publisher knows of one environment during its term.
type environment struct {
	name string
	// snapshot is the newest one that is signed and recorded in the database;
	// nil until there is one.
	snapshot *snapshot.Snapshot
	trouble  trouble
}

func newTenure(p *Publisher, term storage.Term, immediate bool) *tenure {
	t := &tenure{Publisher: p, term: term, immediate: immediate, environments: map[string]*environment{}}
	s := newSurvey(len(p.places))
	for _, place := range p.places {
		t.outlets = append(t.outlets, newOutlet(t, place, s))
	}
	return t
}

// lane is what logs and metrics call it.
func (t *tenure) lane() string {
	if t.immediate {
		return "security"
	}
	return "policy"
}

// run signs until the term is over.
func (t *tenure) run(ctx context.Context) error {
	changed := t.store.Changed(ctx)
	reconcile := time.NewTicker(t.reconcileEvery)
	defer reconcile.Stop()
	retry := newRetry(t.reconcileEvery)
	defer retry.Stop()
	for {
		if err := t.sync(ctx); err != nil {
			return err
		}
		retry.after(t.failing())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-retry.C:
		case <-reconcile.C:
		}
	}
}

// sync signs what was committed of every environment, and hands that on.
func (t *tenure) sync(ctx context.Context) error {
	if err := t.store.Settled(ctx); err != nil {
		return fmt.Errorf("look for what others have seen: %w", err)
	}
	if err := t.trust(ctx); err != nil {
		return err
	}
	heads, err := t.store.Heads(ctx)
	if err != nil {
		return fmt.Errorf("read heads: %w", err)
	}
	at := map[string]storage.EnvironmentHead{}
	for _, h := range heads {
		if (h.Environment == snapshot.SecurityLane) != t.immediate {
			continue
		}
		at[h.Environment] = h
		if t.environments[h.Environment] == nil {
			t.environments[h.Environment] = &environment{name: h.Environment}
		}
	}
	err = each(ctx, t.environments, func(ctx context.Context, e *environment) error {
		return settle(ctx, t.log, e.name, &e.trouble, t.prepare(ctx, e, at))
	})
	if err != nil {
		return err
	}
	t.handOn()
	return t.report.tell(ctx, t, everywhere, t.wrong())
}

// handOn leaves what is signed for the outlets. What could be signed is kept whole
// at the targets, whatever came after it.
func (t *tenure) handOn() {
	all := make(map[string]signed, len(t.environments))
	for name, e := range t.environments {
		all[name] = signed{snapshot: e.snapshot, newest: e.trouble.failures == 0}
	}
	t.signed.Store(&all)
	for _, o := range t.outlets {
		select {
		case o.news <- struct{}{}:
		default:
		}
	}
}

// failing reports whether something has to be tried again.
func (t *tenure) failing() bool { return t.wrong() != "" }

// wrong says in words what cannot be signed; empty when all can.
func (t *tenure) wrong() string {
	return worst(t.environments, func(e *environment) trouble { return e.trouble })
}

// each calls f for every environment, several at once, and returns the first
// error that ends the term. Any other does not hold up the other environments.
func each[E any](ctx context.Context, all map[string]E, f func(context.Context, E) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for name, e := range all {
		g.Go(func() error {
			if err := f(ctx, e); err != nil && ends(ctx, err) {
				return fmt.Errorf("environment %s: %w", name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// ends reports whether nothing more can come of this term. Where the key of one
// replica has failed, as in hardware, that of another may be well.
func ends(ctx context.Context, err error) bool {
	return errors.Is(err, snapshot.ErrSigning) || ctx.Err() != nil || errors.Is(err, storage.ErrFenced) || errors.Is(err, storage.ErrAhead) ||
		errors.Is(err, storage.ErrUnavailable)
}

// prepare makes e.snapshot the newest that is signed and recorded.
func (t *tenure) prepare(ctx context.Context, e *environment, at map[string]storage.EnvironmentHead) error {
	h, ok := at[e.name]
	if !ok {
		return fmt.Errorf("%w: the database does not know the environment any more", storage.ErrAhead)
	}
	// What this term has in memory is worth what the database has.
	if !bytes.Equal(h.Signed.GetHead(), e.snapshot.Head().Signed().GetHead()) {
		if err := t.restore(ctx, e, h); err != nil {
			return err
		}
	}
	for e.snapshot.Head().Revision < h.Revision {
		if err := t.sign(ctx, e); err != nil {
			return err
		}
	}
	if err := t.renew(ctx, e); err != nil {
		return err
	}
	return t.count(e)
}

// count has the counts of the newest snapshot with it.
func (t *tenure) count(e *environment) error {
	if e.snapshot == nil {
		return nil
	}
	counted, err := t.signer.Count(e.snapshot)
	if err != nil {
		return fmt.Errorf("count revision %d: %w", e.snapshot.Head().Revision, err)
	}
	e.snapshot = counted
	return nil
}

// restore reads the newest signed snapshot of an environment, if there is one,
// from the database.
func (t *tenure) restore(ctx context.Context, e *environment, h storage.EnvironmentHead) error {
	e.snapshot = nil
	if h.Signed == nil {
		return nil
	}
	head, err := t.verifier.Past().VerifyHead(h.Signed)
	if err != nil {
		return fmt.Errorf("recorded head: %w", err)
	}
	versions, err := t.store.EnvironmentState(ctx, e.name, head.Revision)
	if err != nil {
		return fmt.Errorf("read state at revision %d: %w", head.Revision, err)
	}
	set, err := with(nil, e.name, versions)
	if err != nil {
		return err
	}
	snap, err := snapshot.Assemble(head, set)
	if err != nil {
		return fmt.Errorf("revision %d as recorded: %w", head.Revision, err)
	}
	e.snapshot = snap
	return nil
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
	previous, err := t.previous(ctx, epoch, environment, before.Head())
	if err != nil {
		return nil, err
	}
	head, err := t.signer.SignHead(snapshot.Statement{
		Epoch:       epoch,
		Environment: environment,
		Revision:    r.Revision,
		Previous:    previous,
		Root:        set.Root(),
		Documents:   set.Len(),
	})
	if err != nil {
		return nil, err
	}
	return snapshot.Assemble(head, set)
}

// previous returns what the next head of an environment names as the one before
// it: the last that was signed. The first of an epoch names the last of the
// epochs before that anybody is known to have seen, so that it is signed where
// the lost history ended.
func (t *tenure) previous(ctx context.Context, epoch snapshot.Epoch, environment string, last snapshot.Head) (snapshot.Digest, error) {
	if epoch == last.Epoch {
		return last.Digest(), nil
	}
	at, head, err := t.store.Predecessor(ctx, environment, epoch)
	if err != nil {
		return snapshot.Digest{}, fmt.Errorf("read what was seen before epoch %d: %w", epoch, err)
	}
	if at.After(last.Position()) {
		return head, nil
	}
	return last.Digest(), nil
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
