package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/storage"
)

// meaning gives an error of pgx the meaning that the contracts promise. ctx is
// the caller's: when that has ended, it is the reason. Other errors stay as
// they are.
func meaning(ctx context.Context, err error) error {
	switch {
	case err == nil || errors.Is(err, storage.ErrUnknownOutcome) || !away(err):
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return fmt.Errorf("%w: %w", storage.ErrUnavailable, err)
}

// away reports whether err says that the database cannot be reached, or cannot
// serve now, and not that it found fault with what we asked.
func away(err error) bool {
	var connect *pgconn.ConnectError
	var server *pgconn.PgError
	var network net.Error
	switch {
	case errors.As(err, &connect): // whatever the reason, even a password that was changed
		return true
	case errors.As(err, &server):
		return awayCode(server.Code)
	}
	return errors.As(err, &network) || pgconn.SafeToRetry(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

const readOnly = "25006" // SQLSTATE of a change in a read-only transaction

func awayCode(code string) bool {
	switch code {
	case readOnly, // the server is no longer the primary
		"25P03", // idle in transaction for too long
		"55P03": // the lock is held for too long
		return true
	}
	return strings.HasPrefix(code, "08") || // connection exceptions
		strings.HasPrefix(code, "53") || // insufficient resources: disk, memory, connections
		strings.HasPrefix(code, "57") // operator intervention: shutdown, restart, a timeout
}

// severed reports whether err says that connections are of no use any more:
// the one that it came over was lost, or leads to what is no primary now.
func severed(err error) bool {
	var server *pgconn.PgError
	if errors.As(err, &server) && server.SeverityUnlocalized == "ERROR" {
		return server.Code == readOnly
	}
	return err != nil && away(err)
}

// undone reports whether err, from COMMIT, says that nothing was committed. An
// error that ends the session may come after the commit was written, as when
// the server shuts down while it waits for a standby. pgconn.SafeToRetry is not
// to be asked: pgx 5.12 also says it of a connection that was lost while it
// waited for the answer.
func undone(err error) bool {
	var server *pgconn.PgError
	return errors.Is(err, pgx.ErrTxCommitRollback) ||
		errors.As(err, &server) && server.SeverityUnlocalized == "ERROR"
}

// missing turns the absence of a row into ErrNotFound.
func missing(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return storage.ErrNotFound
	}
	return err
}

// text returns what a text column takes of s, which may come from a stranger:
// Postgres takes neither NUL nor invalid UTF-8, and an audit entry is not to be
// lost over them.
func text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// noPartition reports whether err says that a row belongs to no partition.
func noPartition(err error) bool {
	var server *pgconn.PgError
	return errors.As(err, &server) && server.Code == "23514"
}
