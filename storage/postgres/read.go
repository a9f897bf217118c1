package postgres

import (
	"cmp"
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// versionColumns are what scanVersion reads, of a resource_version v.
const versionColumns = `v.kind, v.namespace, v.name, v.revision, v.deleted,
	v.all_environments, v.environments, v.document, v.digest`

func scanVersion(row pgx.CollectableRow) (storage.Version, error) {
	var v storage.Version
	var digest []byte
	err := row.Scan(&v.Key.Kind, &v.Key.Namespace, &v.Key.Name, &v.Revision, &v.Deleted,
		&v.Scope.All, &v.Scope.Environments, &v.Document, &digest)
	v.Digest, _ = snapshot.ParseDigest(digest) // the table has it of 32 bytes, or none when deleted
	if len(v.Scope.Environments) == 0 {
		v.Scope.Environments = nil
	}
	return v, err
}

// Position implements storage.Resources.
func (l *lane) Position(ctx context.Context) (snapshot.Position, error) {
	var at sight
	err := l.do(ctx, func(ctx context.Context) (err error) {
		at, err = l.look(ctx, l.pool)
		return err
	})
	if err != nil {
		return snapshot.Position{}, err
	}
	l.learn(ctx, at)
	return at.now.Position, nil
}

func (l *lane) selectSince() string {
	return `select ` + versionColumns + `
	from ` + l.versions + ` v
	where v.superseded_by is null and v.revision > $1 and not (v.deleted and $1 = 0)
	order by v.kind, v.namespace, v.name`
}

// Since implements storage.Resources.
func (l *lane) Since(ctx context.Context, after snapshot.Revision) (versions []storage.Version, to snapshot.Revision, err error) {
	var at sight
	err = l.do(ctx, func(ctx context.Context) error {
		return l.within(ctx, func(tx pgx.Tx) error {
			if at, err = l.look(ctx, tx); err != nil {
				return err
			}
			versions, err = collect(ctx, tx, scanVersion, l.selectSince(), after)
			return err
		})
	})
	if err != nil {
		return nil, 0, err
	}
	l.learn(ctx, at)
	return versions, at.now.Revision, nil
}

// existing returns the revision that a reader asked for: the newest when 0, which
// is not forgotten while it is read.
// What it names does not change any more, whatever is committed meanwhile.
func (l *lane) existing(ctx context.Context, at snapshot.Revision) (snapshot.Revision, error) {
	p, err := l.Position(ctx)
	switch {
	case err != nil:
		return 0, err
	case at == 0:
		return p.Revision, nil
	case at < 0 || at > p.Revision:
		return 0, storage.ErrNotFound
	}
	return at, nil
}

// Of the versions of a key at most one meets this at a revision.
const currentAt = `v.revision <= $1 and (v.superseded_by is null or v.superseded_by > $1) and not v.deleted`

func (l *lane) selectResource() string {
	return `select ` + versionColumns + `
	from ` + l.versions + ` v
	where ` + currentAt + ` and v.kind = $2 and v.namespace = $3 and v.name = $4`
}

// Resource implements storage.Resources.
func (l *lane) Resource(ctx context.Context, key resource.Key, at snapshot.Revision) (v storage.Version, err error) {
	asked := at
	if at, err = l.existing(ctx, at); err != nil {
		return storage.Version{}, err
	}
	err = l.do(ctx, func(ctx context.Context) error {
		rows, err := l.pool.Query(ctx, l.selectResource(), at, key.Kind, key.Namespace, key.Name)
		if err != nil {
			return err
		}
		v, err = pgx.CollectExactlyOneRow(rows, scanVersion)
		return cmp.Or(l.forgotten(ctx, asked), missing(err))
	})
	return v, err
}

// selectList adds up the documents of a page alone, and reads those that are told.
func (l *lane) selectList() string {
	return `select ` + versionColumns + `
	from (
		select v.*, sum(octet_length(v.document)) over page - octet_length(v.document) as before, row_number() over page as place
		from (
			select ` + versionColumns + `
			from ` + l.versions + ` v
			where ` + currentAt + `
				and ($2 = '' or v.kind = $2)
				and ($3::text is null or v.namespace = $3)
				and (v.kind, v.namespace, v.name) > ($4, $5, $6)
			order by v.kind, v.namespace, v.name
			limit $7
		) v
		window page as (order by v.kind, v.namespace, v.name)
	) v
	where $8::bigint = 0 or v.before <= $8 or v.place <= 2
	order by v.kind, v.namespace, v.name`
}

// List implements storage.Resources.
func (l *lane) List(ctx context.Context, f storage.Filter) ([]storage.Version, snapshot.Revision, error) {
	at, err := l.existing(ctx, f.At)
	if err != nil {
		return nil, 0, err
	}
	var versions []storage.Version
	err = l.do(ctx, func(ctx context.Context) error {
		versions, err = collect(ctx, l.pool, scanVersion, l.selectList(), at, f.Kind, f.Namespace,
			f.After.Kind, f.After.Namespace, f.After.Name, f.Limit, f.Bytes)
		return cmp.Or(err, l.forgotten(ctx, f.At))
	})
	return versions, at, err
}

// selectRevisions selects those that meet a condition besides.
func (l *lane) selectRevisions(condition string) string {
	annotations, from := l.selectAnnotations()
	return `select r.revision, r.committed_at, r.caller, r.message, r.changes,
		array(select e.environment from environment_revision e
			where e.revision = r.revision and e.environment ` + l.environments + ` order by e.environment) as environments,
		` + annotations + `
	from ` + l.revisions + ` r ` + from + `
	where ($1 = 0 or r.revision < $1) ` + condition + `
	order by r.revision desc
	limit $2`
}

func scanRevision(row pgx.CollectableRow) (storage.RevisionInfo, error) {
	r, err := pgx.RowToStructByName[storage.RevisionInfo](row)
	if r.CommittedAt = r.CommittedAt.UTC(); len(r.Labels) == 0 {
		r.Labels = nil
	}
	return r, err
}

// Revisions implements storage.Resources.
func (l *lane) Revisions(ctx context.Context, before snapshot.Revision, limit int) (revisions []storage.RevisionInfo, err error) {
	err = l.do(ctx, func(ctx context.Context) error {
		revisions, err = collect(ctx, l.pool, scanRevision, l.selectRevisions(""), before, limit)
		return err
	})
	return revisions, err
}

func (l *lane) selectEnvironmentsAt() string {
	return `select e.name, last.revision
	from environment e
	cross join lateral (
		select r.revision from environment_revision r
		where r.environment = e.name and r.revision <= $1
		order by r.revision desc limit 1
	) last
	where e.name ` + l.environments
}

// EnvironmentsAt implements storage.Resources.
func (l *lane) EnvironmentsAt(ctx context.Context, at snapshot.Revision) (map[string]snapshot.Revision, error) {
	type last struct {
		Name     string
		Revision snapshot.Revision
	}
	var all []last
	err := l.do(ctx, func(ctx context.Context) (err error) {
		all, err = collect(ctx, l.pool, pgx.RowToStructByName[last], l.selectEnvironmentsAt(), at)
		return err
	})
	if err != nil {
		return nil, err
	}
	environments := make(map[string]snapshot.Revision, len(all))
	for _, l := range all {
		environments[l.Name] = l.Revision
	}
	return environments, nil
}
