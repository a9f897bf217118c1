// Package postgres keeps the truth of a fleet in PostgreSQL, version 15 or
// newer.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sallyport/sallyport/storage"
)

const (
	defaultMaxConns = 16

	// How long the server lets a session do what, at most. A replica that
	// freezes while it holds the lock that orders commits loses it to
	// idleBound; lockBound is longer, so that those who wait outlive it.
	statementBound = 30 * time.Second
	idleBound      = 10 * time.Second
	lockBound      = 15 * time.Second

	// callBound ends a call whose caller gave no earlier deadline: a connection
	// that swallows everything is no reason to wait forever.
	callBound = time.Minute
	// queueBound is how long a call waits until a connection is free: when all are
	// busy for that long, waiting is no use.
	queueBound = 5 * time.Second
	// commitBound is how long the outcome of a COMMIT is waited for, even when
	// the caller is gone: an unknown outcome is worse than a late one.
	commitBound = 10 * time.Second
	// leaveBound is how long ending a session or a transaction in good order
	// may take.
	leaveBound = 2 * time.Second

	connectBound = 5 * time.Second
	pingBound    = 2 * time.Second
)

// Config is what a Store needs.
type Config struct {
	// DSN is a connection string of Postgres: a URL, or key=value.
	DSN string
	// MaxConns bounds the connections, beside one for notifications; 16 when 0. A
	// call that finds all of them busy waits for five seconds, and is answered
	// storage.ErrUnavailable then.
	MaxConns int
	// Replica names this process where it has seen what the database does not
	// hold any more. It may be empty.
	Replica string
	Log     *slog.Logger
}

// Store is the database of a fleet. It implements storage.Resources,
// Publishing, History, Fleet, Rulings, Replicas, Inquiries, CookieKeys, KeySets and Audit, and is
// safe for concurrent use. It connects when it is used, and again after the database was away.
type Store struct {
	*database
	*lane    // the fleet's
	security *lane
}

// database is what both lanes use.
type database struct {
	log      *slog.Logger
	pool     *pgxpool.Pool
	turns    chan struct{}   // held by each call, which uses one connection at a time
	queue    time.Duration   // how long a call waits for its turn
	listener *pgx.ConnConfig // of the connection for notifications
	witness  string          // who this process is, for sightings
	// silence is how long notifications may be silent until the connection is
	// tried.
	silence time.Duration

	mu      sync.Mutex
	waiting map[chan struct{}]string // what Changed and Asked returned, with what notifies it
}

var (
	_ storage.Resources   = (*Store)(nil)
	_ storage.Publishing  = (*Store)(nil)
	_ storage.Annotations = (*Store)(nil)
	_ storage.Retention   = (*Store)(nil)
	_ storage.History     = (*Store)(nil)
	_ storage.Fleet       = (*Store)(nil)
	_ storage.Rulings     = (*Store)(nil)
	_ storage.Rosters     = (*Store)(nil)
	_ storage.Inquiries   = (*Store)(nil)
	_ storage.Replicas    = (*Store)(nil)
	_ storage.CookieKeys  = (*Store)(nil)
	_ storage.KeySets     = (*Store)(nil)
	_ storage.Audit       = (*Store)(nil)
)

// New checks the configuration; it connects to nothing. The store holds
// connections once it was used, until Close.
func New(c Config) (*Store, error) {
	if c.Log == nil {
		return nil, errors.New("postgres: no logger")
	}
	if c.MaxConns < 0 || c.MaxConns > math.MaxInt32 {
		return nil, fmt.Errorf("postgres: %d connections are out of range", c.MaxConns)
	}
	cfg, err := pgxpool.ParseConfig(c.DSN)
	if err != nil {
		return nil, errDSN
	}
	session(cfg.ConnConfig)
	cfg.MaxConns = int32(c.MaxConns)
	if c.MaxConns == 0 {
		cfg.MaxConns = defaultMaxConns
	}
	cfg.MinConns, cfg.MinIdleConns = 0, 0
	cfg.PingTimeout = pingBound
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	db := &database{
		log:      c.Log,
		pool:     pool,
		turns:    make(chan struct{}, cfg.MaxConns),
		queue:    queueBound,
		listener: cfg.ConnConfig.Copy(),
		witness:  strings.TrimSpace("replica " + c.Replica),
		silence:  15 * time.Second,
		waiting:  map[chan struct{}]string{},
	}
	return &Store{database: db, lane: newFleet(db), security: newSecurity(db)}, nil
}

// errDSN does not quote the cause, which quotes the password.
var errDSN = errors.New("postgres: the connection string cannot be parsed")

// session sets what every session of ours relies on, whatever the connection
// string and the server say.
func session(c *pgx.ConnConfig) {
	if c.ConnectTimeout <= 0 {
		c.ConnectTimeout = connectBound
	}
	milliseconds := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
	maps.Copy(c.RuntimeParams, map[string]string{
		"statement_timeout":                   milliseconds(statementBound),
		"lock_timeout":                        milliseconds(lockBound),
		"idle_in_transaction_session_timeout": milliseconds(idleBound),
		"synchronous_commit":                  "on", // what was acknowledged survives
		"timezone":                            "UTC",
	})
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = "sallyport"
	}
}

// Close ends all connections, waiting for calls that are under way.
func (db *database) Close() { db.pool.Close() }

// do bounds f in time and gives its error the meaning that the contracts
// promise.
func (db *database) do(ctx context.Context, f func(context.Context) error) error {
	if err := db.enter(ctx); err != nil {
		return err
	}
	defer func() { <-db.turns }()
	err := bounded(ctx, callBound, f)
	if ctx.Err() == nil && severed(err) {
		db.pool.Reset() // the other connections are probably dead, too
	}
	return meaning(ctx, err)
}

// errBusy is why a call did not get a connection.
var errBusy = fmt.Errorf("%w: all connections are busy", storage.ErrUnavailable)

// enter waits for a turn.
func (db *database) enter(ctx context.Context) error {
	select {
	case db.turns <- struct{}{}:
		return nil
	default:
	}
	patience := time.NewTimer(db.queue)
	defer patience.Stop()
	select {
	case db.turns <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-patience.C:
		return errBusy
	}
}

func bounded(ctx context.Context, d time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return f(ctx)
}

// querier is a pool, a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// collect returns the rows of a query, each made by scan.
func collect[T any](ctx context.Context, q querier, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

// within runs f in a transaction that sees one state of the database and
// changes nothing.
func (db *database) within(ctx context.Context, f func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, db.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, f)
}

// change runs f in a transaction and commits it.
func (db *database) change(ctx context.Context, f func(pgx.Tx) error) error {
	tx, err := db.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer leave(ctx, tx)
	if err := f(tx); err != nil {
		return err
	}
	return conclude(ctx, tx)
}

// leave ends a transaction that was not committed. Where that fails the
// connection is given up, and the server does it.
func leave(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveBound)
	defer cancel()
	_ = tx.Rollback(ctx)
}

// conclude commits a transaction. ErrUnknownOutcome unless the server said what
// came of it, or was never asked.
func conclude(ctx context.Context, tx pgx.Tx) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitBound)
	defer cancel()
	err := tx.Commit(ctx)
	if err == nil || undone(err) {
		return err
	}
	return fmt.Errorf("%w: %w: %w", storage.ErrUnavailable, storage.ErrUnknownOutcome, err)
}
