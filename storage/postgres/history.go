package postgres

import (
	"cmp"
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// selectHistory adds up documents like selectList.
func (l *lane) selectHistory() string {
	return `select ` + versionColumns + `, coalesce(v.superseded_by, 0), r.committed_at, r.caller, r.message
	from (
		select v.*, sum(coalesce(octet_length(v.document), 0)) over page - coalesce(octet_length(v.document), 0) as before,
			row_number() over page as place
		from (
			select ` + versionColumns + `, v.superseded_by
			from ` + l.versions + ` v
			where v.kind = $1 and v.namespace = $2 and v.name = $3 and ($4 = 0 or v.revision < $4)
			order by v.revision desc
			limit $5
		) v
		window page as (order by v.revision desc)
	) v
	join ` + l.revisions + ` r on r.revision = v.revision
	where $6::bigint = 0 or v.before <= $6 or v.place <= 2
	order by v.revision desc`
}

func scanPast(row pgx.CollectableRow) (storage.Past, error) {
	var p storage.Past
	var digest []byte
	v := &p.Version
	err := row.Scan(&v.Key.Kind, &v.Key.Namespace, &v.Key.Name, &v.Revision, &v.Deleted,
		&v.Scope.All, &v.Scope.Environments, &v.Document, &digest, &p.SupersededBy, &p.CommittedAt, &p.Caller, &p.Message)
	v.Digest, _ = snapshot.ParseDigest(digest) // as in scanVersion
	if len(v.Scope.Environments) == 0 {
		v.Scope.Environments = nil
	}
	p.CommittedAt = p.CommittedAt.UTC()
	return p, err
}

// History implements storage.Resources.
func (l *lane) History(ctx context.Context, key resource.Key, before snapshot.Revision, page storage.Page) (past []storage.Past, err error) {
	err = l.do(ctx, func(ctx context.Context) error {
		past, err = collect(ctx, l.pool, scanPast, l.selectHistory(), key.Kind, key.Namespace, key.Name, before, page.Limit, page.Bytes)
		return err
	})
	return past, err
}

// selectDifferences finds what was changed in between, and of that what is not
// as it was. It reads the documents that are told alone.
func (l *lane) selectDifferences() string {
	side := func(at string) string {
		return `left join lateral (
			select s.revision, s.deleted, s.all_environments, s.environments, s.document, s.digest, octet_length(s.document) as bytes
			from ` + l.versions + ` s
			where s.kind = c.kind and s.namespace = c.namespace and s.name = c.name and s.revision <= ` + at + `
			order by s.revision desc limit 1
		)`
	}
	return `select d.kind, d.namespace, d.name,
		coalesce(d.was, 0), coalesce(d.was_all, false), coalesce(d.was_in, '{}'), d.was_document, d.was_digest,
		coalesce(d.now, 0), coalesce(d.now_all, false), coalesce(d.now_in, '{}'), d.now_document, d.now_digest
	from (
		select p.*, sum(p.bytes) over page - p.bytes as before, row_number() over page as place
		from (
			select c.kind, c.namespace, c.name,
				was.revision as was, was.all_environments as was_all, was.environments as was_in, was.document as was_document, was.digest as was_digest,
				now.revision as now, now.all_environments as now_all, now.environments as now_in, now.document as now_document, now.digest as now_digest,
				coalesce(was.bytes, 0) + coalesce(now.bytes, 0) as bytes
			from (
				select distinct v.kind, v.namespace, v.name
				from ` + l.versions + ` v
				where v.revision > least($1::bigint, $2::bigint) and v.revision <= greatest($1::bigint, $2::bigint)
					and ($3 = '' or v.kind = $3)
					and ($4::text is null or v.namespace = $4)
					and (v.kind, v.namespace, v.name) > ($5, $6, $7)
			) c
			` + side(`$1`) + ` was on true
			` + side(`$2`) + ` now on true
			where was.digest is distinct from now.digest
			order by c.kind, c.namespace, c.name
			limit $8
		) p
		window page as (order by p.kind, p.namespace, p.name)
	) d
	where $9::bigint = 0 or d.before <= $9 or d.place <= 2
	order by d.kind, d.namespace, d.name`
}

func scanDifference(row pgx.CollectableRow) (storage.Difference, error) {
	var d storage.Difference
	var was, now []byte
	err := row.Scan(&d.Key.Kind, &d.Key.Namespace, &d.Key.Name,
		&d.Before.Revision, &d.Before.Scope.All, &d.Before.Scope.Environments, &d.Before.Document, &was,
		&d.After.Revision, &d.After.Scope.All, &d.After.Scope.Environments, &d.After.Document, &now)
	for digest, v := range map[*[]byte]*storage.Version{&was: &d.Before, &now: &d.After} {
		v.Key = d.Key
		v.Digest, _ = snapshot.ParseDigest(*digest) // as in scanVersion
		if v.Deleted = *digest == nil; v.Deleted || len(v.Scope.Environments) == 0 {
			v.Scope.Environments = nil
		}
	}
	return d, err
}

// Differences implements storage.Resources.
func (l *lane) Differences(ctx context.Context, s storage.Span) (all []storage.Difference, err error) {
	for _, at := range [...]snapshot.Revision{s.From, s.To} {
		if at == 0 {
			continue // before the first revision
		}
		if _, err := l.existing(ctx, at); err != nil {
			return nil, err
		}
	}
	err = l.do(ctx, func(ctx context.Context) error {
		all, err = collect(ctx, l.pool, scanDifference, l.selectDifferences(), s.From, s.To, s.Kind, s.Namespace,
			s.After.Kind, s.After.Namespace, s.After.Name, s.Page.Limit, s.Page.Bytes)
		return cmp.Or(err, l.forgotten(ctx, s.From), l.forgotten(ctx, s.To))
	})
	return all, err
}
