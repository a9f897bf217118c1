package controlplane_test

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sallyport/sallyport/controlplane"
)

// arrivals is a listener whose connections the test makes.
type arrivals chan net.Conn

func (a arrivals) Accept() (net.Conn, error) {
	conn, ok := <-a
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (a arrivals) Close() error   { close(a); return nil }
func (a arrivals) Addr() net.Addr { return nil }

// come makes n connections arrive, and returns their other ends.
func (a arrivals) come(n int) (clients []net.Conn) {
	for range n {
		client, server := net.Pipe()
		a <- server
		clients = append(clients, client)
	}
	return clients
}

// A thousand proxies come at once: a hundred are let in, and a hundred with each
// second; who would wait for more than three is closed at once.
func TestProxiesAreLetInAtAPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := prometheus.NewCounter(prometheus.CounterOpts{Name: "refused"})
		queue := make(arrivals)
		stile := controlplane.NewTurnstile(queue, 100, refused)
		clients := queue.come(1000)
		synctest.Wait()
		if got := testutil.ToFloat64(refused); got != 700 {
			t.Errorf("%v were refused at once", got)
		}
		if _, err := clients[999].Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the last one: %v", err)
		}
		began := time.Now()
		for i := range 300 {
			if _, err := stile.Accept(); err != nil {
				t.Fatal(err)
			}
			if took, want := time.Since(began), time.Duration(max(0, i-99))*10*time.Millisecond; took != want {
				t.Fatalf("connection %d is let in after %s, not %s", i, took, want)
			}
		}

		// Who has waited for too long because nobody was let in is not either.
		queue.come(1)
		synctest.Wait()
		<-time.After(3*time.Second + time.Millisecond)
		late := queue.come(1)
		conn, err := stile.Accept()
		if err != nil || testutil.ToFloat64(refused) != 701 {
			t.Fatalf("%v, %v refused", err, testutil.ToFloat64(refused))
		}
		go func() { _, _ = conn.Write([]byte("x")) }()
		if _, err := late[0].Read(make([]byte, 1)); err != nil {
			t.Errorf("the one that has just come: %v", err)
		}

		// What still waits at the end is closed.
		waits := queue.come(1)
		synctest.Wait()
		_ = stile.Close()
		synctest.Wait()
		for err == nil {
			_, err = stile.Accept()
		}
		if _, err := waits[0].Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("what waited at the end: %v", err)
		}
	})
}
