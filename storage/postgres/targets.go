package postgres

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// KeepCursors implements storage.Publishing.
func (s *Store) KeepCursors(ctx context.Context, term storage.Term, targets []string) (forgotten []string, err error) {
	err = s.do(ctx, func(ctx context.Context) error {
		return s.fenced(ctx, term, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `delete from publish_trouble where target <> all($1)`, targets); err != nil {
				return err
			}
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

// Lags implements storage.Targets.
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

// Cursors implements storage.Targets.
func (s *Store) Cursors(ctx context.Context) (map[string]map[string]snapshot.Revision, error) {
	type cursor struct {
		Target, Environment string
		Revision            snapshot.Revision
	}
	all := map[string]map[string]snapshot.Revision{}
	err := s.do(ctx, func(ctx context.Context) error {
		cursors, err := collect(ctx, s.pool, pgx.RowToStructByPos[cursor], `select target, environment, revision from publish_cursor`)
		for _, c := range cursors {
			if all[c.Target] == nil {
				all[c.Target] = map[string]snapshot.Revision{}
			}
			all[c.Target][c.Environment] = c.Revision
		}
		return err
	})
	return all, err
}

const insertTrouble = `insert into publish_trouble (target, lane, since, error) values ($1, $2, now(), $3)
	on conflict (target, lane) do update set error = excluded.error`

// Report implements storage.Publishing. What others have written into the error does
// not keep it from being kept.
func (s *Store) Report(ctx context.Context, term storage.Term, t storage.Trouble) error {
	text := strings.ToValidUTF8(strings.ReplaceAll(t.Error, "\x00", ""), "\uFFFD")
	text = strings.ToValidUTF8(text[:min(len(text), storage.MaxTrouble)], "") // the last letter may be cut
	return s.do(ctx, func(ctx context.Context) error {
		return s.fenced(ctx, term, func(tx pgx.Tx) error {
			if t.Error == "" {
				_, err := tx.Exec(ctx, `delete from publish_trouble where target = $1 and lane = $2`, t.Target, t.Lane)
				return err
			}
			_, err := tx.Exec(ctx, insertTrouble, t.Target, t.Lane, text)
			return err
		})
	})
}

// Troubles implements storage.Targets.
func (s *Store) Troubles(ctx context.Context) (all []storage.Trouble, err error) {
	err = s.do(ctx, func(ctx context.Context) error {
		all, err = collect(ctx, s.pool, pgx.RowToStructByPos[storage.Trouble],
			`select target, lane, since, error from publish_trouble order by target, since, lane`)
		return err
	})
	for i := range all {
		all[i].Since = all[i].Since.UTC()
	}
	return all, err
}
