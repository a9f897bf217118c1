package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// versionColumns are what scanVersion reads, in its order.
const versionColumns = "kind, namespace, name, revision, deleted, all_environments, environments, document, digest"

func scanVersion(row pgx.CollectableRow) (storage.Version, error) {
	var v storage.Version
	var digest []byte
	err := row.Scan((*string)(&v.Key.Kind), &v.Key.Namespace, &v.Key.Name, &v.Revision, &v.Deleted,
		&v.Scope.All, &v.Scope.Environments, &v.Document, &digest)
	if err != nil {
		return storage.Version{}, err
	}
	var ok bool
	if v.Digest, ok = snapshot.ParseDigest(digest); !ok {
		return storage.Version{}, fmt.Errorf("%s at revision %d: its digest is damaged", v.Key, v.Revision)
	}
	if v.Deleted {
		return storage.Version{Key: v.Key, Revision: v.Revision, Deleted: true}, nil
	}
	return v, nil
}

// changedSince returns the newest version of each key that changed after a
// revision.
func changedSince(ctx context.Context, q querier, after snapshot.Revision) ([]storage.Version, error) {
	return collect(ctx, q, scanVersion, `
		select `+versionColumns+` from resource_version
		where revision > $1 and superseded_by is null and not (deleted and $1 = 0)
		order by kind, namespace, name`, after)
}

// Since implements storage.Resources.
func (s *Store) Since(ctx context.Context, after snapshot.Revision) (versions []storage.Version, to snapshot.Revision, err error) {
	err = s.read(ctx, func(tx pgx.Tx) error {
		if to, err = revisionOf(ctx, tx); err != nil {
			return err
		}
		versions, err = changedSince(ctx, tx, after)
		return err
	})
	return versions, to, err
}

// read runs f in a transaction that sees one state of the database.
func (s *Store) read(ctx context.Context, f func(tx pgx.Tx) error) error {
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	return classify(pgx.BeginTxFunc(ctx, s.pool, options, f))
}

func revisionOf(ctx context.Context, q querier) (r snapshot.Revision, err error) {
	err = q.QueryRow(ctx, "select revision from fleet").Scan(&r)
	return r, classify(err)
}

// resolve returns the revision that at stands for; ErrNotFound if it is not
// yet.
func resolve(ctx context.Context, q querier, at snapshot.Revision) (snapshot.Revision, error) {
	newest, err := revisionOf(ctx, q)
	switch {
	case err != nil:
		return 0, err
	case at > newest:
		return 0, fmt.Errorf("revision %d: %w", at, storage.ErrNotFound)
	case at == 0:
		return newest, nil
	}
	return at, nil
}

// Resource implements storage.Resources.
func (s *Store) Resource(ctx context.Context, key resource.Key, at snapshot.Revision) (v storage.Version, err error) {
	err = s.read(ctx, func(tx pgx.Tx) error {
		if at, err = resolve(ctx, tx, at); err != nil {
			return err
		}
		rows, err := collect(ctx, tx, scanVersion, `
			select `+versionColumns+` from resource_version
			where kind = $1 and namespace = $2 and name = $3 and not deleted
				and revision <= $4 and (superseded_by is null or superseded_by > $4)`,
			string(key.Kind), key.Namespace, key.Name, at)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			return fmt.Errorf("%s: %w", key, storage.ErrNotFound)
		}
		v = rows[0]
		return nil
	})
	return v, err
}

// List implements storage.Resources.
func (s *Store) List(ctx context.Context, f storage.Filter) (versions []storage.Version, at snapshot.Revision, err error) {
	err = s.read(ctx, func(tx pgx.Tx) error {
		if at, err = resolve(ctx, tx, f.At); err != nil {
			return err
		}
		versions, err = collect(ctx, tx, scanVersion, `
			select `+versionColumns+` from resource_version
			where not deleted and revision <= $1 and (superseded_by is null or superseded_by > $1)
				and ($2 = '' or kind = $2) and ($3::text is null or namespace = $3)
				and (kind, namespace, name) > ($4, $5, $6)
			order by kind, namespace, name
			limit $7`,
			at, string(f.Kind), f.Namespace, string(f.After.Kind), f.After.Namespace, f.After.Name, f.Limit)
		return err
	})
	return versions, at, err
}

// Revisions implements storage.Resources.
func (s *Store) Revisions(ctx context.Context, before snapshot.Revision, limit int) ([]storage.RevisionInfo, error) {
	return collect(ctx, s.pool, func(row pgx.CollectableRow) (r storage.RevisionInfo, err error) {
		err = row.Scan(&r.Revision, &r.CommittedAt, &r.Caller, &r.Message, &r.Changes, &r.Environments)
		return r, err
	}, `
		select revision, committed_at, caller, message, changes, environments from revision
		where $1 = 0 or revision < $1
		order by revision desc
		limit $2`, before, limit)
}

// Position implements storage.Resources.
func (s *Store) Position(ctx context.Context) (p snapshot.Position, err error) {
	err = s.pool.QueryRow(ctx, "select epoch, revision from fleet").Scan(&p.Epoch, &p.Revision)
	return p, classify(err)
}

// EnvironmentsAt implements storage.Resources.
func (s *Store) EnvironmentsAt(ctx context.Context, at snapshot.Revision) (map[string]snapshot.Revision, error) {
	all := map[string]snapshot.Revision{}
	rows, err := s.pool.Query(ctx,
		"select environment, max(revision) from environment_revision where revision <= $1 group by environment", at)
	if err != nil {
		return nil, classify(err)
	}
	var name string
	var revision snapshot.Revision
	_, err = pgx.ForEachRow(rows, []any{&name, &revision}, func() error {
		all[name] = revision
		return nil
	})
	return all, classify(err)
}

// one returns the only row of a query; ErrNotFound if there is none.
func one[T any](ctx context.Context, q querier, scan pgx.RowToFunc[T], sql string, args ...any) (T, error) {
	var none T
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return none, classify(err)
	}
	v, err := pgx.CollectExactlyOneRow(rows, scan)
	if errors.Is(err, pgx.ErrNoRows) {
		return none, storage.ErrNotFound
	}
	return v, classify(err)
}
