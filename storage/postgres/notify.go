package postgres

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

// channel is what commits notify.
const channel = "sallyport_revision"

// Run listens for commits until ctx ends, and wakes those who asked Changed. It
// outlives every failure of the database.
func (db *database) Run(ctx context.Context) error {
	const shortest, longest = 50 * time.Millisecond, 2 * time.Second
	wait := shortest
	level := slog.LevelWarn // once for each time that the database is away
	for ctx.Err() == nil {
		listened, err := db.listen(ctx)
		if ctx.Err() != nil {
			break
		}
		if wait = min(2*wait, longest); listened {
			wait, level = shortest, slog.LevelWarn
		}
		db.log.Log(ctx, level, "notifications of commits were interrupted", "err", err)
		level = slog.LevelDebug
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(wait)): //nolint:gosec // jitter
		}
	}
	return nil
}

// listen hands on notifications until the connection fails. It reports whether
// there was one.
func (db *database) listen(ctx context.Context) (listened bool, err error) {
	conn, err := pgx.ConnectConfig(ctx, db.listener)
	if err != nil {
		return false, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveBound)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	if err := bounded(ctx, pingBound, func(ctx context.Context) error {
		_, err := conn.Exec(ctx, "listen "+channel+"; listen "+inquiries)
		return err
	}); err != nil {
		return false, err
	}
	db.log.InfoContext(ctx, "listening for commits")
	for _, on := range []string{channel, inquiries} { // for what was missed before
		db.wake(on)
	}
	for {
		on, err := db.await(ctx, conn)
		if err != nil {
			return true, err
		}
		db.wake(on)
	}
}

// await returns the channel on which a notification came. A connection that is silent
// may be dead, and is asked.
func (db *database) await(ctx context.Context, conn *pgx.Conn) (on string, err error) {
	for {
		err := bounded(ctx, db.silence, func(ctx context.Context) error {
			n, err := conn.WaitForNotification(ctx)
			if err == nil {
				on = n.Channel
			}
			return err
		})
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return on, err
		}
		if err := bounded(ctx, pingBound, conn.Ping); err != nil {
			return "", err
		}
	}
}

// Changed implements storage.Resources. Nothing is received before Run.
func (db *database) Changed(ctx context.Context) <-chan struct{} { return db.notified(ctx, channel) }

// notified returns a channel that receives after notifications, until ctx ends.
func (db *database) notified(ctx context.Context, on string) <-chan struct{} {
	c := make(chan struct{}, 1)
	db.mu.Lock()
	db.waiting[c] = on
	db.mu.Unlock()
	context.AfterFunc(ctx, func() {
		db.mu.Lock()
		defer db.mu.Unlock()
		delete(db.waiting, c)
		close(c)
	})
	return c
}

// wake leaves a token in each channel for these notifications that holds none.
func (db *database) wake(on string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for c, waits := range db.waiting {
		if waits != on {
			continue
		}
		select {
		case c <- struct{}{}:
		default:
		}
	}
}
