package redis

import (
	"bufio"
	"context"
	"crypto/sha1" //nolint:gosec // what the server calls its scripts by
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"
)

var (
	countSum    = sum(countScript)
	presenceSum = sum(presenceScript)
)

func sum(script string) string {
	h := sha1.Sum([]byte(script)) //nolint:gosec // as above
	return hex.EncodeToString(h[:])
}

// Run keeps a connection to the server until ctx ends, and returns nil then.
func (s *Store) Run(ctx context.Context) error {
	const first, longest = 50 * time.Millisecond, 2 * time.Second
	wait, failing := first, false
	for ctx.Err() == nil {
		began := time.Now()
		err := s.connect(ctx)
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) > longest {
			wait, failing = first, false
		}
		if !failing {
			s.log.WarnContext(ctx, "limit store is away and limits of the fleet are counted by shares", "address", s.config.Address, "err", err)
			failing = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(wait) + wait/2): //nolint:gosec // spreads load, hides nothing
		}
		wait = min(2*wait, longest)
	}
	return nil
}

// connect makes a connection and serves until it breaks.
func (s *Store) connect(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := s.dial(ctx)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer conn.Close()
	r := bufio.NewReaderSize(conn, maxText)
	if err := s.greet(conn, r); err != nil {
		return err
	}
	s.log.InfoContext(ctx, "limit store reached", "address", s.config.Address)
	return s.serve(ctx, cancel, conn, r)
}

func (s *Store) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.config.Address)
	if err != nil || s.config.TLS == nil {
		return conn, err
	}
	secured := tls.Client(conn, s.config.TLS)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secured, nil
}

// greet says who we are and what the server is to run.
func (s *Store) greet(conn net.Conn, r *bufio.Reader) error {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	commands := [][]string{{"SCRIPT", "LOAD", countScript}, {"SCRIPT", "LOAD", presenceScript}}
	if s.config.Password != nil {
		password, err := s.config.Password()
		if err != nil {
			return err
		}
		auth := []string{"AUTH", password}
		if s.config.Username != "" {
			auth = []string{"AUTH", s.config.Username, password}
		}
		commands = append([][]string{auth}, commands...)
	}
	for _, c := range commands {
		if _, err := conn.Write(command(nil, c...)); err != nil {
			return err
		}
		if _, err := answer(r); err != nil {
			return fmt.Errorf("%s: %w", c[0], err)
		}
	}
	return conn.SetDeadline(time.Time{})
}

// serve sends questions, as many at once as there are, and hands out the answers,
// which come in the same order.
func (s *Store) serve(ctx context.Context, cancel context.CancelFunc, conn net.Conn, r *bufio.Reader) error {
	sent := make(chan *ask, mostWaiting)
	var reading sync.WaitGroup
	var broken error
	reading.Go(func() {
		defer cancel()
		broken = s.read(conn, r, sent)
	})
	err := s.write(ctx, conn, sent)
	s.up.Store(false)
	_ = conn.Close() // whatever was wrong with it is in the errors
	close(sent)
	reading.Wait()
	for a := range sent {
		a.fail()
	}
	for {
		select {
		case a := <-s.asks:
			a.fail()
			continue
		default:
		}
		return errors.Join(broken, err)
	}
}

func (s *Store) write(ctx context.Context, conn net.Conn, sent chan<- *ask) error {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	var batch []byte
	add := func(a *ask) bool {
		select {
		case sent <- a:
			batch = append(batch, a.command...)
			return true
		default:
			a.fail()
			return false
		}
	}
	add(s.presence())
	for {
		for more := true; more && len(batch) < 64<<10; {
			select {
			case a := <-s.asks:
				more = add(a)
			default:
				more = false
			}
		}
		if err := conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := conn.Write(batch); err != nil {
			return err
		}
		batch = batch[:0]
		select {
		case <-ctx.Done():
			return ctx.Err()
		case a := <-s.asks:
			add(a)
		case <-tick.C:
			add(s.presence())
		}
	}
}

// presence says that we are here. Its answer is the first of a connection, and has
// the Store answer from then on.
func (s *Store) presence() *ask {
	return &ask{command: command(nil, "EVALSHA", presenceSum, "1", "sallyport:proxies", s.config.Instance, present)}
}

// read hands out answers until the connection ends. A question without done is
// presence.
func (s *Store) read(conn net.Conn, r *bufio.Reader, sent <-chan *ask) error {
	for a := range sent {
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			a.fail()
			return err
		}
		got, err := answer(r)
		if err != nil {
			a.fail()
			return err
		}
		if a.done != nil {
			a.done <- got
			continue
		}
		if len(got) != 1 {
			return errProtocol
		}
		if n, err := strconv.ParseInt(got[0], 10, 64); err == nil && n > 0 {
			s.proxies.Store(n)
		}
		s.up.Store(true)
	}
	return nil
}

// fail says that there is no answer.
func (a *ask) fail() {
	if a.done != nil {
		close(a.done)
	}
}
