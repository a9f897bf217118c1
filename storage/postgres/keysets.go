package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

// KeySets implements storage.KeySets.
func (s *Store) KeySets(ctx context.Context, after snapshot.Generation) (sets []*proxyv1.SignedKeySet, err error) {
	err = s.do(ctx, func(ctx context.Context) error {
		sets, err = collect(ctx, s.pool, scanKeySet,
			`select key_set, signature, key_id from key_set where generation > $1 order by generation limit $2`,
			after, snapshot.MaxGenerations)
		return err
	})
	return sets, err
}

func scanKeySet(row pgx.CollectableRow) (*proxyv1.SignedKeySet, error) {
	s := &proxyv1.SignedKeySet{}
	return s, row.Scan(&s.Set, &s.Signature, &s.KeyId)
}

// The set that is the newest must be the one that the next was signed after.
const insertKeySet = `insert into key_set (generation, key_set, signature, key_id)
	select $1::bigint, $2, $3, $4
	where coalesce((select max(generation) from key_set), 0) = $1::bigint - 1
	on conflict (generation) do nothing`

// AppendKeySet implements storage.KeySets.
func (s *Store) AppendKeySet(ctx context.Context, set snapshot.KeySet, e storage.AuditEntry) error {
	signed := set.Signed()
	if signed == nil {
		return errors.New("append key set: it is zero")
	}
	return s.do(ctx, func(ctx context.Context) error {
		return s.change(ctx, func(tx pgx.Tx) error {
			done, err := tx.Exec(ctx, insertKeySet, set.Generation, signed.GetSet(), signed.GetSignature(), signed.GetKeyId())
			switch {
			case err != nil:
				return err
			case done.RowsAffected() != 1:
				return fmt.Errorf("%w: generation %d is not the next", storage.ErrConflict, set.Generation)
			}
			if err := appendEntry(ctx, tx, e); err != nil {
				return err
			}
			_, err = tx.Exec(ctx, `select pg_notify($1, '')`, channel)
			return err
		})
	})
}
