package postgres

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/storage"
)

const rulingColumns = `subject, approval, quarantined, draining, labels, reason, caller, ruled_at, sequence`

func scanRuling(row pgx.CollectableRow) (r storage.Ruling, err error) {
	err = row.Scan(&r.Subject, &r.Approval, &r.Quarantined, &r.Draining, &r.Labels, &r.Reason, &r.Caller, &r.At, &r.Sequence)
	r.At = r.At.UTC()
	return r, err
}

// Rulings implements storage.Rulings.
func (s *Store) Rulings(ctx context.Context, after int64) (rulings []storage.Ruling, err error) {
	err = s.do(ctx, func(ctx context.Context) error {
		rulings, err = collect(ctx, s.pool, scanRuling,
			`select `+rulingColumns+` from proxy_ruling where sequence > $1 order by sequence`, after)
		return err
	})
	return rulings, err
}

// Rule implements storage.Rulings.
func (s *Store) Rule(ctx context.Context, subject string, e storage.AuditEntry, revise func(storage.Ruling, int) (storage.Ruling, error)) error {
	return s.do(ctx, func(ctx context.Context) error {
		return s.change(ctx, func(tx pgx.Tx) error {
			// First, for its lock orders rulings: whoever has seen one sequence has
			// seen all before it.
			sequence, err := appendNumbered(ctx, tx, e)
			if err != nil {
				return err
			}
			before, proxies, err := ruled(ctx, tx, subject)
			if err != nil {
				return err
			}
			after, err := revise(before, proxies)
			if err != nil {
				return err
			}
			after.Subject, after.Sequence = subject, sequence
			return saveRuling(ctx, tx, after)
		})
	})
}

// ruled returns what is ruled of a subject, and how many proxies are recorded of
// it.
func ruled(ctx context.Context, tx pgx.Tx, subject string) (storage.Ruling, int, error) {
	rulings, err := collect(ctx, tx, scanRuling, `select `+rulingColumns+` from proxy_ruling where subject = $1`, subject)
	if err != nil {
		return storage.Ruling{}, 0, err
	}
	var proxies int
	err = tx.QueryRow(ctx, `select count(*) from proxy where id = $1 or spiffe_id = $1`, subject).Scan(&proxies)
	if err != nil || len(rulings) == 0 {
		return storage.Ruling{}, proxies, err
	}
	return rulings[0], proxies, nil
}

func saveRuling(ctx context.Context, tx pgx.Tx, r storage.Ruling) error {
	const upsert = `insert into proxy_ruling (` + rulingColumns + `) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		on conflict (subject) do update set
			approval = excluded.approval,
			quarantined = excluded.quarantined,
			draining = excluded.draining,
			labels = excluded.labels,
			reason = excluded.reason,
			caller = excluded.caller,
			ruled_at = excluded.ruled_at,
			sequence = excluded.sequence`
	labels := map[string]string{}
	maps.Copy(labels, r.Labels)
	if _, err := tx.Exec(ctx, upsert, r.Subject, r.Approval, r.Quarantined, r.Draining, labels,
		text(r.Reason), text(r.Caller), r.At, r.Sequence); err != nil {
		return fmt.Errorf("save ruling: %w", err)
	}
	return notifyOf(ctx, tx)
}

// notifyOf wakes who waits for Changed when tx is committed.
func notifyOf(ctx context.Context, tx pgx.Tx) error { return notifyOn(ctx, tx, channel) }

func notifyOn(ctx context.Context, tx pgx.Tx, channel string) error {
	_, err := tx.Exec(ctx, `select pg_notify($1, '')`, channel)
	return err
}

// barred is whose records stay for as long as it is ruled so.
const barred = `(quarantined or approval = 'refused')`

// Forget implements storage.Rulings.
func (s *Store) Forget(ctx context.Context, id storage.ProxyID, since time.Time, e storage.AuditEntry) error {
	return s.do(ctx, func(ctx context.Context) error {
		return s.change(ctx, func(tx pgx.Tx) error {
			sequence, err := appendNumbered(ctx, tx, e)
			if err != nil {
				return err
			}
			return forget(ctx, tx, id, since, sequence)
		})
	})
}

func forget(ctx context.Context, tx pgx.Tx, id storage.ProxyID, since time.Time, sequence int64) error {
	var spiffeID string
	var seen time.Time
	var isBarred bool
	err := tx.QueryRow(ctx, `select spiffe_id, last_seen,
			exists (select from proxy_ruling where subject = spiffe_id and `+barred+`)
		from proxy where id = $1 for update`, id).Scan(&spiffeID, &seen, &isBarred)
	switch {
	case err != nil:
		return missing(err)
	case isBarred:
		return storage.ErrBarred
	case !seen.Before(since):
		return storage.ErrHeard
	}
	const takeBack = `update proxy_ruling set approval = '', draining = false, labels = '{}', reason = '', caller = '',
			ruled_at = clock_timestamp(), sequence = $2
		where subject = $1`
	batch := &pgx.Batch{}
	batch.Queue(`delete from proxy where id = $1`, id)
	batch.Queue(takeBack, id, sequence)
	batch.Queue(takeBack+` and not exists (select from proxy where spiffe_id = $1)`, spiffeID, sequence)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("forget proxy: %w", err)
	}
	return notifyOf(ctx, tx)
}

// ForgetLost implements storage.Rulings.
func (s *Store) ForgetLost(ctx context.Context, since time.Time, limit int, e storage.AuditEntry) (gone []storage.ProxyID, err error) {
	const forgetLost = `with lost as (
			select id from proxy
			where last_seen < $1 and not exists (select from proxy_ruling where subject = spiffe_id and ` + barred + `)
			order by last_seen, id
			limit $2
			for update skip locked
		), orders as (
			delete from proxy_ruling using lost where subject = lost.id
		)
		delete from proxy using lost where proxy.id = lost.id returning proxy.id`
	const purge = `delete from proxy_ruling
		where approval = '' and not quarantined and not draining and labels = '{}' and ruled_at < $1`
	err = s.do(ctx, func(ctx context.Context) error {
		return s.change(ctx, func(tx pgx.Tx) error {
			if _, err = tx.Exec(ctx, purge, since); err != nil {
				return err
			}
			gone, err = collect(ctx, tx, pgx.RowTo[storage.ProxyID], forgetLost, since, limit)
			if err != nil || len(gone) == 0 {
				return err
			}
			names := make([]string, len(gone))
			for i, id := range gone {
				names[i] = string(id)
			}
			e.Detail = strings.Join(names, " ")
			return appendEntry(ctx, tx, e)
		})
	})
	if err != nil {
		return nil, err
	}
	return gone, nil
}
