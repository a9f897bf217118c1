package gateway_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// mortal is an endpoint that can be ended, with all of its connections, and come back.
type mortal struct {
	t       *testing.T
	address string
	handler http.HandlerFunc
	server  *http.Server
}

func newMortal(t *testing.T, handler http.HandlerFunc) *mortal {
	t.Helper()
	m := &mortal{t: t, address: "127.0.0.1:0", handler: handler}
	m.start()
	t.Cleanup(m.kill)
	return m
}

func (m *mortal) start() {
	m.t.Helper()
	ln, err := net.Listen("tcp", m.address)
	if err != nil {
		m.t.Fatal(err)
	}
	m.address = ln.Addr().String()
	m.server = &http.Server{Handler: m.handler, ReadHeaderTimeout: time.Minute}
	go func(s *http.Server) { _ = s.Serve(ln) }(m.server)
}

func (m *mortal) kill() { _ = m.server.Close() }

// One of two endpoints goes away under load and comes back, again and again. Who reads
// notices nothing. Who writes is told so when an order may have been lost, and each that
// was confirmed was taken, once.
func TestEndpointsThatComeAndGo(t *testing.T) {
	w := newWorld(t, options{})
	var orders sync.Map
	take := func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		count, _ := orders.LoadOrStore(string(body), new(atomic.Int64))
		count.(*atomic.Int64).Add(1)
		rw.WriteHeader(http.StatusOK)
	}
	victim, other := newMortal(t, take), newMortal(t, take)
	w.apply(w.usual(plaintext(victim.address, other.address)))
	c := w.client(true, w.tls(host))
	var stop atomic.Bool
	var read, confirmed, lost atomic.Int64
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for n := 0; !stop.Load(); n++ {
				if res, _ := w.ask(c, "GET", "/v1/orders", nil); res.StatusCode != http.StatusOK {
					t.Errorf("GET: %d", res.StatusCode)
				}
				read.Add(1)
				order := fmt.Sprint("order ", worker, " ", n)
				res, _ := w.ask(c, "POST", "/v1/orders", strings.NewReader(order))
				count, _ := orders.Load(order)
				switch {
				case res.StatusCode != http.StatusOK:
					lost.Add(1)
				case count == nil || count.(*atomic.Int64).Load() != 1:
					t.Errorf("%s was confirmed, and taken %v times", order, count)
				default:
					confirmed.Add(1)
				}
			}
		})
	}
	for range 5 {
		more := func(count *atomic.Int64) func() bool {
			from := count.Load()
			return func() bool { return count.Load() > from+50 }
		}
		until(t, "requests to both", more(&read))
		victim.kill()
		until(t, "requests to the other", more(&confirmed))
		victim.start()
		w.set(func() { w.ahead += 31 * time.Second }) // it is asked again
	}
	stop.Store(true)
	all.Wait()
	t.Logf("%d were answered, %d confirmed, %d lost", read.Load(), confirmed.Load(), lost.Load())
	if lost.Load() > 8*5*3 { // connections end one by one
		t.Errorf("%d orders were lost: more than were under way", lost.Load())
	}
}
