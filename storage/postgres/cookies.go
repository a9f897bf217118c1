package postgres

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/storage"
)

// ReviseCookieKeys implements storage.CookieKeys.
func (s *Store) ReviseCookieKeys(ctx context.Context, environment string, revise func([]storage.CookieKey) ([]storage.CookieKey, error)) error {
	return s.do(ctx, func(ctx context.Context) error {
		return s.change(ctx, func(tx pgx.Tx) error {
			// There may be no row to lock yet. Keys change once a day.
			if _, err := tx.Exec(ctx, `lock table cookie_key in share row exclusive mode`); err != nil {
				return err
			}
			before, err := collect(ctx, tx, scanCookieKey,
				`select id, sealed, starts_at from cookie_key where environment = $1 order by starts_at, id`, environment)
			if err != nil {
				return err
			}
			after, err := revise(before)
			if err != nil {
				return err
			}
			return replaceCookieKeys(ctx, tx, environment, before, after)
		})
	})
}

func scanCookieKey(row pgx.CollectableRow) (storage.CookieKey, error) {
	k, err := pgx.RowToStructByName[storage.CookieKey](row)
	k.StartsAt = k.StartsAt.UTC()
	return k, err
}

// replaceCookieKeys writes only what differs.
func replaceCookieKeys(ctx context.Context, tx pgx.Tx, environment string, before, after []storage.CookieKey) error {
	var gone, ids, sealed [][]byte
	var starts []time.Time
	for _, k := range before {
		if !hasCookieKey(after, k) {
			gone = append(gone, k.ID)
		}
	}
	for _, k := range after {
		if !hasCookieKey(before, k) {
			ids, sealed, starts = append(ids, k.ID), append(sealed, k.Sealed), append(starts, k.StartsAt)
		}
	}
	if len(gone) > 0 {
		if _, err := tx.Exec(ctx, `delete from cookie_key where environment = $1 and id = any($2)`, environment, gone); err != nil {
			return err
		}
	}
	if len(ids) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `insert into cookie_key (environment, id, sealed, starts_at)
		select $1, k.id, k.sealed, k.starts_at
		from unnest($2::bytea[], $3::bytea[], $4::timestamptz[]) as k (id, sealed, starts_at)`, environment, ids, sealed, starts)
	return err
}

func hasCookieKey(keys []storage.CookieKey, k storage.CookieKey) bool {
	return slices.ContainsFunc(keys, func(o storage.CookieKey) bool {
		return bytes.Equal(o.ID, k.ID) && bytes.Equal(o.Sealed, k.Sealed) && o.StartsAt.Equal(k.StartsAt)
	})
}
