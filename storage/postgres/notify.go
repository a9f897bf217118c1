package postgres

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

// listenFor is how long the listening connection is trusted without a word
// from the server.
const listenFor = 30 * time.Second

// Changed implements storage.Resources.
func (s *Store) Changed(ctx context.Context) <-chan struct{} {
	c := make(chan struct{}, 1)
	s.mu.Lock()
	s.subscribers[c] = struct{}{}
	s.mu.Unlock()
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.subscribers, c)
		close(c)
	})
	return c
}

func (s *Store) notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.subscribers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Run listens for commits until ctx ends. It outlives every failure of the
// database.
func (s *Store) Run(ctx context.Context) error {
	const longest = 2 * time.Second
	wait := 50 * time.Millisecond
	for ctx.Err() == nil {
		listened, err := s.listenOnce(ctx)
		if ctx.Err() != nil {
			break
		}
		s.log.WarnContext(ctx, "listening to the database ended", "err", err)
		if wait = min(2*wait, longest); listened {
			wait = 50 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(wait)): //nolint:gosec // jitter
		}
	}
	return nil
}

func (s *Store) listenOnce(ctx context.Context) (listened bool, err error) {
	conn, err := pgx.ConnectConfig(ctx, s.listen.Copy())
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // it is given up either way
	if _, err := conn.Exec(ctx, "listen "+channel); err != nil {
		return false, err
	}
	s.notify() // what was committed meanwhile was not heard of
	for {
		if err := s.hear(ctx, conn); err != nil {
			return true, err
		}
	}
}

// hear waits for a notification, and asks the server whether it is still there
// when none comes.
func (s *Store) hear(ctx context.Context, conn *pgx.Conn) error {
	waiting, cancel := context.WithTimeout(ctx, listenFor)
	defer cancel()
	_, err := conn.WaitForNotification(waiting)
	switch {
	case err == nil:
		s.notify()
		return nil
	case ctx.Err() != nil || waiting.Err() == nil:
		return err
	}
	pinging, pinged := context.WithTimeout(ctx, connectTimeout)
	defer pinged()
	return conn.Ping(pinging)
}
