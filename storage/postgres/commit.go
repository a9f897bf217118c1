package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/sallyport/sallyport/internal/failpoint"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// Commit implements storage.Resources. recheck must not call the store, and has
// ten seconds. Deleting what does not exist is ErrNotFound. While COMMIT itself
// runs, its outcome is waited for a while even when ctx ends.
func (l *lane) Commit(ctx context.Context, c storage.Commit, recheck func(since []storage.Version) error) (storage.Committed, error) {
	if err := l.check(c); err != nil {
		return storage.Committed{}, err
	}
	t := &transaction{Commit: c, lane: l}
	var refusal error
	select {
	case l.committing <- struct{}{}:
		defer func() { <-l.committing }()
	case <-ctx.Done():
		return storage.Committed{}, fmt.Errorf("commit: %w", ctx.Err())
	}
	err := l.do(ctx, func(ctx context.Context) error {
		return l.change(ctx, func(tx pgx.Tx) error {
			t.tx = tx
			return t.run(ctx, func(since []storage.Version) error {
				refusal = recheck(since)
				return refusal
			})
		})
	})
	if refusal != nil {
		return storage.Committed{}, refusal
	}
	if ahead := new(storage.AheadError); errors.As(err, &ahead) {
		// Others are told of what this process alone may have seen.
		return storage.Committed{}, cmp.Or(l.database.record(ctx, ahead.Sighting), error(ahead))
	}
	if err != nil {
		return storage.Committed{}, fmt.Errorf("commit: %w", err)
	}
	l.memory.keep(commit{Position: snapshot.Position{Epoch: t.epoch, Revision: t.revision}, id: t.id})
	failpoint.Hit("commit.committed")
	return storage.Committed{Revision: t.revision, Environments: t.touched()}, nil
}

// check finds what only a mistake of the caller makes.
func (l *lane) check(c storage.Commit) error {
	if len(c.Changes) == 0 {
		return errors.New("commit: there is no change")
	}
	seen := make(map[resource.Key]bool, len(c.Changes))
	for i := range c.Changes {
		change := &c.Changes[i]
		switch {
		case seen[change.Key]:
			return fmt.Errorf("commit: %s is changed twice", change.Key)
		case change.Delete && (change.Scope.All || len(change.Scope.Environments) > 0 || change.Document != nil || !change.Digest.IsZero()):
			return fmt.Errorf("commit: %s is deleted and given at once", change.Key)
		case change.Scope.All && len(change.Scope.Environments) > 0:
			return fmt.Errorf("commit: %s is for all environments and for some", change.Key)
		case !change.Delete && change.Digest != snapshot.DocumentDigest(change.Document):
			return fmt.Errorf("commit: %s has a document that its digest does not fit", change.Key)
		}
		if err := l.admits(*change); err != nil {
			return err
		}
		seen[change.Key] = true
	}
	return nil
}

// transaction is a commit under way.
type transaction struct {
	storage.Commit
	lane *lane
	tx   pgx.Tx

	epoch    snapshot.Epoch
	revision snapshot.Revision // the one that is made
	id       pgtype.UUID       // of the commit
	at       time.Time
	reach    reach
	existing map[string]bool // environments before or after
}

// reach gathers the environments that changes concern.
type reach struct {
	all   bool
	named map[string]bool
}

func (r *reach) add(s storage.Scope) {
	r.all = r.all || s.All
	for _, e := range s.Environments {
		r.named[e] = true
	}
}

// touched returns the environments that the revision touches, sorted.
func (t *transaction) touched() []string {
	touched := make([]string, 0, len(t.existing))
	for _, e := range slices.Sorted(maps.Keys(t.existing)) {
		if t.reach.all || t.reach.named[e] {
			touched = append(touched, e)
		}
	}
	return touched
}

func (t *transaction) run(ctx context.Context, recheck func([]storage.Version) error) error {
	since, err := t.lock(ctx)
	if err != nil {
		return err
	}
	failpoint.Hit("commit.locked")
	if err := recheck(since); err != nil {
		return err
	}
	failpoint.Hit("commit.rechecked")
	if err := t.supersede(ctx); err != nil {
		return err
	}
	if err := t.insert(ctx); err != nil {
		return err
	}
	failpoint.Hit("commit.inserted")
	if err := t.record(ctx); err != nil {
		return err
	}
	failpoint.Hit("commit.committing")
	return nil
}

// lock takes the place in the order of commits and returns what was committed
// after the base.
func (t *transaction) lock(ctx context.Context) ([]storage.Version, error) {
	if err := t.settle(ctx); err != nil {
		return nil, err
	}
	newest := t.revision
	t.revision++
	switch {
	case t.Expected != nil && *t.Expected != newest:
		return nil, fmt.Errorf("%w: %d, not %d", storage.ErrConflict, newest, *t.Expected)
	case t.Base > newest: // the database was set back
		return nil, fmt.Errorf("%w: %d, and the changes were checked at %d", storage.ErrConflict, newest, t.Base)
	case t.Base == newest:
		return nil, nil
	}
	return collect(ctx, t.tx, scanVersion, t.lane.selectSince(), t.Base)
}

