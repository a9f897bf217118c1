package publish

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

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
	// alarmAfter is how often in a row publishing an environment fails before
	// someone has to look.
	alarmAfter = 5
)

// tenure is what one term of a publisher does for a lane: for all environments,
// or for the security lane, which is treated like one. It belongs to the
// goroutine of run; an environment, to the one that works on it.
type tenure struct {
	*Publisher
	term         storage.Term
	immediate    bool // it is for the security lane
	environments map[string]*environment
	// known holds the newest published head of each environment that was found
	// in the database.
	known map[string]snapshot.Digest
	// announced is the newest key set that was seen in the target; nil before the
	// target was looked at.
	announced *snapshot.Digest
	// undecided says that there is one of which that could not be told yet:
	// nothing is published until it can.
	undecided bool
}

// environment is what a publisher knows of one environment during its term.
type environment struct {
	name string
	// snapshot is the newest one that is signed and recorded in the database;
	// nil until there is one.
	snapshot *snapshot.Snapshot
	// published is the head that was last seen whole in the target.
	published snapshot.Digest
	// cursor is the revision up to which the database says that was published.
	cursor snapshot.Revision

	err      error  // of prepare
	failures int    // in a row
	trouble  string // the last of them
}

// reconcile is sync for everything, including what was already published:
// what has gone from etcd is written again.
func (t *tenure) reconcile(ctx context.Context) error {
	t.announced = nil
	for _, e := range t.environments {
		e.published = snapshot.Digest{}
	}
	return t.bring(ctx, t.compare)
}

// sync brings every environment up to the database, and the target up to that.
func (t *tenure) sync(ctx context.Context) error {
	if t.undecided {
		return t.bring(ctx, t.compare)
	}
	return t.bring(ctx, func(context.Context) error { return nil })
}

