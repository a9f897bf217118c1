package publish

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/storage"
)

const (
	// alarmAfter is how often in a row publishing fails before someone has to look.
	alarmAfter = 5
	// surveyWithin is how long a term waits at its beginning, for targets that do not
	// answer, before it publishes to those that do.
	surveyWithin = time.Second
)

// trouble is how often in a row something has failed, and how the last time.
type trouble struct {
	failures int
	last     string
}

// add takes the next failure. It returns whether that is news, and whether someone
// has to look.
func (t *trouble) add(err error) (news, alarm bool) {
	t.failures++
	news = t.failures == alarmAfter || t.last != err.Error()
	t.last = err.Error()
	return news, t.failures >= alarmAfter
}

// over forgets it, and reports whether there was any.
func (t *trouble) over() bool {
	was := t.failures > 0
	*t = trouble{}
	return was
}

// settle keeps count of an environment's trouble, unless it ends the term. It
// says so when it is news, and again, for someone to act, when it does not end.
func settle(ctx context.Context, log *slog.Logger, environment string, t *trouble, err error) error {
	if err == nil {
		if t.over() {
			log.InfoContext(ctx, "environment is published again", "environment", environment)
		}
		return nil
	}
	if ends(ctx, err) {
		return err
	}
	level := slog.LevelWarn
	news, alarm := t.add(err)
	if alarm {
		level = slog.LevelError
	}
	if news {
		log.Log(ctx, level, "environment was not published", "environment", environment, "err", err)
	}
	return nil
}

// note is the same for the target itself. Nothing more is published there before it
// was looked at again.
func (o *outlet) note(ctx context.Context, err error) {
	if err == nil {
		if o.trouble.over() {
			o.log.InfoContext(ctx, "target is published to again", "lane", o.lane())
		}
		return
	}
	o.compared = false
	level := slog.LevelWarn
	news, alarm := o.trouble.add(err)
	if alarm {
		level = slog.LevelError
	}
	if news {
		o.log.Log(ctx, level, "target cannot be published to", "lane", o.lane(), "err", err)
	}
}

// report is what the database was told last of what is wrong; nil before the first
// time in a term.
type report struct{ told *string }

// tell has the database know what is wrong, for whoever asks any replica: nothing when
// that is empty.
func (r *report) tell(ctx context.Context, t *tenure, target, wrong string) error {
	if r.told != nil && *r.told == wrong {
		return nil
	}
	if err := t.store.Report(ctx, t.term, storage.Trouble{Target: target, Lane: t.lane(), Error: wrong}); err != nil {
		return fmt.Errorf("record what is wrong: %w", err)
	}
	r.told = &wrong
	return nil
}

// worst names one environment that is in trouble, and how many others are; empty
// without any.
func worst[E any](all map[string]E, of func(E) trouble) string {
	var names []string
	for name, e := range all {
		if of(e).failures > 0 {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	text := fmt.Sprintf("environment %s: %s", names[0], of(all[names[0]]).last)
	if more := len(names) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

// retry is a timer for the next try: each time later than before, until one is
// not needed.
type retry struct {
	*time.Timer
	wait, longest time.Duration
}

func newRetry(longest time.Duration) *retry {
	return &retry{Timer: time.NewTimer(longest), wait: shortestWait, longest: longest}
}

// after sets the timer if something has failed.
func (r *retry) after(failed bool) {
	if !failed {
		r.wait = shortestWait
		return
	}
	r.wait = min(2*r.wait, r.longest)
	r.Reset(r.wait)
}

// failure holds the first of several errors. It is safe for concurrent use.
type failure struct {
	mu  sync.Mutex
	err error
}

func (f *failure) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

func (f *failure) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// survey is the look at every target that goes before what a term publishes first:
// what any of them has may show that the database was set back.
type survey struct {
	left atomic.Int64 // outlets that have not looked yet
	done chan struct{}
}

func newSurvey(outlets int) *survey {
	s := &survey{done: make(chan struct{})}
	s.left.Store(int64(outlets))
	return s
}

// pass says that one more has looked, or could not.
func (s *survey) pass() {
	if s.left.Add(-1) == 0 {
		close(s.done)
	}
}

// await returns when all have looked, or after a while: who is away holds up no other
// for longer.
func (s *survey) await(ctx context.Context, while time.Duration) error {
	select {
	case <-s.done:
		return nil
	default:
	}
	select {
	case <-s.done:
		return nil
	case <-time.After(while):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