// settle locks the row of the lane and finds the epoch and the newest revision,
// unless somebody has seen more than that.
func (t *transaction) settle(ctx context.Context) error {
	at := sight{before: t.lane.memory.recall()}
	var standing []storage.Sighting
	batch := &pgx.Batch{}
	batch.Queue(`select from ` + t.lane.row + ` for update`)
	batch.Queue(t.lane.selectPosition(), at.before.Revision).QueryRow(at.scan)
	batch.Queue(selectStanding, 1).Query(func(rows pgx.Rows) (err error) {
		standing, err = pgx.CollectRows(rows, scanSighting)
		return err
	})
	if err := t.tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("lock the %s: %w", t.lane.row, err)
	}
	if at.back() {
		return &storage.AheadError{Sighting: t.lane.sighting(at.before)}
	}
	t.epoch, t.revision = at.now.Epoch, at.now.Revision
	return settled(standing)
}

// supersede ends the versions that were current and makes the revision. It
// learns which environments there are, and where the old versions were.
func (t *transaction) supersede(ctx context.Context) error {
	before := make(map[resource.Key]bool, len(t.Changes))
	t.reach = reach{named: map[string]bool{}}
	t.existing = t.lane.exists()
	batch := &pgx.Batch{}
	batch.Queue(`select name from `+t.lane.versions+` where kind = $1 and superseded_by is null and not deleted`,
		resource.KindEnvironment).Query(func(rows pgx.Rows) error {
		var name string
		_, err := pgx.ForEachRow(rows, []any{&name}, func() error { t.existing[name] = true; return nil })
		return err
	})
	batch.Queue(`insert into `+t.lane.revisions+` (revision, committed_at, caller, message, changes)
		select $1::bigint, greatest(clock_timestamp(), (select committed_at from `+t.lane.revisions+` where revision = $1 - 1)), $2::text, $3::text, $4::integer
		returning committed_at, id`,
		t.revision, text(t.Caller), text(t.Message), len(t.Changes)).QueryRow(func(row pgx.Row) error { return row.Scan(&t.at, &t.id) })
	kinds, namespaces, names := t.keys()
	batch.Queue(`update `+t.lane.versions+` v set superseded_by = $1
		from unnest($2::text[], $3::text[], $4::text[]) as c (kind, namespace, name)
		where v.kind = c.kind and v.namespace = c.namespace and v.name = c.name and v.superseded_by is null
		returning `+versionKeyAndScope,
		t.revision, kinds, namespaces, names).Query(func(rows pgx.Rows) error {
		var v storage.Version
		_, err := pgx.ForEachRow(rows, []any{&v.Key.Kind, &v.Key.Namespace, &v.Key.Name, &v.Deleted, &v.Scope.All, &v.Scope.Environments}, func() error {
			before[v.Key] = !v.Deleted
			t.reach.add(v.Scope)
			return nil
		})
		return err
	})
	if err := t.tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("supersede versions: %w", err)
	}
	return t.weigh(before)
}

const versionKeyAndScope = `v.kind, v.namespace, v.name, v.deleted, v.all_environments, v.environments`

func (t *transaction) keys() (kinds, namespaces, names []string) {
	for _, c := range t.Changes {
		kinds, namespaces, names = append(kinds, string(c.Key.Kind)), append(namespaces, c.Key.Namespace), append(names, c.Key.Name)
	}
	return kinds, namespaces, names
}

// weigh adds what the changes reach. before are the keys that there were.
func (t *transaction) weigh(before map[resource.Key]bool) error {
	for _, c := range t.Changes {
		if c.Delete && !before[c.Key] {
			return fmt.Errorf("delete %s: %w", c.Key, storage.ErrNotFound)
		}
		if !c.Delete && c.Key.Kind == resource.KindEnvironment {
			t.existing[c.Key.Name] = true
		}
		t.reach.add(c.Scope)
	}
	return nil
}

func (t *transaction) insert(ctx context.Context) error {
	columns := []string{"kind", "namespace", "name", "revision", "deleted", "all_environments", "environments", "document", "digest"}
	_, err := t.tx.CopyFrom(ctx, pgx.Identifier{t.lane.versions}, columns, pgx.CopyFromSlice(len(t.Changes), func(i int) ([]any, error) {
		c := &t.Changes[i]
		var document, digest []byte // null when deleted
		if !c.Delete {
			document, digest = notNull(c.Document), c.Digest[:]
		}
		return []any{
			string(c.Key.Kind), c.Key.Namespace, c.Key.Name, int64(t.revision), c.Delete,
			c.Scope.All, notNull(c.Scope.Environments), document, digest,
		}, nil
	}))
	if err != nil {
		return fmt.Errorf("insert versions: %w", err)
	}
	return nil
}

// notNull returns s as Postgres is to keep it: empty rather than null.
func notNull[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// record makes the revision the newest one, and tells everybody once it is
// committed.
func (t *transaction) record(ctx context.Context) error {
	touched := t.touched()
	batch := &pgx.Batch{}
	batch.Queue(`insert into environment (name) select unnest($1::text[]) on conflict do nothing`, touched)
	batch.Queue(`insert into environment_revision (environment, revision) select unnest($1::text[]), $2::bigint`, touched, t.revision)
	batch.Queue(`update `+t.lane.row+` set revision = $1`, t.revision)
	batch.Queue(`select pg_notify($1, $2::bigint::text)`, channel, t.revision)
	if err := t.tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("record the revision: %w", err)
	}
	return appendEntry(ctx, t.tx, t.entry())
}
