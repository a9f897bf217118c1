package controlplane

import (
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// letInPerProcessor is how many connections of proxies are let in per second and
	// processor. A handshake and what follows it take about 2 ms: half of the time is
	// left for the proxies that are there.
	letInPerProcessor = 250
	// waitAtMost is how long a connection waits to be let in. Who has waited for
	// longer may have given up, and a handshake with it would be for nothing.
	waitAtMost = 3 * time.Second
)

// turnstile lets connections in at a bounded pace: when a replica has died, all of
// its proxies come at once to another, and the proxies that this one has need it as
// well. Those who would have to wait for too long are closed, at once, for nearly
// nothing; they come again after a random while, or ask another replica.
type turnstile struct {
	net.Listener
	interval time.Duration // between two
	refused  prometheus.Counter

	waiting chan arrival
	closed  chan struct{}
	close   func()
	err     error // of the listener; set before closed is

	// due belongs to Accept: when the next one may be let in.
	due time.Time
}

// arrival is a connection that waits.
type arrival struct {
	net.Conn
	since time.Time
}

// newTurnstile lets in so many connections of ln per second, as many at once as in a
// second after a quiet time.
func newTurnstile(ln net.Listener, perSecond int, refused prometheus.Counter) *turnstile {
	t := &turnstile{
		Listener: ln, interval: time.Second / time.Duration(perSecond), refused: refused,
		waiting: make(chan arrival, perSecond*int(waitAtMost/time.Second)),
		closed:  make(chan struct{}),
	}
	t.close = sync.OnceFunc(func() { close(t.closed) })
	go t.gather()
	return t
}

// gather takes connections as they come, until the listener is closed.
func (t *turnstile) gather() {
	defer t.close()
	for {
		conn, err := t.Listener.Accept()
		if err != nil {
			t.err = err
			return
		}
		select {
		case t.waiting <- arrival{conn, time.Now()}:
		default:
			t.refuse(conn)
		}
	}
}

func (t *turnstile) refuse(conn net.Conn) {
	t.refused.Inc()
	_ = conn.Close() // there is nobody to tell
}

// Accept implements net.Listener.
func (t *turnstile) Accept() (net.Conn, error) {
	for {
		select {
		case <-t.closed:
			t.clear()
			return nil, t.err
		case a := <-t.waiting:
			if t.isClosed() {
				_ = a.Close() // there is nobody to tell
				continue
			}
			if time.Since(a.since) > waitAtMost {
				t.refuse(a.Conn)
				continue
			}
			t.pace()
			return a.Conn, nil
		}
	}
}

func (t *turnstile) isClosed() bool {
	select {
	case <-t.closed:
		return true
	default:
		return false
	}
}

// pace waits until another one may be let in.
func (t *turnstile) pace() {
	now := time.Now()
	if quiet := now.Add(-time.Second); t.due.Before(quiet) {
		t.due = quiet
	}
	if t.due = t.due.Add(t.interval); t.due.After(now) {
		<-time.After(t.due.Sub(now)) // a few milliseconds: the end may wait for it
	}
}

// clear closes what still waits.
func (t *turnstile) clear() {
	for {
		select {
		case a := <-t.waiting:
			_ = a.Close() // there is nobody to tell
		default:
			return
		}
	}
}
