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

// While a client has yet to take what it was sent, a few of its requests may be under way,
// and none is added, whose answer could not be sent either. Nor is any left behind.
func TestCrowdsWaitForTheirClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var full atomic.Bool
		c := gateway.Untaken(0).Crowd(time.Second, full.Load)
		full.Store(true)
		begun := queued(t.Context(), c, 100)
		expect := func(when string, want int64) {
			t.Helper()
			if synctest.Wait(); begun.Load() != want {
				t.Errorf("%s: %d have begun, want %d", when, begun.Load(), want)
			}
		}
		<-time.After(time.Hour)
		expect("an hour without", gateway.FirstAtOnce)
		c.Taken() // but there is more that it was sent
		expect("one write later", gateway.FirstAtOnce)
		full.Store(false)
		c.Taken()
		expect("when it has taken all", gateway.FirstAtOnce+2) // nobody has begun of late
		<-time.After(10 * time.Second)
		expect("ten turns later", gateway.FirstAtOnce+12)
		full.Store(true)
		c.Leave(true)
		c.Leave(true)
		expect("when two are answered, and the rest not taken", gateway.FirstAtOnce+12)
		<-time.After(time.Hour)
		full.Store(false)
		c.Taken()
		<-time.After(time.Hour)
		expect("in the end", 100)
	})
}

// Who has answers lying about that nobody takes begins less and less, over however many
// connections, but for the first requests of each. Others are not concerned.
func TestCrowdsOfWhoTakesNoAnswers(t *testing.T) {
	taken := func() bool { return false }
	for _, c := range []struct {
		untaken       int64
		atOnce, later int64 // of each of four connections; and all in a second
	}{
		{gateway.FirstAtOnce, gateway.FirstAtOnce + 1, 4 * 100},
		{2 * gateway.FirstAtOnce, gateway.FirstAtOnce, 1000 / 8},
		{1000, gateway.FirstAtOnce, 1000 / 50},
		{1024, 1, 1000 / 50},
	} {
		synctest.Test(t, func(t *testing.T) {
			home := gateway.Untaken(c.untaken)
			var all []*atomic.Int64
			begun := func() (n int64) {
				for _, some := range all {
					n += some.Load()
				}
				return n
			}
			for range 4 {
				all = append(all, queued(t.Context(), home.Crowd(time.Nanosecond, taken), 200))
			}
			if at, want := begun(), 4*c.atOnce; at < want || at > want+4 {
				t.Errorf("with %d that are not taken %d have begun at once", c.untaken, at)
			}
			before := begun()
			<-time.After(time.Second)
			synctest.Wait()
			if later := begun() - before; later < c.later-8 || later > c.later+8 && c.later < 400 {
				t.Errorf("with %d that are not taken %d have begun within a second", c.untaken, later)
			}
			<-time.After(time.Hour)
			synctest.Wait()
			if n := begun(); n != 4*200 {
				t.Errorf("with %d that are not taken %d have begun in the end", c.untaken, n)
			}
		})
	}
}

// Requests of a client that reads nothing do not begin, but for a few, and do when it reads.
func TestManyRequestsOfWhoReadsNothing(t *testing.T) {
	const n, size = 200, 64 << 10
	w := newWorld(t, options{})
	var came atomic.Int64
	w.apply(w.everybody(w.upstreams(func(rw http.ResponseWriter, _ *http.Request) {
		came.Add(1)
		_, _ = rw.Write(make([]byte, size)) // a test tells whether it was read
	})["HTTP/1.1"]))
	conn := w.dial("h2")
	defer conn.Close()
	const window, most = "\x00\x04\x7f\xff\xff\xff", "\x7f\x00\x00\x00"
	says := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(frameSettings, 0, 0, window) + frame(frameSettings, 1, 0, "") + frame(frameUpdate, 0, 0, most)
	for i := range uint32(n) {
		says += frame(frameHeaders, endHeaders|endStream, 2*i+1, block(get2()...))
	}
	w.send(conn, says)
	for last := int64(-1); last <= 0 || last != came.Load(); { // until no more begin
		last = came.Load()
		<-time.After(200 * time.Millisecond)
	}
	if got := came.Load(); got == 0 || got > n/2 {
		t.Errorf("of %d requests %d have begun", n, got)
	}
	for read := 0; read < n*size; {
		kind, _, _, payload, err := next(conn)
		w.must(err)
		if kind == frameData {
			read += len(payload)
		}
	}
	if got := came.Load(); got != n {
		t.Errorf("of %d requests %d were answered", n, got)
	}
}

// Small answers to who has its windows closed are not taken for ones that have ended: they do
// not make room for more, and are complete when a window opens.
func TestSmallAnswersToClosedWindows(t *testing.T) {
	const n = 200
	w := newWorld(t, options{})
	var came atomic.Int64
	w.apply(w.everybody(w.upstreams(func(rw http.ResponseWriter, _ *http.Request) {
		came.Add(1)
		_, _ = rw.Write(make([]byte, 1000)) // a test tells whether it was read
	})["HTTP/1.1"]))
	conn := w.dial("h2")
	defer conn.Close()
	initial := func(window string) string { return frame(frameSettings, 0, 0, "\x00\x04"+window) }
	says := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + initial("\x00\x00\x00\x00") + frame(frameSettings, 1, 0, "") + frame(frameUpdate, 0, 0, "\x7f\x00\x00\x00")
	for i := range uint32(n) {
		says += frame(frameHeaders, endHeaders|endStream, 2*i+1, block(get2()...))
	}
	w.send(conn, says)
	<-time.After(2 * n * w.gateway.BeginEvery()) // all would have been answered
	if got := came.Load(); got == 0 || got > n/2 {
		t.Errorf("of %d requests %d have begun", n, got)
	}
	w.send(conn, initial("\x00\x01\x00\x00"))
	for ended := 0; ended < n; {
		kind, flags, _, _, err := next(conn)
		w.must(err)
		if kind == frameReset {
			t.Fatal("an answer was reset")
		}
		if kind == frameData && flags&endStream != 0 {
			ended++
		}
	}
	w.settle()
}
