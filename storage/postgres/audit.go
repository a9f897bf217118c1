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

// Record implements storage.Audit. An entry without a time gets the database's.
func (s *Store) Record(ctx context.Context, e storage.AuditEntry) error {
	return s.do(ctx, func(ctx context.Context) error {
		return s.change(ctx, func(tx pgx.Tx) error { return appendEntry(ctx, tx, e) })
	})
}

// appendEntry makes e the newest entry. It holds the lock of the chain until tx
// ends.
func appendEntry(ctx context.Context, tx pgx.Tx, e storage.AuditEntry) error {
	_, err := appendNumbered(ctx, tx, e)
	return err
}

// appendNumbered is appendEntry, and returns the sequence of the entry.
func appendNumbered(ctx context.Context, tx pgx.Tx, e storage.AuditEntry) (int64, error) {
	const selectEnd = `select sequence, digest, clock_timestamp() from audit_chain for update`
	var now time.Time
	var previous []byte
	if err := tx.QueryRow(ctx, selectEnd).Scan(&e.Sequence, &previous, &now); err != nil {
		return 0, fmt.Errorf("lock the audit chain: %w", err)
	}
	if e.At.IsZero() {
		e.At = now
	}
	e.Caller, e.Action, e.Detail = text(e.Caller), text(e.Action), text(e.Detail)
	e.Sequence++
	var whole bool
	if e.Previous, whole = snapshot.ParseDigest(previous); !whole {
		return 0, errors.New("the end of the audit chain is damaged")
	}
	e.Digest = entryDigest(e)
	batch := &pgx.Batch{}
	batch.Queue(`insert into audit_entry (`+entryColumns+`)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		e.Sequence, e.At, e.Caller, e.Action, e.Allowed, e.Revision, e.Detail, e.Previous[:], e.Digest[:])
	batch.Queue(`update audit_chain set sequence = $1, digest = $2`, e.Sequence, e.Digest[:])
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return 0, fmt.Errorf("append to the audit chain: %w", err)
	}
	return e.Sequence, nil
}

// entryDigest digests an entry with the digest of the one before. Texts are
// length-prefixed, so that no two entries are digested alike.
func entryDigest(e storage.AuditEntry) snapshot.Digest {
	b := make([]byte, 0, 256)
	b = append(b, "sallyport audit v1\x00"...)
	b = append(b, e.Previous[:]...)
	for _, n := range [...]int64{e.Sequence, e.At.UnixMicro(), int64(e.Revision)} {
		b = binary.BigEndian.AppendUint64(b, uint64(n)) //nolint:gosec // every int64 has its own pattern of bits
	}
	if e.Allowed {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	for _, part := range [...]string{e.Caller, e.Action, e.Detail} {
		b = binary.BigEndian.AppendUint64(b, uint64(len(part)))
		b = append(b, part...)
	}
	return sha256.Sum256(b)
}

const entryColumns = `sequence, at, caller, action, allowed, revision, detail, previous, digest`

func scanEntry(row pgx.CollectableRow) (storage.AuditEntry, error) {
	var e storage.AuditEntry
	var previous, digest []byte
	if err := row.Scan(&e.Sequence, &e.At, &e.Caller, &e.Action, &e.Allowed, &e.Revision, &e.Detail, &previous, &digest); err != nil {
		return e, err
	}
	e.At = e.At.UTC()
	// A digest of another length was tampered with: zero, it fits nothing.
	e.Previous, _ = snapshot.ParseDigest(previous)
	e.Digest, _ = snapshot.ParseDigest(digest)
	return e, nil
}

// Entries implements storage.Audit.
func (s *Store) Entries(ctx context.Context, after int64, limit int) (entries []storage.AuditEntry, err error) {
	const selectEntries = `select ` + entryColumns + ` from audit_entry where sequence > $1 order by sequence limit $2`
	err = s.do(ctx, func(ctx context.Context) error {
		entries, err = collect(ctx, s.pool, scanEntry, selectEntries, after, limit)
		return err
	})
	return entries, err
}
