package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/storage"
)

func (l *lane) selectCurrent() string {
	return `select ` + versionColumns + `
	from ` + l.versions + ` v
	where v.kind = $1 and v.superseded_by is null and not v.deleted
	order by v.kind, v.namespace, v.name`
}

// Roster implements storage.Rosters.
func (s *Store) Roster(ctx context.Context) (r storage.Roster, err error) {
	const selectRulings = `select ` + rulingColumns + ` from proxy_ruling where ` + barred + ` or draining order by subject collate "C"`
	var at sight
	err = s.do(ctx, func(ctx context.Context) error {
		return s.within(ctx, func(tx pgx.Tx) error {
			if at, err = s.look(ctx, tx); err != nil {
				return err
			}
			if err := tx.QueryRow(ctx, `select sequence from audit_chain`).Scan(&r.Sequence); err != nil {
				return err
			}
			if r.Enrollments, err = collect(ctx, tx, scanVersion, s.selectCurrent(), resource.KindEnrollment); err != nil {
				return err
			}
			r.Rulings, err = collect(ctx, tx, scanRuling, selectRulings)
			return err
		})
	})
	if err != nil {
		return storage.Roster{}, err
	}
	s.learn(ctx, at)
	r.Position = at.now.Position
	return r, nil
}
