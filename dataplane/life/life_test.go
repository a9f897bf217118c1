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

// once counts how often it is told.
type once struct{ times int }

func (o *once) Gone() { o.times++ }

func TestWatchers(t *testing.T) {
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
				var told [5]once
				var watches [6]life.Watch // of which the last is nobody's
				for i := range 4 {
					watches[i] = life.Tell(ctx, &told[i])
				}
				if !watches[1].Stop() || watches[1].Stop() {
					t.Error("the first stop is not the one that stops")
				}
				end()
				watches[4] = life.Tell(ctx, &told[4])
				synctest.Wait()
				if told != [5]once{{1}, {0}, {1}, {1}, {1}} {
					t.Errorf("told %v", told)
				}
				for i := range watches {
					if watches[i].Stop() {
						t.Errorf("%d was stopped after the end", i)
					}
				}
			})
		})
	}
}

// Who might still act on the end of a life must not find another one in its place.
func TestAlone(t *testing.T) {
	for name, c := range map[string]struct {
		live func(l *life.Life)
		want bool
	}{
		"nobody has asked":        {func(*life.Life) {}, true},
		"it has ended":            {func(l *life.Life) { l.End(why) }, true},
		"a watch was stopped":     {func(l *life.Life) { w := life.Tell(l, &once{}); w.Stop(); l.End(why) }, true},
		"somebody watches":        {func(l *life.Life) { life.Tell(l, &once{}) }, false},
		"somebody was told":       {func(l *life.Life) { life.Tell(l, &once{}); l.End(why) }, false},
		"somebody came too late":  {func(l *life.Life) { l.End(why); life.Tell(l, &once{}) }, false},
		"somebody waits":          {func(l *life.Life) { l.Done() }, false},
		"there was a child":       {func(l *life.Life) { _, cancel := context.WithCancel(l); cancel() }, false},
		"only the cause was read": {func(l *life.Life) { _, _ = l.Err(), context.Cause(l) }, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			var l life.Life
			c.live(&l)
			if l.Alone() != c.want {
				t.Errorf("%s: it is alone: %t", name, !c.want)
			}
		})
	}
}

func BenchmarkLife(b *testing.B) {
	var a, c once
	b.Run("this", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var l life.Life
			first, second := life.Tell(&l, &a), life.Tell(&l, &c)
			first.Stop()
			second.Stop()
			l.End(why)
		}
	})
	b.Run("context", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			ctx, cancel := context.WithCancelCause(b.Context())
			first, second := context.AfterFunc(ctx, a.Gone), context.AfterFunc(ctx, c.Gone)
			first()
			second()
			cancel(why)
		}
	})
}
