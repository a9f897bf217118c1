package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/storage"
)

// Present implements storage.Replicas.
func (s *Store) Present(ctx context.Context, name string, streams int, within time.Duration) (all []storage.Replica, err error) {
	const gone = `delete from replica where name <> $1 and heard_at < clock_timestamp() - 10 * $2::interval`
	const present = `insert into replica (name, streams, since, heard_at) values ($1, $2, clock_timestamp(), clock_timestamp())
		on conflict (name) do update set
			streams = excluded.streams,
			since = case when replica.heard_at < clock_timestamp() - $3::interval then excluded.since else replica.since end,
			heard_at = excluded.heard_at`
	const others = `select name, streams, clock_timestamp() - since from replica
		where heard_at >= clock_timestamp() - $1::interval
		order by name`
	err = s.do(ctx, func(ctx context.Context) error {
		if err := s.change(ctx, func(tx pgx.Tx) error {
			batch := &pgx.Batch{}
			batch.Queue(gone, name, within)
			batch.Queue(present, name, streams, within)
			return tx.SendBatch(ctx, batch).Close()
		}); err != nil {
			return err
		}
		all, err = collect(ctx, s.pool, pgx.RowToStructByPos[storage.Replica], others, within)
		return err
	})
	return all, err
}

// Leave implements storage.Replicas.
func (s *Store) Leave(ctx context.Context, name string) error {
	return s.do(ctx, func(ctx context.Context) error {
		return s.change(ctx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `delete from replica where name = $1`, name)
			return err
		})
	})
}
