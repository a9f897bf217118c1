package gateway_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/limit/redis"
	"github.com/sallyport/sallyport/internal/policy"
)

// redisServer is a real one, and how to kill it.
func redisServer(t testing.TB) (address string, kill func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = ln.Addr().String()
	_ = ln.Close()
	_, port, _ := net.SplitHostPort(address)
	server := exec.Command("redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", t.TempDir())
	if err := server.Start(); err != nil {
		t.Fatalf("%v: make test installs it", err)
	}
	kill = sync.OnceFunc(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	t.Cleanup(kill)
	return address, kill
}

// let is how many requests were let through in a time, and the longest that none was
// refused: while some are, what may be let through is.
type let struct {
	through int
	idle    time.Duration
}

// sharing is a proxy with a limit of 1,000 in a second, for the fleet, and how many
// requests it lets through while as many come as it can take.
func sharing(t testing.TB, address, instance string) (*redis.Store, func(time.Duration) let) {
	t.Helper()
	store, err := redis.New(redis.Config{Address: address, Instance: instance, Log: slog.New(slog.DiscardHandler), Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, options{limits: store})
	w.run(store.Run)
	w.apply(w.usual(plaintext(newEcho(t).address())) +
		rateLimit("fleet", "key: [{clientAddress: {}}], requests: 1000, period: 1s, burst: 200, scope: FLEET"))
	id := policy.RouteID{Namespace: "shop", Name: "orders"}
	return store, func(long time.Duration) let {
		var allowed, refused, idle atomic.Int64 // refused is when, since it began
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), long)
		defer cancel()
		var asking sync.WaitGroup
		for range 4 {
			count := w.gateway.ExhaustedNow(id, &policy.Input{
				Method: "GET", Host: host, Path: "/v1/orders", Route: id, Header: http.Header{}, ClientIP: netip.MustParseAddr("192.0.2.7"),
			})
			asking.Go(func() {
				for ctx.Err() == nil {
					if count() {
						now := int64(time.Since(began))
						if pause := now - refused.Swap(now); pause > idle.Load() {
							idle.Store(pause)
						}
						<-time.After(200 * time.Microsecond) // the other proxy has a turn
						continue
					}
					allowed.Add(1)
				}
			})
		}
		asking.Wait()
		return let{int(allowed.Load()), max(time.Duration(idle.Load()), time.Since(began)-time.Duration(refused.Load()))}
	}
}

// A limit of the fleet holds over two proxies. When the server is gone each has its
// share, and no more.
func TestLimitOfTheFleet(t *testing.T) {
	address, kill := redisServer(t)
	storeA, a := sharing(t, address, "a")
	storeB, b := sharing(t, address, "b")
	for deadline := time.Now().Add(20 * time.Second); storeA.Proxies() != 2 || storeB.Proxies() != 2; <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the proxies do not know of each other")
		}
	}
	// both asks both, at first until the burst is used up, and says in which time.
	both := func() (x, y let, took time.Duration) {
		for _, long := range []time.Duration{time.Second, 3 * time.Second} {
			began := time.Now()
			var asking sync.WaitGroup
			asking.Go(func() { x = a(long) })
			asking.Go(func() { y = b(long) })
			asking.Wait()
			took = time.Since(began)
		}
		return x, y, took
	}
	// near is never more than it should be, and only less where a machine is too slow to
	// ask for more than that all the time.
	near := func(took time.Duration, perSecond float64, all ...let) bool {
		through, idle := 0, time.Duration(0)
		for _, one := range all {
			through, idle = through+one.through, max(idle, one.idle)
		}
		want := perSecond * took.Seconds()
		return float64(through) < want*1.05 && (float64(through) > want*0.95 || idle > 100*time.Millisecond)
	}
	x, y, took := both()
	t.Logf("figure fleet_limit_per_second %.0f", float64(x.through+y.through)/took.Seconds())
	if !near(took, 1000, x, y) {
		t.Errorf("with the server: %+v and %+v in %s, want 1000 in a second in all", x, y, took)
	}
	kill()
	x, y, took = both()
	t.Logf("figure fleet_limit_share_per_second %.0f %.0f", float64(x.through)/took.Seconds(), float64(y.through)/took.Seconds())
	if !near(took, 500, x) || !near(took, 500, y) {
		t.Errorf("without it: %+v and %+v in %s, want 500 in a second each", x, y, took)
	}
}

// Without a store, or with one that never answered, a proxy has a small share.
func TestLimitOfTheFleetWithoutAStore(t *testing.T) {
	w, _ := limited(t, rateLimit("fleet", "requests: 20, period: 20s, scope: FLEET"))
	got := 0
	for range 5 {
		if res, _ := w.asked("ann", "GET"); res.StatusCode == http.StatusOK {
			got++
		}
	}
	if got != 2 {
		t.Errorf("%d of 20 were let through by one of a fleet of unknown size", got)
	}
}
