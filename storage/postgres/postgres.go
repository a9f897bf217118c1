// Package postgres keeps the truth of the control plane: resources in all
// their versions, revisions, signed heads, the fleet and the audit.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sallyport/sallyport/storage"
)

const (
	defaultMaxConns = 16
	connectTimeout  = 3 * time.Second
	// statementTimeout bounds each statement on the server, so that a
	// statement whose caller has gone holds nothing for long.
	statementTimeout = "20s"
	// lockTimeout bounds the wait for the lock that orders commits.
	lockTimeout = "10s"
)

// Config is what a Store needs. DSN and Log are required.
type Config struct {
	// DSN is a connection string of Postgres: a URL, or key=value.
	DSN      string
	MaxConns int // 16 when 0
	Log      *slog.Logger
}

// Store implements the contracts of package storage on a Postgres database. It
// is safe for concurrent use. Run has to run for Changed to work.
type Store struct {
	pool   *pgxpool.Pool
	listen *pgx.ConnConfig
	log    *slog.Logger

	mu          sync.Mutex
	subscribers map[chan struct{}]struct{}
}

var (
	_ storage.Resources  = (*Store)(nil)
	_ storage.Publishing = (*Store)(nil)
	_ storage.Fleet      = (*Store)(nil)
	_ storage.Audit      = (*Store)(nil)
)

// New returns a store. It connects when it is first used: the database may be
// down.
func New(c Config) (*Store, error) {
	config, err := pgxpool.ParseConfig(c.DSN)
	if err != nil {
		return nil, fmt.Errorf("connection string: %w", redacted(err))
	}
	config.MaxConns = defaultMaxConns
	if c.MaxConns > 0 {
		config.MaxConns = int32(min(c.MaxConns, 10_000)) //nolint:gosec // bounded
	}
	config.ConnConfig.ConnectTimeout = connectTimeout
	config.ConnConfig.RuntimeParams["application_name"] = "sallyport-controlplane"
	config.ConnConfig.RuntimeParams["statement_timeout"] = statementTimeout
	config.ConnConfig.RuntimeParams["lock_timeout"] = lockTimeout
	config.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = statementTimeout
	// The background context: a pool only uses it for connections that it
	// makes ahead of need.
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return nil, fmt.Errorf("connection pool: %w", redacted(err))
	}
	return &Store{
		pool:        pool,
		listen:      config.ConnConfig.Copy(),
		log:         c.Log,
		subscribers: map[chan struct{}]struct{}{},
	}, nil
}

// Close ends all connections. It waits for those in use.
func (s *Store) Close() { s.pool.Close() }

// redacted drops what pgx quotes of a connection string, which may hold a
// password.
func redacted(err error) error {
	var parse *pgconn.ParseConfigError
	if errors.As(err, &parse) {
		return errors.New("cannot be parsed")
	}
	return err
}

// Unreachable reports whether err says that the database cannot be reached
// now, rather than that something is wrong.
func Unreachable(err error) bool { return errors.Is(err, storage.ErrUnavailable) }

// classify turns errors of the database into those of the contract.
func classify(err error) error {
	if err == nil || errors.Is(err, storage.ErrUnavailable) {
		return err
	}
	if away(err) {
		return fmt.Errorf("%w: %w", storage.ErrUnavailable, err)
	}
	return err
}

// away reports whether the connection, not the statement, was at fault.
func away(err error) bool {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		// Class 08: connection exception; 53: insufficient resources; 57:
		// operator intervention, such as a shutdown. 57014 is a statement
		// that was cancelled, 55P03 a lock that was not to be had in time.
		return server.Code == "55P03" || strings.HasPrefix(server.Code, "08") ||
			strings.HasPrefix(server.Code, "53") || strings.HasPrefix(server.Code, "57")
	}
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) ||
		errors.Is(err, net.ErrClosed) || pgconn.SafeToRetry(err) || strings.Contains(err.Error(), "closed pool") ||
		strings.Contains(err.Error(), "unexpected EOF") || strings.Contains(err.Error(), "conn closed")
}

// collect runs a query and returns its rows.
func collect[T any](ctx context.Context, q querier, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, classify(err)
	}
	all, err := pgx.CollectRows(rows, scan)
	return all, classify(err)
}

// querier is a pool, a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}
