// Package slots bounds how many connections an upstream has at once, and has requests
// wait for one in line: without connections, so that all of it can be tried out.
package slots

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
)

// ErrFull says that the line is as long as it may be.
var ErrFull = errors.New("too many requests wait for a connection")

// Slots are the connections that there may be. The zero value has any number. It is safe
// for concurrent use.
type Slots struct {
	// limited and waiting are what most callers want to know.
	limited atomic.Bool
	waiting atomic.Int64

	mu    sync.Mutex
	most  int // slots; any number when zero
	room  int // in the line
	taken int
	line  []*Waiter // the one that came first first
}

// Waiter is a request that waits for a connection to an endpoint. Leave has to be called.
type Waiter struct {
	slots *Slots
	of    any
	woken chan struct{} // has one when it should look
}

// Limit says how many slots there are from now on, any number when zero, and how many may
// wait for one. Those that are taken stay so.
func (s *Slots) Limit(most, room int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.most, s.room = most, room
	s.limited.Store(most > 0)
	for range s.line {
		s.wake(nil)
	}
}

// Limited reports whether there is a limit.
func (s *Slots) Limited() bool { return s.limited.Load() }

// Busy reports whether somebody waits, whom others should not get ahead of.
func (s *Slots) Busy() bool { return s.waiting.Load() > 0 }

// Take takes a slot, which Return gives back, and reports whether there was one that
// nobody waits for.
func (s *Slots) Take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.line) == 0 && s.take()
}

// take is for who has its turn. mu is held.
func (s *Slots) take() bool {
	if s.most > 0 && s.taken >= s.most {
		return false
	}
	s.taken++
	return true
}

// Return gives a slot back.
func (s *Slots) Return() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken--
	s.wake(nil)
}

// Offer tells that a connection to an endpoint has become free.
func (s *Slots) Offer(of any) {
	if !s.Busy() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wake(of)
}

// Rouse has all look that wait for a connection to an endpoint.
func (s *Slots) Rouse(of any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.line {
		if w.of == of {
			w.wake()
		}
	}
}

// wake has one look, who waits for a connection to an endpoint rather than to others. mu
// is held.
func (s *Slots) wake(of any) {
	for _, w := range s.line {
		if of != nil && w.of == of && w.wake() {
			return
		}
	}
	for _, w := range s.line {
		if w.wake() {
			return
		}
	}
}

// wake reports whether it had not been told before.
func (w *Waiter) wake() bool {
	select {
	case w.woken <- struct{}{}:
		return true
	default:
		return false
	}
}

// Join stands in line for a connection to an endpoint, unless that is too long (ErrFull).
// Who is alone in it is told to look at once; for others there would be nothing that
// those before them have not been told of.
func (s *Slots) Join(of any) (*Waiter, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.line) >= s.room {
		return nil, ErrFull
	}
	w := &Waiter{slots: s, of: of, woken: make(chan struct{}, 1)}
	if len(s.line) == 0 {
		w.wake()
	}
	s.line = append(s.line, w)
	s.waiting.Add(1)
	return w, nil
}

// Take is Slots.Take for who is in line.
func (w *Waiter) Take() bool {
	w.slots.mu.Lock()
	defer w.slots.mu.Unlock()
	return w.slots.take()
}

// Wait returns when there may be something, or the cause of the end of ctx.
func (w *Waiter) Wait(ctx context.Context) error {
	select {
	case <-w.woken:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Leave leaves the line. What it was told of and did not take is for the next.
func (w *Waiter) Leave() {
	s := w.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.line, w)
	if i < 0 {
		return
	}
	s.line = slices.Delete(s.line, i, i+1)
	s.waiting.Add(-1)
	if !w.wake() || s.most == 0 || s.taken < s.most {
		s.wake(w.of)
	}
}
