package stream

import (
	"sync"
	"time"
)

// alarm rings once something has taken too long. HTTP/2 has deadlines of its own, but
// setting one wakes the goroutine that owns the connection, twice for each message:
// of thousands of proxies that takes longer than sending them something.
type alarm struct {
	after time.Duration
	timer *time.Timer

	mu    sync.Mutex
	ring  func() error
	ended bool
}

// newAlarm returns an alarm that is not set. Its ring is called at most once for each
// time that it is set, and not after end has returned.
func newAlarm(after time.Duration, ring func() error) *alarm {
	a := &alarm{after: after, ring: ring}
	a.timer = time.AfterFunc(after, a.fire)
	a.timer.Stop()
	return a
}

func (a *alarm) fire() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.ended {
		_ = a.ring() // who is waited for learns of it, or has left
	}
}

// set has it ring unless it is set again, or stopped, in time.
func (a *alarm) set() { a.timer.Reset(a.after) }

func (a *alarm) stop() { a.timer.Stop() }

func (a *alarm) end() {
	a.timer.Stop()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
}