// bring is sync with a check of what is signed, before any of it is published.
func (t *tenure) bring(ctx context.Context, check func(context.Context) error) error {
	if err := t.store.Settled(ctx); err != nil {
		return fmt.Errorf("look for what others have seen: %w", err)
	}
	if err := t.announce(ctx); err != nil {
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
	if err := t.each(ctx, func(ctx context.Context, e *environment) error {
		e.err = t.prepare(ctx, e, at)
		return e.err
	}); err != nil {
		return err
	}
	if err := check(ctx); err != nil || t.undecided {
		return err
	}
	err = t.each(ctx, func(ctx context.Context, e *environment) error {
		// What could be signed is kept whole, whatever came after it.
		return t.settle(ctx, e, cmp.Or(t.publish(ctx, e), e.err))
	})
	if errors.Is(err, storage.ErrAhead) && t.compare(ctx) == nil {
		// What is published is in the database by now: somebody else was faster.
		return fmt.Errorf("%w: it has published more", storage.ErrFenced)
	}
	return err
}

// compare makes sure that all that is published, of either lane, is part of the
// history that the database holds. ErrAhead if not: then the database was set
// back, and whatever were published would fork history.
func (t *tenure) compare(ctx context.Context) error {
	published, err := t.target.Heads(ctx, t.verifier)
	if err != nil {
		return fmt.Errorf("read what is published: %w", err)
	}
	t.undecided = false
	for _, h := range published {
		if t.known[h.Environment] == h.Digest() {
			continue
		}
		switch err := t.store.Witness(ctx, t.name, h); {
		case errors.Is(err, storage.ErrNotFound) && (h.Environment == snapshot.SecurityLane) != t.immediate:
			t.undecided = true // it is for the other lane to sign what there is, and to tell
			continue
		case errors.Is(err, storage.ErrNotFound):
			return fmt.Errorf("%w: environment %s has epoch %d revision %d", storage.ErrAhead, h.Environment, h.Epoch, h.Revision)
		case err != nil:
			return fmt.Errorf("look for revision %d of %s: %w", h.Revision, h.Environment, err)
		}
		t.known[h.Environment] = h.Digest()
	}
	return nil
}

// each calls f for every environment, several at once, and returns the first
// error that ends the term. Any other does not hold up the other environments.
func (t *tenure) each(ctx context.Context, f func(context.Context, *environment) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, e := range t.environments {
		g.Go(func() error {
			if err := f(ctx, e); err != nil && ends(ctx, err) {
				return fmt.Errorf("environment %s: %w", e.name, err)
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

// settle keeps count of an environment's trouble, unless it ends the term. It
// says so when it is news, and again, for someone to act, when it does not end.
func (t *tenure) settle(ctx context.Context, e *environment, err error) error {
	if err == nil {
		if e.failures > 0 {
			t.log.InfoContext(ctx, "environment is published again", "environment", e.name)
		}
		e.failures, e.trouble = 0, ""
		return nil
	}
	if ends(ctx, err) {
		return err
	}
	level := slog.LevelWarn
	if e.failures++; e.failures >= alarmAfter {
		level = slog.LevelError
	}
	if e.failures == alarmAfter || e.trouble != err.Error() {
		t.log.Log(ctx, level, "environment was not published", "environment", e.name, "err", err)
	}
	e.trouble = err.Error()
	return nil
}

// failing reports whether something has to be tried again.
func (t *tenure) failing() bool {
	if t.undecided {
		return true
	}
	for _, e := range t.environments {
		if e.failures > 0 {
			return true
		}
	}
	return false
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
	return t.renew(ctx, e)
}

// restore reads the newest signed snapshot of an environment, if there is one,
// from the database.
func (t *tenure) restore(ctx context.Context, e *environment, h storage.EnvironmentHead) error {
	*e = environment{name: e.name, failures: e.failures, trouble: e.trouble}
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
	e.cursor, err = t.store.Cursor(ctx, t.name, e.name)
	if err != nil {
		return fmt.Errorf("read cursor: %w", err)
	}
	e.snapshot = snap
	return nil
}

// publish makes the newest snapshot the newest of the target. Every revision
// of the environment has a head in the database, each holding the digest of
// the one before; the target gets the last.
func (t *tenure) publish(ctx context.Context, e *environment) error {
	head := e.snapshot.Head()
	if head.IsZero() || e.published == head.Digest() {
		return nil
	}
	counted, err := t.signer.Count(e.snapshot)
	if err != nil {
		return fmt.Errorf("count revision %d: %w", head.Revision, err)
	}
	e.snapshot = counted
	if err := t.target.Publish(ctx, t.verifier, counted); err != nil {
		return fmt.Errorf("publish revision %d: %w", head.Revision, err)
	}
	if e.cursor < head.Revision {
		if err := t.confirmOne(ctx, e); err != nil {
			return err
		}
		e.cursor = head.Revision
		t.log.InfoContext(ctx, "snapshot published", "environment", e.name, "revision", head.Revision,
			"root", head.Root.Short(), "documents", head.Documents)
	}
	e.published = head.Digest()
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

// confirm issues a freshness statement for every environment of which all that
// was committed is published.
func (t *tenure) confirm(ctx context.Context) error {
	return t.each(ctx, func(ctx context.Context, e *environment) error {
		if e.failures > 0 || e.snapshot == nil || t.undecided {
			return nil
		}
		if err := t.confirmOne(ctx, e); err != nil {
			return t.settle(ctx, e, err)
		}
		return nil
	})
}

// confirmOne says that the published head was the newest when it was issued.
// That is known after the database has accepted a write of this term: no later
// one had begun by then.
func (t *tenure) confirmOne(ctx context.Context, e *environment) error {
	head, at := e.snapshot.Head(), t.now()
	if err := t.store.AdvanceCursor(ctx, t.term, t.name, e.name, head.Revision); err != nil {
		return fmt.Errorf("advance cursor: %w", err)
	}
	failpoint.Hit("publish.cursor")
	signed, err := t.signer.SignFreshness(snapshot.Freshness{
		Epoch:       head.Epoch,
		Environment: e.name,
		Revision:    head.Revision,
		HeadDigest:  head.Digest(),
		IssuedAt:    at,
	})
	if err != nil {
		return err
	}
	if err := t.target.PublishFreshness(ctx, e.name, signed); err != nil {
		return fmt.Errorf("confirm revision %d: %w", head.Revision, err)
	}
	return nil
}
