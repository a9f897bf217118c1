package slots_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/sallyport/sallyport/dataplane/upstream/slots"
)

func limited(most, room int) *slots.Slots {
	s := &slots.Slots{}
	s.Limit(most, room)
	return s
}

// acquire returns with a slot.
func acquire(ctx context.Context, s *slots.Slots, of any) error {
	if s.Take() {
		return nil
	}
	w, err := s.Join(of)
	if err != nil {
		return err
	}
	defer w.Leave()
	for {
		if err := w.Wait(ctx); err != nil {
			return err
		}
		if w.Take() {
			return nil
		}
	}
}

func TestNoLimit(t *testing.T) {
	var s slots.Slots
	for range 10000 {
		if !s.Take() {
			t.Fatal("no slot")
		}
	}
	if s.Limited() || s.Busy() {
		t.Error("it is limited")
	}
}

// Slots go to those who wait in the order that they came in, and no more of them wait than
// may.
func TestLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := limited(2, 3)
		for i := range 3 {
			if s.Take() != (i < 2) {
				t.Fatal("there are not two slots")
			}
		}
		served := make(chan int, 3)
		for i := range 3 {
			go func() {
				if err := acquire(t.Context(), s, nil); err != nil {
					t.Error(err)
				}
				served <- i
			}()
			synctest.Wait()
		}
		if err := acquire(t.Context(), s, nil); !errors.Is(err, slots.ErrFull) {
			t.Errorf("a fourth that waits: %v", err)
		}
		for i := range 3 {
			s.Return()
			if s.Take() {
				t.Error("somebody got ahead")
			}
			if got := <-served; got != i {
				t.Errorf("number %d was served before %d", got, i)
			}
			synctest.Wait()
		}
		if s.Busy() || s.Take() {
			t.Error("there is a slot too many, or somebody waits still")
		}
		s.Return()
		if !s.Take() {
			t.Error("a slot was lost")
		}
	})
}

// Who gives up leaves what there is to the next.
func TestGivingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := limited(1, 10)
		s.Take()
		gaveUp := errors.New("gave up")
		ctx, cancel := context.WithCancelCause(t.Context())
		briefly := func(ctx context.Context, result chan<- error) {
			err := acquire(ctx, s, nil)
			if err == nil {
				s.Return()
			}
			result <- err
		}
		first, second := make(chan error, 1), make(chan error, 1)
		go briefly(ctx, first)
		synctest.Wait()
		go briefly(t.Context(), second)
		synctest.Wait()
		cancel(gaveUp)
		s.Return() // at the same time
		if err := <-first; err != nil && !errors.Is(err, gaveUp) {
			t.Error(err)
		}
		if err := <-second; err != nil || s.Busy() {
			t.Errorf("the second: %v", err)
		}
	})
}

// A connection that has become free is told of to who can use it as it is.
func TestOffer(t *testing.T) {
	s := limited(1, 10)
	s.Take()
	a, errA := s.Join("a")
	b, errB := s.Join("b")
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	if a.Wait(t.Context()) != nil || a.Take() {
		t.Error("who is alone was not told to look, or there is a slot too many")
	}
	ended, end := context.WithCancel(t.Context())
	end()
	s.Offer("b")
	if a.Wait(ended) == nil || b.Wait(t.Context()) != nil {
		t.Error("the first was told, and the second has use for it")
	}
	s.Offer("c")
	if a.Wait(t.Context()) != nil {
		t.Error("nobody was told of one that can be replaced")
	}
	s.Offer("a")
	a.Leave() // without having looked
	if b.Wait(t.Context()) != nil {
		t.Error("what was left was lost")
	}
	s.Rouse("b")
	if b.Wait(t.Context()) != nil {
		t.Error("not roused")
	}
	s.Limit(0, 0)
	if b.Wait(t.Context()) != nil || !b.Take() {
		t.Error("without a limit there is a slot")
	}
	b.Leave()
	b.Leave()
	if s.Busy() {
		t.Error("somebody waits still")
	}
}

// Whatever comes, never are more slots taken than there are, and none is lost.
func TestManyAtOnce(t *testing.T) {
	const most = 3
	s := limited(most, 1000)
	var now, over atomic.Int64
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			for n := range 200 {
				ctx, cancel := context.WithCancel(t.Context())
				if (i+n)%7 == 0 {
					cancel()
				}
				if acquire(ctx, s, i%4) == nil {
					if now.Add(1) > most {
						over.Add(1)
					}
					now.Add(-1)
					s.Return()
				}
				cancel()
			}
		})
	}
	all.Wait()
	if over.Load() > 0 || s.Busy() {
		t.Errorf("%d times there were too many", over.Load())
	}
	for i := range most + 1 {
		if s.Take() != (i < most) {
			t.Errorf("slot %d", i)
		}
	}
}
