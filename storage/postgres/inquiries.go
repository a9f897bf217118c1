package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/storage"
)

// inquiries is the channel that questions and answers notify.
const inquiries = "sallyport_inquiry"

// Ask implements storage.Inquiries.
func (s *Store) Ask(ctx context.Context, q storage.Inquiry) (id int64, err error) {
	const ask = `with gone as (
			delete from inquiry where id in (
				select id from inquiry where asked_at < clock_timestamp() - $3::interval for update skip locked
			)
		)
		insert into inquiry (replica, proxy) values ($1, $2) returning id`
	err = s.do(ctx, func(ctx context.Context) error {
		return s.change(ctx, func(tx pgx.Tx) error {
			if err := tx.QueryRow(ctx, ask, q.Replica, q.Proxy, storage.InquiryLife).Scan(&id); err != nil {
				return fmt.Errorf("ask replica %s: %w", q.Replica, err)
			}
			return notifyOn(ctx, tx, inquiries)
		})
	})
	return id, err
}

// Unanswered implements storage.Inquiries.
func (s *Store) Unanswered(ctx context.Context, replicas []string, limit int) (all []storage.Inquiry, err error) {
	const unanswered = `select id, replica, proxy from inquiry
		where replica = any($1) and not answered and asked_at >= clock_timestamp() - $2::interval
		order by id
		limit $3`
	err = s.do(ctx, func(ctx context.Context) error {
		all, err = collect(ctx, s.pool, pgx.RowToStructByPos[storage.Inquiry], unanswered, replicas, storage.InquiryLife, limit)
		return err
	})
	return all, err
}

// Answer implements storage.Inquiries.
func (s *Store) Answer(ctx context.Context, id int64, a storage.InquiryAnswer) error {
	const answer = `update inquiry set answered = true, code = $2, reason = $3, result = $4 where id = $1 and not answered`
	return s.do(ctx, func(ctx context.Context) error {
		return s.change(ctx, func(tx pgx.Tx) error {
			done, err := tx.Exec(ctx, answer, id, a.Code, text(a.Reason), notNull(a.Result))
			switch {
			case err != nil:
				return err
			case done.RowsAffected() == 0:
				return storage.ErrNotFound
			}
			return notifyOn(ctx, tx, inquiries)
		})
	})
}

// Answered implements storage.Inquiries.
func (s *Store) Answered(ctx context.Context, id int64) (a storage.InquiryAnswer, err error) {
	const answered = `select result, code, reason from inquiry where id = $1 and answered`
	err = s.do(ctx, func(ctx context.Context) error {
		return missing(s.pool.QueryRow(ctx, answered, id).Scan(&a.Result, &a.Code, &a.Reason))
	})
	return a, err
}

// Asked implements storage.Inquiries. Nothing is received before Run.
func (s *Store) Asked(ctx context.Context) <-chan struct{} { return s.notified(ctx, inquiries) }
