package postgres_test

import (
	"bytes"
	"context"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// wire lies between a store and its server, and fails as networks do.
type wire struct {
	address string
	server  string // path of the server's socket
	through string

	// Connections whose client said COMMIT are cut when the server answers.
	losesOutcome atomic.Bool

	mu    sync.Mutex
	links []*link
}

type link struct {
	client, server net.Conn
	swallowing     atomic.Bool
	committing     atomic.Bool
}

// newWire returns a wire to the server of a database.
func newWire(t testing.TB, dsn string) *wire {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{
		address: listener.Addr().String(),
		server:  filepath.Join(u.Query().Get("host"), ".s.PGSQL.5432"),
	}
	u.Host, u.RawQuery = w.address, "sslmode=disable"
	w.through = u.String()
	var done sync.WaitGroup
	done.Go(func() { w.accept(t.Context(), listener, &done) })
	t.Cleanup(func() {
		_ = listener.Close()
		w.cut()
		done.Wait()
	})
	return w
}

// dsn is that of the database behind the wire.
func (w *wire) dsn() string { return w.through }

func (w *wire) accept(ctx context.Context, listener net.Listener, done *sync.WaitGroup) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		server, err := new(net.Dialer).DialContext(ctx, "unix", w.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		l := &link{client: client, server: server}
		w.mu.Lock()
		w.links = append(w.links, l)
		w.mu.Unlock()
		done.Go(func() { w.requests(l) })
		done.Go(func() { w.answers(l) })
	}
}

func (w *wire) requests(l *link) {
	defer l.close()
	b := make([]byte, 1<<16)
	for {
		n, err := l.client.Read(b)
		if err != nil {
			return
		}
		if bytes.Contains(b[:n], []byte("Q\x00\x00\x00\x0bcommit\x00")) {
			l.committing.Store(true)
		}
		if l.swallowing.Load() {
			continue
		}
		if _, err := l.server.Write(b[:n]); err != nil {
			return
		}
	}
}

func (w *wire) answers(l *link) {
	defer l.close()
	b := make([]byte, 1<<16)
	for {
		n, err := l.server.Read(b)
		if err != nil || l.committing.Load() && w.losesOutcome.Load() {
			return
		}
		if l.swallowing.Load() {
			continue
		}
		if _, err := l.client.Write(b[:n]); err != nil {
			return
		}
	}
}

func (l *link) close() {
	_ = l.client.Close()
	_ = l.server.Close()
}

// cut breaks all connections.
func (w *wire) cut() {
	for _, l := range w.all() {
		l.close()
	}
}

// swallow has all connections that there are carry nothing any more, and tell
// nobody.
func (w *wire) swallow() {
	for _, l := range w.all() {
		l.swallowing.Store(true)
	}
}

func (w *wire) all() []*link {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*link(nil), w.links...)
}
