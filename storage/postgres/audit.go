package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// Record implements storage.Audit.
func (s *Store) Record(ctx context.Context, e storage.AuditEntry) error {
	return classify(pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		// The lock that orders commits orders the chain too.
		if _, err := tx.Exec(ctx, "select from fleet for update"); err != nil {
			return err
		}
		return appendAudit(ctx, tx, e)
	}))
}

// appendAudit chains an entry. The caller holds the lock of fleet.
func appendAudit(ctx context.Context, tx pgx.Tx, e storage.AuditEntry) error {
	var previous []byte
	err := tx.QueryRow(ctx, "select sequence, digest from audit_entry order by sequence desc limit 1").Scan(&e.Sequence, &previous)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("read the last audit entry: %w", classify(err))
	}
	e.Previous, _ = snapshot.ParseDigest(previous) // zero for the first
	e.Sequence++
	if e.At.IsZero() {
		e.At = time.Now()
	}
	e.At = e.At.UTC().Truncate(time.Microsecond) // what the database keeps
	e.Digest = AuditDigest(e)
	_, err = tx.Exec(ctx, `
		insert into audit_entry (sequence, at, caller, action, allowed, revision, detail, previous, digest)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		e.Sequence, e.At, e.Caller, e.Action, e.Allowed, e.Revision, e.Detail, e.Previous[:], e.Digest[:])
	if err != nil {
		return fmt.Errorf("append audit entry: %w", classify(err))
	}
	return nil
}

// AuditDigest returns the digest that an entry should have: SHA-256 over its
// fields, each with its length, and the digest of the entry before.
func AuditDigest(e storage.AuditEntry) snapshot.Digest {
	b := []byte("sallyport audit v1\x00")
	b = append(b, e.Previous[:]...)
	for _, n := range []int64{e.Sequence, e.At.UnixMicro(), int64(e.Revision)} {
		b = binary.BigEndian.AppendUint64(b, uint64(n)) //nolint:gosec // any bits will do
	}
	allowed := byte(0)
	if e.Allowed {
		allowed = 1
	}
	b = append(b, allowed)
	for _, text := range []string{e.Caller, e.Action, e.Detail} {
		b = binary.BigEndian.AppendUint64(b, uint64(len(text)))
		b = append(b, text...)
	}
	return sha256.Sum256(b)
}

// Entries implements storage.Audit.
func (s *Store) Entries(ctx context.Context, after int64, limit int) ([]storage.AuditEntry, error) {
	return collect(ctx, s.pool, func(row pgx.CollectableRow) (e storage.AuditEntry, err error) {
		var previous, digest []byte
		err = row.Scan(&e.Sequence, &e.At, &e.Caller, &e.Action, &e.Allowed, &e.Revision, &e.Detail, &previous, &digest)
		e.At = e.At.UTC()
		e.Previous, _ = snapshot.ParseDigest(previous) // a damaged one does not verify
		e.Digest, _ = snapshot.ParseDigest(digest)
		return e, err
	}, `
		select sequence, at, caller, action, allowed, revision, detail, previous, digest from audit_entry
		where sequence > $1
		order by sequence
		limit $2`, after, limit)
}
