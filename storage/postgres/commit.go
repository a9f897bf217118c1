package postgres

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/internal/failpoint"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// channel is where commits notify.
const channel = "sallyport_revision"

// Commit implements storage.Resources.
func (s *Store) Commit(ctx context.Context, c storage.Commit, recheck func(since []storage.Version) error) (storage.Committed, error) {
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		return storage.Committed{}, classify(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // nothing after Commit
	done, err := commitIn(ctx, tx, c, recheck)
	if err != nil {
		return storage.Committed{}, err
	}
	failpoint.Hit("commit.committing")
	if err := tx.Commit(ctx); err != nil {
		if away(err) || ctx.Err() != nil {
			return storage.Committed{}, fmt.Errorf("%w: %w: %w", storage.ErrUnavailable, storage.ErrUnknownOutcome, err)
		}
		return storage.Committed{}, fmt.Errorf("commit: %w", err)
	}
	failpoint.Hit("commit.committed")
	return done, nil
}

func commitIn(ctx context.Context, tx pgx.Tx, c storage.Commit, recheck func([]storage.Version) error) (storage.Committed, error) {
	var at snapshot.Revision
	if err := tx.QueryRow(ctx, "select revision from fleet for update").Scan(&at); err != nil {
		return storage.Committed{}, classify(err)
	}
	failpoint.Hit("commit.locked")
	if c.Expected != nil && *c.Expected != at {
		return storage.Committed{}, fmt.Errorf("%w: it is at %d, not at %d", storage.ErrConflict, at, *c.Expected)
	}
	since, err := changedSince(ctx, tx, c.Base)
	if err != nil {
		return storage.Committed{}, err
	}
	if err := recheck(since); err != nil {
		return storage.Committed{}, err
	}
	failpoint.Hit("commit.rechecked")
	done := storage.Committed{Revision: at + 1}
	if done.Environments, err = touched(ctx, tx, c.Changes); err != nil {
		return storage.Committed{}, err
	}
	if err := insertRevision(ctx, tx, c, done); err != nil {
		return storage.Committed{}, err
	}
	failpoint.Hit("commit.inserted")
	return done, nil
}

// keys are the parts of many keys, as arrays for a statement.
type keys struct{ kinds, namespaces, names []string }

func (k *keys) add(key resource.Key) {
	k.kinds = append(k.kinds, string(key.Kind))
	k.namespaces = append(k.namespaces, key.Namespace)
	k.names = append(k.names, key.Name)
}

func keysOf(changes []storage.Change) keys {
	var k keys
	for _, c := range changes {
		k.add(c.Key)
	}
	return k
}

// touched returns the environments, of those that there are before or after
// the changes, that the old or the new scope of any of them includes.
func touched(ctx context.Context, tx pgx.Tx, changes []storage.Change) ([]string, error) {
	names, err := collect(ctx, tx, pgx.RowTo[string],
		"select name from resource_version where kind = $1 and superseded_by is null and not deleted", string(resource.KindEnvironment))
	if err != nil {
		return nil, err
	}
	k := keysOf(changes)
	scopes, err := collect(ctx, tx, scanScope, `
		select v.all_environments, v.environments
		from unnest($1::text[], $2::text[], $3::text[]) as k (kind, namespace, name)
		join resource_version v on v.kind = k.kind and v.namespace = k.namespace and v.name = k.name
		where v.superseded_by is null and not v.deleted`, k.kinds, k.namespaces, k.names)
	if err != nil {
		return nil, err
	}
	for _, c := range changes {
		scopes = append(scopes, c.Scope)
		if c.Key.Kind == resource.KindEnvironment && !c.Delete {
			names = append(names, c.Key.Name)
		}
	}
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool {
		return !slices.ContainsFunc(scopes, func(s storage.Scope) bool { return s.Includes(name) })
	}), nil
}

func scanScope(row pgx.CollectableRow) (s storage.Scope, err error) {
	err = row.Scan(&s.All, &s.Environments)
	return s, err
}

func insertRevision(ctx context.Context, tx pgx.Tx, c storage.Commit, done storage.Committed) error {
	environments := done.Environments
	if environments == nil {
		environments = []string{}
	}
	batch := &pgx.Batch{}
	batch.Queue("update fleet set revision = $1", done.Revision)
	batch.Queue(`
		insert into revision (revision, committed_at, caller, message, changes, environments)
		values ($1, clock_timestamp(), $2, $3, $4, $5)`,
		done.Revision, c.Caller, c.Message, len(c.Changes), environments)
	batch.Queue(`
		insert into environment_revision (environment, revision)
		select name, $1 from unnest($2::text[]) as name`, done.Revision, environments)
	queueVersions(batch, c.Changes, done.Revision)
	batch.Queue("select pg_notify($1, $2::text)", channel, fmt.Sprint(done.Revision))
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("insert revision %d: %w", done.Revision, classify(err))
	}
	return appendAudit(ctx, tx, storage.AuditEntry{
		Caller: c.Caller, Action: c.Action, Allowed: true, Revision: done.Revision, Detail: c.Message,
	})
}

func queueVersions(batch *pgx.Batch, changes []storage.Change, revision snapshot.Revision) {
	k := keysOf(changes)
	n := len(changes)
	deleted, all := make([]bool, n), make([]bool, n)
	environments, documents, digests := make([]string, n), make([][]byte, n), make([][]byte, n)
	for i, c := range changes {
		deleted[i], all[i] = c.Delete, c.Scope.All
		environments[i] = arrayText(c.Scope.Environments)
		documents[i], digests[i] = nonNil(c.Document), c.Digest[:]
	}
	batch.Queue(`
		update resource_version v set superseded_by = $1
		from unnest($2::text[], $3::text[], $4::text[]) as k (kind, namespace, name)
		where v.kind = k.kind and v.namespace = k.namespace and v.name = k.name and v.superseded_by is null`,
		revision, k.kinds, k.namespaces, k.names)
	batch.Queue(`
		insert into resource_version (kind, namespace, name, revision, deleted, all_environments, environments, document, digest)
		select kind, namespace, name, $1, deleted, all_environments, environments::text[], document, digest
		from unnest($2::text[], $3::text[], $4::text[], $5::bool[], $6::bool[], $7::text[], $8::bytea[], $9::bytea[])
			as c (kind, namespace, name, deleted, all_environments, environments, document, digest)`,
		revision, k.kinds, k.namespaces, k.names, deleted, all, environments, documents, digests)
}

// arrayText is an array of environment names, which are DNS labels, as Postgres
// writes one: unnest cannot take an array of arrays of different lengths.
func arrayText(names []string) string {
	text := "{"
	for i, name := range names {
		if i > 0 {
			text += ","
		}
		text += `"` + name + `"`
	}
	return text + "}"
}

func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
