package redis_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/dataplane/limit/redis"
	"github.com/sallyport/sallyport/internal/quota"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func rate(t testing.TB, requests uint32, period time.Duration, burst uint32) quota.Rate {
	t.Helper()
	r, err := quota.NewRate(requests, period, burst)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// store is a running one of a proxy.
func store(t testing.TB, address, instance string) *redis.Store {
	t.Helper()
	return running(t, redis.Config{
		Address: address, Instance: instance, Log: slog.New(slog.DiscardHandler),
		Password: func() (string, error) { return password, nil }, Timeout: time.Second,
	})
}

// until waits for something that the server brings about.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

func answers(s *redis.Store) func() bool {
	return func() bool {
		_, ok := s.Take(context.Background(), "probe", quota.Rate{Interval: time.Second, Tolerance: time.Second}, 0)
		return ok
	}
}

// The script counts as the kernel does.
func TestScriptCountsAsWeDo(t *testing.T) {
	s := store(t, newServer(t).address, "a")
	until(t, "no answer", answers(s))
	rate := rate(t, 3, time.Hour, 3)
	for i, c := range []struct {
		cost      int64
		allowed   bool
		remaining int64
	}{
		{1, true, 2}, {0, true, 2}, {3, false, 2}, {2, true, 0}, {1, false, 0}, {0, true, 0}, {-7, true, 0}, {1 << 60, false, 0},
	} {
		o, ok := s.Take(t.Context(), "k", rate, c.cost)
		if !ok || o.Allowed != c.allowed || o.Remaining != c.remaining {
			t.Fatalf("%d: %+v %v, want %+v", i, o, ok, c)
		}
		if !o.Allowed && c.cost == 1 && (o.Retry < 19*time.Minute || o.Retry > 20*time.Minute) {
			t.Errorf("to be tried again after %s", o.Retry)
		}
	}
	if o, ok := s.Take(t.Context(), "other", rate, 3); !ok || !o.Allowed {
		t.Errorf("another key: %+v", o)
	}
	s.Give("k", rate, 3)
	if o, ok := s.Take(t.Context(), "k", rate, 3); !ok || !o.Allowed {
		t.Errorf("given back: %+v", o)
	}
}

// Proxies that share a server are counted, and those that have left are not.
func TestProxiesAreCounted(t *testing.T) {
	server := newServer(t)
	a := store(t, server.address, "a")
	t.Run("two", func(t *testing.T) {
		b := store(t, server.address, "b")
		until(t, "there are not two", func() bool { return a.Proxies() == 2 && b.Proxies() == 2 })
	})
	until(t, "one is still counted", func() bool { return a.Proxies() == 1 })
}

// A server that hangs lets nobody wait for long, and one that is back is asked.
func TestServerThatHangs(t *testing.T) {
	server := newServer(t)
	s := store(t, server.address, "a")
	until(t, "no answer", answers(s))
	if err := server.process.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	rate, began := rate(t, 1, time.Second, 1), time.Now()
	for range 1000 {
		if _, ok := s.Take(t.Context(), "k", rate, 1); ok {
			t.Fatal("a server that stands still has answered")
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("a thousand requests waited for %s", took)
	}
	if err := server.process.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	until(t, "it is not asked again", answers(s))
}

// A server that has forgotten everything, scripts too, is asked again when it is back.
func TestServerThatIsKilled(t *testing.T) {
	server := newServer(t)
	s := store(t, server.address, "a")
	until(t, "no answer", answers(s))
	server.kill()
	until(t, "a dead server answers", func() bool { return !answers(s)() })
	if s.Proxies() != 1 {
		t.Errorf("%d proxies were there last", s.Proxies())
	}
	server.start()
	until(t, "it is not asked again", answers(s))
}

// Answers belong to their questions, however many are asked at once.
func TestManyAtOnce(t *testing.T) {
	s := store(t, newServer(t).address, "a")
	until(t, "no answer", answers(s))
	rate := rate(t, 1, time.Hour, 100)
	var wg sync.WaitGroup
	var allowed, missed atomic.Int64
	for range 16 {
		wg.Go(func() {
			for range 50 {
				o, ok := s.Take(t.Context(), "k", rate, 1)
				if o.Allowed {
					allowed.Add(1)
				}
				if !ok {
					missed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if allowed.Load()+missed.Load() < 100 || allowed.Load() > 100 {
		t.Errorf("%d were let through, %d had no answer", allowed.Load(), missed.Load())
	}
}

// What is no answer ends the connection, and memory stays bounded.
func TestServersThatAreNone(t *testing.T) {
	for _, says := range []string{
		"HTTP/1.1 400 Bad Request\r\n\r\n", "*1000000\r\n", "$1000000000\r\n", "-NOAUTH\r\n", "+OK\n", "\r\n", ":1", "*1\r\n*1\r\n:1\r\n", "",
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		asked := make(chan struct{}, 100)
		go func() {
			for {
				conn, err := ln.Accept()
				if errors.Is(err, net.ErrClosed) {
					return
				}
				_, _ = conn.Read(make([]byte, 1024))
				_, _ = conn.Write([]byte(says))
				_ = conn.Close()
				asked <- struct{}{}
			}
		}()
		s := store(t, ln.Addr().String(), "a")
		<-asked
		<-asked // tried again
		if answers(s)() {
			t.Errorf("%q is taken for an answer", says)
		}
		_ = ln.Close()
	}
}
