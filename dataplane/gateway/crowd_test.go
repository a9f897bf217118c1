package gateway_test

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/dataplane/gateway"
)

// queued has a crowd have so many more requests, and returns what tells how many have begun.
func queued(ctx context.Context, c *gateway.Crowd, n int) *atomic.Int64 {
	var begun atomic.Int64
	for range n {
		go func() {
			if c.Enter(ctx) {
				begun.Add(1)
			}
		}()
		synctest.Wait() // so that they come one after another
	}
	return &begun
}

// Of many requests of a connection that has had no answers a few begin at once, and the
// others one after another.
func TestCrowdsBeginOneAfterAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gateway.Crowds(time.Millisecond)()
		begun := queued(t.Context(), c, 100)
		const atOnce = gateway.FirstAtOnce + 1 // nobody has begun of late
		for _, after := range []struct {
			wait time.Duration
			want int64
		}{{0, atOnce}, {time.Millisecond, atOnce + 1}, {9 * time.Millisecond, atOnce + 10}, {time.Second, 100}} {
			<-time.After(after.wait)
			synctest.Wait()
			if n := begun.Load(); n != after.want {
				t.Errorf("%d have begun after %s more, want %d", n, after.wait, after.want)
			}
		}
	})
}

// Answers that are complete make room for those that wait, and for one more at once each.
func TestCrowdsThatAreAnsweredBeginAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gateway.Crowds(time.Hour)()
		begun := queued(t.Context(), c, 3*gateway.FirstAtOnce)
		for range gateway.FirstAtOnce {
			c.Leave(true)
		}
		synctest.Wait()
		if n := begun.Load(); n != 3*gateway.FirstAtOnce {
			t.Errorf("%d have begun", n)
		}
		c.Leave(false)
		c.Leave(false)
		if n := queued(t.Context(), c, 3).Load(); n != 2 {
			t.Errorf("%d have begun behind two answers that were not complete", n)
		}
	})
}

// Who gives up while it waits keeps no place, and nobody else from theirs.
func TestCrowdsAreLeftWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gateway.Crowds(time.Second)()
		queued(t.Context(), c, gateway.FirstAtOnce+1)
		ctx, giveUp := context.WithCancel(t.Context())
		gone := queued(ctx, c, 50)
		begun := queued(t.Context(), c, 1)
		giveUp()
		synctest.Wait()
		<-time.After(time.Second)
		synctest.Wait()
		if gone.Load() != 0 || begun.Load() != 1 {
			t.Errorf("%d have begun that had gone, and %d others", gone.Load(), begun.Load())
		}
	})
}

// A large crowd does not keep a small one waiting for its end.
func TestCrowdsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := gateway.Crowds(time.Second)
		large := queued(t.Context(), next(), 200)
		small := queued(t.Context(), next(), gateway.FirstAtOnce+3)
		<-time.After(6 * time.Second)
		synctest.Wait()
		if small.Load() != gateway.FirstAtOnce+3 || large.Load() > 20 {
			t.Errorf("of the small crowd %d have begun, of the large one %d", small.Load(), large.Load())
		}
		<-time.After(time.Hour)
	})
}

// Over a connection whose answers do not come requests begin one after another, and all
// of them do.
func TestManyRequestsOfOneConnection(t *testing.T) {
	const n = 100
	w := newWorld(t, options{})
	var came atomic.Int64
	all := make(chan struct{})
	w.apply(w.usual(w.upstreams(func(http.ResponseWriter, *http.Request) {
		switch came.Add(1) {
		case 1: // it makes the connection
			return
		case 1 + n:
			close(all)
		}
		<-all
	})["HTTP/1.1"]))
	c := w.client(true, w.tls(host))
	ask := func() {
		res, err := c.Do(w.request(t.Context(), http.MethodGet, nil))
		if err != nil {
			t.Error(err)
			return
		}
		w.read(res)
	}
	ask() // one more may begin at once
	began := time.Now()
	var asking sync.WaitGroup
	for range n {
		asking.Go(ask)
	}
	<-all
	if took, least := time.Since(began), (n-gateway.FirstAtOnce-2)*w.gateway.BeginEvery(); took < least {
		t.Errorf("all have begun within %s, sooner than %s", took, least)
	}
	asking.Wait()
	w.settle()
}
