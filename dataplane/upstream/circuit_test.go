package upstream_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/upstream"
)

// gauge counts the connections of servers that are open, and how many there were at most.
type gauge struct{ open, most, made atomic.Int64 }

func (g *gauge) watch(s *server) {
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			g.made.Add(1)
			if n := g.open.Add(1); n > g.most.Load() {
				g.most.Store(n)
			}
		case http.StateClosed, http.StateHijacked:
			g.open.Add(-1)
		case http.StateActive, http.StateIdle:
		}
	}
}

// busy serves requests that take a moment.
func (g *gauge) busy(t *testing.T) *server {
	t.Helper()
	s := newServer(t, "")
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-time.After(time.Millisecond)
		_, _ = io.WriteString(w, r.Proto)
	})
	g.watch(s)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// flood sends requests from some at a time, and returns what became of those that
// failed.
func flood(t *testing.T, u *upstream.Upstream, workers, each int) (failed []outcome) {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for range each {
				if o := ask(t.Context(), u, "POST", "an order", 0); o.status != 200 {
					mu.Lock()
					failed = append(failed, o)
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	return failed
}

// There are never more connections than there may be, and requests wait for them: for
// those to the same endpoint to become free, and for others to be closed.
func TestConnectionsAtOnce(t *testing.T) {
	for _, c := range []struct {
		endpoints, connections int
		remade                 bool
	}{{1, 1, false}, {1, 3, false}, {3, 2, true}, {2, 4, true}} {
		var g gauge
		spec := plaintext()
		for range c.endpoints {
			spec.Endpoints = append(spec.Endpoints, g.busy(t).address())
		}
		spec.Circuit.Connections = c.connections
		p, _ := observed(t, nil)
		if failed := flood(t, only(p, spec), 20, 20); len(failed) > 0 {
			t.Errorf("%+v: %d failed: %+v", c, len(failed), failed[0])
		}
		// A server notices the end of a connection when there may be another one already.
		if got := g.most.Load(); got > int64(2*c.connections) || !c.remade && got > int64(c.connections) {
			t.Errorf("%+v: %d connections at once", c, got)
		}
		if got := g.made.Load(); !c.remade && got != int64(c.connections) {
			t.Errorf("%+v: %d connections were made", c, got)
		}
	}
}

// Over HTTP/2 all that waited for the first connection share it.
func TestOneConnectionForAll(t *testing.T) {
	s := serve(t, "", &tls.Config{})
	spec := upstream.Spec{Namespace: "shop", Name: "orders", Endpoints: []string{s.address()}, TLS: &upstream.TLS{CAFile: caFile(t, s)}}
	spec.Circuit.Connections = 1
	p, _ := observed(t, nil)
	if failed := flood(t, only(p, spec), 20, 5); len(failed) > 0 {
		t.Errorf("%d failed: %+v", len(failed), failed[0])
	}
	if n := s.conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// The line is as long as it may be. Who gives up in it blames nobody, and leaves no gap.
func TestLineForConnections(t *testing.T) {
	release, entered := make(chan struct{}), make(chan struct{}, 10)
	s := serve(t, "", nil)
	s.Config.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-release
	})
	spec := plaintext(s.address())
	spec.Circuit = upstream.Circuit{Connections: 1, Pending: 1}
	spec.Ejection.After = 1
	p, registry := observed(t, nil)
	u := only(p, spec)
	first := make(chan outcome, 1)
	go func() { first <- ask(t.Context(), u, "GET", "", 0) }()
	<-entered

	ctx, cancel := context.WithCancelCause(t.Context())
	waiting := make(chan outcome, 1)
	go func() { waiting <- ask(ctx, u, "GET", "", 0) }()
	overflow := func() float64 { return counted(t, registry, "sallyport_upstream_overflow_total") }
	wait(t, "one that is too many", func() bool {
		select {
		case <-waiting: // the one below came first
			go func() { waiting <- ask(ctx, u, "GET", "", 0) }()
		default:
		}
		before := overflow()
		brief, end := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, errors.New("enough"))
		defer end()
		got := ask(brief, u, "GET", "", 0)
		return got.reason == "upstream_overloaded" && overflow() > before && brief.Err() == nil && len(waiting) == 0
	})
	cancel(upstream.ErrLate)
	if got := <-waiting; got.reason != "upstream_overloaded" {
		t.Errorf("who gave up: %+v", got)
	}
	if counted(t, registry, "sallyport_upstream_ejections_total") > 0 {
		t.Error("the endpoint was blamed for those who waited")
	}
	go func() { waiting <- ask(t.Context(), u, "GET", "", 0) }()
	close(release)
	if one, other := <-first, <-waiting; one.status != 200 || other.status != 200 {
		t.Errorf("got %+v and %+v", one, other)
	}
	if n := s.conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// A connection that rests gives way to one that has to be a new one, and a limit that
// is raised helps those who wait.
func TestConnectionsGiveWay(t *testing.T) {
	s := serve(t, "", nil)
	spec := plaintext(s.address())
	spec.Circuit.Connections = 1
	p, _ := observed(t, nil)
	u := only(p, spec)
	if got := ask(t.Context(), u, "GET", "", 0); got.status != 200 {
		t.Fatalf("got %+v", got)
	}
	r := (&http.Request{Method: "GET", Host: "a.example", URL: &url.URL{Opaque: "/"}, Header: http.Header{}}).WithContext(t.Context())
	var c upstream.Call
	defer c.End()
	res, err := u.Switch(r, &c)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	waiting := make(chan outcome, 1)
	go func() { waiting <- ask(t.Context(), u, "GET", "", 0) }()
	spec.Circuit.Connections = 2
	only(p, spec)
	if got := <-waiting; got.status != 200 {
		t.Errorf("with room for another one: %+v", got)
	}
}
