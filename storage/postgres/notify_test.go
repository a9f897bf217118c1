package postgres_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/snapshot"
)

// receive receives within a time that nothing takes.
func receive(t testing.TB, changed <-chan struct{}) {
	t.Helper()
	select {
	case _, ok := <-changed:
		if !ok {
			t.Fatal("the channel was closed")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was received")
	}
}

// follow waits until a reader who reads when told to has seen the revision.
func follow(t *testing.T, f fleet, changed <-chan struct{}, to snapshot.Revision) {
	t.Helper()
	for {
		p, err := f.Position(t.Context())
		if err == nil && p.Revision >= to {
			return
		}
		receive(t, changed)
	}
}

func TestChanged(t *testing.T) {
	t.Parallel()
	f := open(t)
	other := fleet{connect(t, f.dsn), f.dsn}
	changed := listen(t, f.Store)
	for i := range 50 {
		writer := []fleet{f, other}[i%2]
		c := writer.apply(t, put(fmt.Sprintf("Policy/shop/p%d", i), "all", "p"))
		follow(t, f, changed, c.Revision)
	}
}

// A reader that is busy misses commits, and hears of the last.
func TestChangedIsALevel(t *testing.T) {
	t.Parallel()
	f := open(t)
	quick := listen(t, f.Store)
	busy := f.Changed(t.Context())
	for i := range 50 {
		c := f.apply(t, put(fmt.Sprintf("Policy/shop/p%d", i), "all", "p"))
		follow(t, f, quick, c.Revision)
	}
	receive(t, busy)
	if p, err := f.Position(t.Context()); err != nil || p.Revision != 50 {
		t.Errorf("the fleet is at %d (%v)", p.Revision, err)
	}
}

func TestChangedEndsWithItsContext(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := f.Changed(ctx)
	other := listen(t, f.Store)
	cancel()
	for open := true; open; { // at most one token is left
		select {
		case _, open = <-ended:
		case <-time.After(10 * time.Second):
			t.Fatal("the channel was not closed")
		}
	}
	f.apply(t, environment("aws"))
	receive(t, other)
}

// Close is not held up by listening.
func TestCloseWhileListening(t *testing.T) {
	t.Parallel()
	f := open(t)
	changed := listen(t, f.Store)
	f.Close()
	fleet{connect(t, f.dsn), f.dsn}.apply(t, environment("aws"))
	receive(t, changed)
}

// After its connection was cut the store listens again, and says so.
func TestChangedAfterCut(t *testing.T) {
	t.Parallel()
	f := open(t)
	changed := listen(t, f.Store)
	for range 3 {
		cutOff(t, f.dsn)
		receive(t, changed)
	}
	c := fleet{connect(t, f.dsn), f.dsn}.apply(t, environment("aws"))
	follow(t, f, changed, c.Revision)
}

// A connection that carries nothing any more, and does not say so, is noticed.
func TestChangedAfterSilence(t *testing.T) {
	t.Parallel()
	f := open(t)
	w := newWire(t, f.dsn)
	deaf := connect(t, w.dsn())
	deaf.SetSilence(50 * time.Millisecond)
	changed := listen(t, deaf)
	w.swallow()
	f.apply(t, environment("aws"))
	receive(t, changed)
	c := f.apply(t, environment("gcp"))
	follow(t, f, changed, c.Revision)
}
