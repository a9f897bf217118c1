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

// sharing is a proxy with a limit of 1,000 in a second, for the fleet, and how many
// requests it lets through while as many come as it can take.
func sharing(t testing.TB, address, instance string) (*redis.Store, func(time.Duration) int) {
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
	return store, func(long time.Duration) int {
		var allowed atomic.Int64
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
						<-time.After(200 * time.Microsecond) // the other proxy has a turn
						continue
					}
					allowed.Add(1)
				}
			})
		}
		asking.Wait()
		return int(allowed.Load())
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
	both := func(long time.Duration) (x, y int) {
		var asking sync.WaitGroup
		asking.Go(func() { x = a(long) })
		asking.Go(func() { y = b(long) })
		asking.Wait()
		return x, y
	}
	const long = 3 * time.Second
	near := func(got, want int) bool { return got > want*95/100 && got < want*105/100 }
	both(400 * time.Millisecond) // until the burst is used up
	x, y := both(long)
	t.Logf("figure fleet_limit_per_second %d", (x+y)/3)
	if !near(x+y, 3000) {
		t.Errorf("with the server: %d and %d in %s, want 3000 in all", x, y, long)
	}
	kill()
	both(400 * time.Millisecond) // until it is noticed
	x, y = both(long)
	t.Logf("figure fleet_limit_share_per_second %d %d", x/3, y/3)
	if !near(x, 1500) || !near(y, 1500) {
		t.Errorf("without it: %d and %d in %s, want 1500 each", x, y, long)
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
