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
	calls []*func() // for the end

	first [2]*func() // room for calls
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

// AfterFunc has f called on a goroutine of its own at the end, unless stop is called
// before and returns true. Package context looks for it.
func (l *Life) AfterFunc(f func()) (stop func() bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause != nil {
		go f()
		return func() bool { return false }
	}
	if l.calls == nil {
		l.calls = l.first[:0]
	}
	call := &f
	l.calls = append(l.calls, call)
	return func() bool { return l.forget(call) }
}

// forget reports whether call will not be called.
func (l *Life) forget(call *func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.calls, call)
	if i >= 0 {
		l.calls = slices.Delete(l.calls, i, i+1)
	}
	return i >= 0
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
	for _, call := range l.calls {
		go (*call)()
	}
	l.calls = nil
}

// After is context.AfterFunc, and asks contexts that have a cheaper one for theirs.
func After(ctx context.Context, f func()) (stop func() bool) {
	if c, ok := ctx.(interface{ AfterFunc(f func()) func() bool }); ok {
		return c.AfterFunc(f)
	}
	return context.AfterFunc(ctx, f)
}
