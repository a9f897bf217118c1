package intake_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/controlplane/intake"
	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/identity"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	replicav1 "github.com/sallyport/sallyport/proto/gen/sallyport/replica/v1"
	"github.com/sallyport/sallyport/storage"
)

const (
	near, far       = "edge near", "edge far"
	one, two        = identity.ID("spiffe://prod.example/edge/one"), identity.ID("spiffe://prod.example/edge/two")
	proxy           = storage.ProxyID("spiffe://prod.example/proxy/1#i")
	within          = 10 * time.Second
	shorter, longer = time.Second, time.Minute
)

// told is what came of a question.
type told struct {
	said *proxyv1.Inspection
	by   identity.ID
	err  error
}

// ask asks near for what proxy has.
func ask(t *testing.T, q *intake.Questions, what *proxyv1.Inspect) <-chan told {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	t.Cleanup(cancel)
	done := make(chan told, 1)
	go func() {
		m, by, err := q.Inspect(ctx, near, proxy, what)
		done <- told{m, by, err}
	}()
	synctest.Wait()
	return done
}

// poll returns what an edge is asked within a time.
func poll(t *testing.T, q *intake.Questions, edge string, by identity.ID, within time.Duration) []*replicav1.Question {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	got, err := q.Poll(ctx, nil, edge, by)
	if err != nil {
		t.Error(err)
	}
	return got
}

// A question goes once, to the edge that it is for, and who was asked is who answers.
func TestQuestionsAreAnsweredByWhoWasAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := intake.NewQuestions()
		came := ask(t, q, &proxyv1.Inspect{Buckets: []uint32{7}, Security: true})
		if got := poll(t, q, far, two, shorter); len(got) != 0 {
			t.Errorf("another edge is asked %v", got)
		}
		got := poll(t, q, near, one, shorter)
		if len(got) != 1 || got[0].GetProxy() != string(proxy) || !slices.Equal(got[0].GetInspect().GetBuckets(), []uint32{7}) || !got[0].GetInspect().GetSecurity() {
			t.Fatalf("it is asked %v", got)
		}
		if again := poll(t, q, near, one, shorter); len(again) != 0 {
			t.Errorf("it is asked again: %v", again)
		}
		id := got[0].GetId()
		for by, id := range map[identity.ID]string{two: id, one: id + "A", "": id} {
			if q.Answered(id, by, &proxyv1.Inspection{Revision: 9}) {
				t.Errorf("%q answers %q", by, id)
			}
		}
		if !q.Answered(id, one, &proxyv1.Inspection{Revision: 7}) {
			t.Error("who was asked does not answer")
		}
		if q.Answered(id, one, &proxyv1.Inspection{Revision: 8}) {
			t.Error("it answers twice")
		}
		if a := <-came; a.err != nil || a.by != one || a.said.GetRevision() != 7 {
			t.Errorf("the answer is %+v", a)
		}
	})
}

// Who waits for a question gets it at once, and nobody can answer one that he was not
// given.
func TestQuestionsComeToWhoWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := intake.NewQuestions()
		began := time.Now()
		given := make(chan []*replicav1.Question, 1)
		go func() { given <- poll(t, q, near, one, longer) }()
		synctest.Wait()
		came := ask(t, q, nil)
		got := <-given
		if len(got) != 1 || time.Since(began) > 0 {
			t.Fatalf("after %s it is asked %v", time.Since(began), got)
		}
		if !q.Answered(got[0].GetId(), one, nil) {
			t.Error("it cannot say that the proxy is elsewhere")
		}
		if a := <-came; !errors.Is(a.err, registry.ErrElsewhere) {
			t.Errorf("the answer is %+v", a)
		}
	})
}

// Nobody waits for ever: not for an answer, and not for a question.
func TestQuestionsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := intake.NewQuestions()
		came := ask(t, q, nil)
		got := poll(t, q, near, one, shorter)
		if a := <-came; !errors.Is(a.err, context.DeadlineExceeded) {
			t.Errorf("without an answer: %+v", a)
		}
		if len(got) != 1 || q.Answered(got[0].GetId(), one, nil) {
			t.Errorf("somebody waits for %v", got)
		}
		if left := poll(t, q, near, one, shorter); len(left) != 0 {
			t.Errorf("left is %v", left)
		}
		stop := make(chan struct{})
		began := time.Now()
		time.AfterFunc(shorter, func() { close(stop) })
		if got, err := q.Poll(t.Context(), stop, near, one); len(got) != 0 || err != nil || time.Since(began) != shorter {
			t.Errorf("after %s: %v, %v", time.Since(began), got, err)
		}
	})
}

// An edge is here while it polls, and a moment longer.
func TestEdgesAreHereWhileTheyPoll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := intake.NewQuestions()
		is := func(when string, want ...string) {
			t.Helper()
			if got := slices.Sorted(slices.Values(q.Here())); !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", when, got, want)
			}
		}
		is("at first")
		go poll(t, q, near, one, longer)
		poll(t, q, far, two, shorter)
		is("when one waits, and one has", far, near)
		<-time.After(intake.AbsentAfter + time.Millisecond)
		is("a while later", near)
		<-time.After(longer)
		is("when none waits for long")
	})
}

// There are no more questions, and no more polls, than there is room for.
func TestQuestionsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := intake.NewQuestions()
		for range intake.MaxQuestions {
			ask(t, q, nil)
		}
		if a := <-ask(t, q, nil); a.err == nil || errors.Is(a.err, context.DeadlineExceeded) {
			t.Errorf("one too many: %+v", a)
		}
		for range intake.MaxPolls {
			go poll(t, q, far, two, longer)
		}
		synctest.Wait()
		if _, err := q.Poll(t.Context(), nil, near, one); err == nil {
			t.Error("one poll too many")
		}
		<-time.After(longer)
		synctest.Wait() // those that waited have ended
		if got := poll(t, q, near, one, shorter); len(got) != 0 {
			t.Errorf("left is %v", got)
		}
	})
}
