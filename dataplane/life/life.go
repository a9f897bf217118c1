// Package life has contexts that cost little: for each request there is one, and
// there are two who want to be told of its end.
package life

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Life is a context that ends when End is called, and has neither a deadline nor
// values. Its Err is the cause that End was given, and so is its context.Cause. It is
// what context.WithCancelCause returns, without a tree, and without what that
// allocates for each of those who want to be told of the end.
//
// The zero value has not ended. A Life is safe for concurrent use, and must not be
// copied.
type Life struct {
	mu    sync.Mutex
	done  chan struct{} // nil until somebody asks
	cause error
	told  []Watcher // of the end
	heard bool      // somebody was told, on a goroutine that may still run

	first [2]Watcher // room for told
}

// Cause is why a Life ends, in words. It is a context.Canceled for those who ask.
type Cause string

// Error returns the words.
func (c Cause) Error() string { return string(c) }

// Is reports whether target is context.Canceled.
func (Cause) Is(target error) bool { return target == context.Canceled }

// Deadline implements context.Context.
func (*Life) Deadline() (deadline time.Time, ok bool) { return time.Time{}, false }

// Value implements context.Context. There is none: above all not that by which
// package context would find the cause of another.
func (*Life) Value(any) any { return nil }

// Done implements context.Context.
func (l *Life) Done() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		l.done = make(chan struct{})
		if l.cause != nil {
			close(l.done)
		}
	}
	return l.done
}

// Err implements context.Context, and is the cause.
func (l *Life) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

// Watcher wants to be told of an end.
type Watcher interface {
	// Gone is called at the end, on a goroutine of its own.
	Gone()
}

// Watch is how long a Watcher waits for an end. The zero Watch is over.
type Watch struct {
	of   *Life
	by   Watcher
	stop func() bool // of another context
}

// Tell has w told of the end of ctx, unless the Watch is stopped before. With a Life it
// costs no memory.
func Tell(ctx context.Context, w Watcher) Watch {
	l, ok := ctx.(*Life)
	if !ok {
		return Watch{stop: context.AfterFunc(ctx, w.Gone)}
	}
	l.tell(w)
	return Watch{of: l, by: w}
}

// Stop reports whether the Watcher will not be told, and is not told by itself.
func (w *Watch) Stop() bool {
	switch {
	case w.of != nil:
		return w.of.forget(w.by)
	case w.stop != nil:
		return w.stop()
	}
	return false
}

func (l *Life) tell(w Watcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause != nil {
		l.heard = true
		go w.Gone()
		return
	}
	if l.told == nil {
		l.told = l.first[:0]
	}
	l.told = append(l.told, w)
}

// forget reports whether w will not be told.
func (l *Life) forget(w Watcher) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.told, w)
	if i >= 0 {
		l.told = slices.Delete(l.told, i, i+1)
	}
	return i >= 0
}

// call is a Watcher that is a function.
type call struct{ f func() }

func (c *call) Gone() { c.f() }

// AfterFunc has f called on a goroutine of its own at the end, unless stop is called
// before and returns true. Package context looks for it.
func (l *Life) AfterFunc(f func()) (stop func() bool) {
	w := Tell(l, &call{f})
	return w.Stop
}

// End ends l because of cause, which is not nil, unless it has ended.
func (l *Life) End(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause != nil {
		return
	}
	l.cause = cause
	if l.done != nil {
		close(l.done)
	}
	for _, w := range l.told {
		l.heard = true
		go w.Gone()
	}
	l.told = nil
}

// Alone reports whether nobody waits for the end, or has learned of it but by asking:
// Done was never called, and each Watch was stopped in time.
func (l *Life) Alone() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done == nil && len(l.told) == 0 && !l.heard
}
