//go:build chaos

package chaos_test

import (
	"net"
	"sync"
	"testing"
	"time"
)

// relay hands on what comes over TCP, each byte after a while. The kernel's way
// to do so (netem) is not in every kernel.
type relay struct {
	ln    net.Listener
	to    string
	delay time.Duration // in each direction

	mu       sync.Mutex
	accepted []time.Time
	open     []net.Conn
}

// startRelay listens on a port of an address until the test ends.
func startRelay(t *testing.T, address, to string, delay time.Duration) *relay {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort(address, "0"))
	must(t, err)
	r := &relay{ln: ln, to: to, delay: delay}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return // it is closed
			}
			running.Go(func() { r.pass(in) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		r.mu.Lock()
		for _, c := range r.open {
			_ = c.Close()
		}
		r.mu.Unlock()
		running.Wait()
	})
	return r
}

// pass hands on both ways until either side is closed.
func (r *relay) pass(in net.Conn) {
	defer in.Close()
	out, err := net.DialTimeout("tcp", r.to, time.Second)
	if err != nil {
		return
	}
	defer out.Close()
	r.mu.Lock()
	r.accepted, r.open = append(r.accepted, time.Now()), append(r.open, in, out)
	r.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { r.oneWay(out, in) })
	both.Go(func() { r.oneWay(in, out) })
	both.Wait()
}

// parcel is what has come, and when it goes on.
type parcel struct {
	data []byte
	due  time.Time
}

func (r *relay) oneWay(to, from net.Conn) {
	parcels := make(chan parcel, 1024)
	go func() {
		defer close(parcels)
		for {
			buffer := make([]byte, 32<<10)
			n, err := from.Read(buffer)
			if err != nil {
				return
			}
			parcels <- parcel{buffer[:n], time.Now().Add(r.delay)}
		}
	}()
	failed := false
	for p := range parcels {
		if failed {
			continue // until the reader ends, which it does when from is closed
		}
		<-time.After(time.Until(p.due))
		if _, err := to.Write(p.data); err != nil {
			failed = true
			_ = from.Close()
		}
	}
	_ = to.Close()
}

// busiest returns how many connections came in the second with the most.
func busiest(all []*relay) (most int) {
	seconds := map[int64]int{}
	for _, r := range all {
		r.mu.Lock()
		for _, at := range r.accepted {
			seconds[at.Unix()]++
		}
		r.mu.Unlock()
	}
	for _, n := range seconds {
		most = max(most, n)
	}
	return most
}
