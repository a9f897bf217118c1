package life_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/sallyport/sallyport/dataplane/life"
)

const why = life.Cause("nobody waits for it")

func TestLifeIsAContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l life.Life
		child, cancel := context.WithCancel(&l)
		defer cancel()
		early := l.Done()
		if l.Err() != nil || child.Err() != nil {
			t.Fatal("it has ended before its end")
		}
		l.End(why)
		l.End(life.Cause("too late"))
		synctest.Wait()
		for name, ctx := range map[string]context.Context{"itself": &l, "a child": child, "with a value": context.WithValue(&l, key{}, 1)} {
			<-ctx.Done()
			if cause := context.Cause(ctx); !errors.Is(cause, why) || !errors.Is(ctx.Err(), context.Canceled) {
				t.Errorf("%s ended because of %v, with %v", name, cause, ctx.Err())
			}
		}
		<-early
	})
}

type key struct{}

// What a Life is made within is not its cause.
func TestLifeHasNoValues(t *testing.T) {
	var l life.Life
	if l.Value(key{}) != nil {
		t.Error("it has a value")
	}
	if _, ok := l.Deadline(); ok {
		t.Error("it has a deadline")
	}
}

func TestAfter(t *testing.T) {
	of := map[string]func() (context.Context, func()){
		"a Life": func() (context.Context, func()) {
			l := &life.Life{}
			return l, func() { l.End(why) }
		},
		"another context": func() (context.Context, func()) {
			return context.WithCancel(context.Background()) //nolint:usetesting // the test's is of no bubble
		},
	}
	for name, begin := range of {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, end := begin()
				var called [5]int
				var stops [5]func() bool
				for i := range 4 {
					stops[i] = life.After(ctx, func() { called[i]++ })
				}
				if !stops[1]() || stops[1]() {
					t.Error("the first stop is not the one that stops")
				}
				end()
				stops[4] = life.After(ctx, func() { called[4]++ })
				synctest.Wait()
				if called != [5]int{1, 0, 1, 1, 1} {
					t.Errorf("called %v", called)
				}
				for i, stop := range stops {
					if stop() {
						t.Errorf("%d was stopped after the end", i)
					}
				}
			})
		})
	}
}

func BenchmarkLife(b *testing.B) {
	nothing := func() {}
	b.Run("this", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var l life.Life
			a, c := life.After(&l, nothing), life.After(&l, nothing)
			a()
			c()
			l.End(why)
		}
	})
	b.Run("context", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			ctx, cancel := context.WithCancelCause(b.Context())
			a, c := context.AfterFunc(ctx, nothing), context.AfterFunc(ctx, nothing)
			a()
			c()
			cancel(why)
		}
	})
}
