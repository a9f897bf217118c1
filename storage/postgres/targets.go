package postgres

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// KeepCursors implements storage.Publishing.
func (s *Store) KeepCursors(ctx context.Context, term storage.Term, targets []string) (forgotten []string, err error) {
	err = s.do(ctx, func(ctx context.Context) error {
		return s.fenced(ctx, term, func(tx pgx.Tx) error {
			forgotten, err = collect(ctx, tx, pgx.RowTo[string], `delete from publish_cursor where target <> all($1) returning target`, targets)
			return err
		})
	})
	slices.Sort(forgotten)
	return slices.Compact(forgotten), err
}

// A target that has no cursor of an environment has nothing of it.
const selectLags = `select t.name, coalesce(sum(behind.revisions), 0), min(coalesce(f.committed_at, c.committed_at))
	from unnest($1::text[]) with ordinality as t (name, place)
	left join environment e on true
	left join publish_cursor p on p.target = t.name and p.environment = e.name
	left join lateral (
		select count(*) as revisions, min(next.revision) as first
		from (
			select r.revision from environment_revision r
			where r.environment = e.name and r.revision > coalesce(p.revision, 0)
			order by r.revision limit $2
		) next
	) behind on true
	left join revision f on f.revision = behind.first and e.name <> '` + snapshot.SecurityLane + `'
	left join security_revision c on c.revision = behind.first and e.name = '` + snapshot.SecurityLane + `'
	group by t.place, t.name
	order by t.place`

// Lags implements storage.Publishing.
func (s *Store) Lags(ctx context.Context, targets []string) (lags []storage.Lag, err error) {
	err = s.do(ctx, func(ctx context.Context) error {
		lags, err = collect(ctx, s.pool, scanLag, selectLags, targets, storage.MaxLag)
		return err
	})
	return lags, err
}

func scanLag(row pgx.CollectableRow) (storage.Lag, error) {
	var l storage.Lag
	var since *time.Time
	err := row.Scan(&l.Target, &l.Revisions, &since)
	if since != nil {
		l.Since = since.UTC()
	}
	return l, err
}
