package overload_test

import (
	"bytes"
	"context"
	"log/slog"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/dataplane/overload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const target = 100 * time.Millisecond

// server does a second's work in a second, first come, first served. Whether work is
// refused is said when its turn has come. Somebody stands in the line, as a Guard does.
type server struct {
	control *overload.Control
	offered float64 // of what there is time for
	refusal float64 // what refusing costs, of what serving does

	now          time.Duration
	queue        []work
	since, stood time.Duration
	looked       time.Duration
}

// work is what came in a moment, or who stands in line.
type work struct {
	came  time.Duration
	left  float64 // in seconds
	guard bool
}

func (s *server) delay() time.Duration { return max(s.stood, s.now-s.since) }

// run lets time pass, and returns how much was let through of what there was time for,
// and for how long what was let through had waited at most.
func (s *server) run(d time.Duration) (served float64, longest time.Duration) {
	const moment = time.Millisecond
	for until := s.now + d; s.now < until; {
		s.now += moment
		s.queue = append(s.queue, work{came: s.now, left: s.offered * moment.Seconds()})
		if s.since == s.now {
			s.queue = append(s.queue, work{came: s.now, guard: true})
		}
		for left := moment.Seconds(); left > 1e-9 && len(s.queue) > 0; {
			w := &s.queue[0]
			if w.guard {
				s.look()
			} else {
				share := s.control.Share(s.delay())
				cost := 1 - share + share*s.refusal
				done := min(w.left, left/cost)
				left -= done * cost
				w.left -= done
				served += done * (1 - share)
				if share < 0.9 {
					longest = max(longest, s.now-w.came)
				}
			}
			if w.guard || w.left < 1e-9 {
				s.queue = s.queue[1:]
			}
		}
	}
	return served / d.Seconds(), longest
}

// look is what a Guard does when its turn has come.
func (s *server) look() {
	s.stood = s.now - s.since
	s.control.Step(s.delay(), s.now-s.looked)
	s.looked, s.since = s.now, s.now+20*time.Millisecond
}

// What is let through of too much is most of what there is time for, and it does not wait.
func TestGoodputStays(t *testing.T) {
	for _, c := range []struct{ offered, refusal float64 }{
		{0.5, 0.05}, {0.99, 0.05}, {1.1, 0.05}, {1.5, 0.05}, {3, 0.05}, {10, 0.04}, {1.5, 0.25}, {3, 0.25},
	} {
		s := server{control: overload.NewControl(target), offered: c.offered, refusal: c.refusal, since: time.Millisecond}
		s.run(10 * time.Second) // it has come to rest
		served, longest := s.run(10 * time.Second)
		possible := min(c.offered, 1, (1-c.offered*c.refusal)/(1-c.refusal))
		if served < 0.97*possible || longest > 3*target {
			t.Errorf("of %.2f with refusals at %.2f, %.2f of %.2f are served, after up to %v", c.offered, c.refusal, served, possible, longest)
		}
		s.offered = 0.5
		s.run(4 * time.Second)
		if share := s.control.Share(s.delay()); share != 0 {
			t.Errorf("of %.2f: four seconds after it %.2f are refused", c.offered, share)
		}
	}
}

func TestWhatIsNoOverload(t *testing.T) {
	for name, delays := range map[string][]time.Duration{
		"a process that is busy":     {90 * time.Millisecond, 99 * time.Millisecond, 95 * time.Millisecond, 99 * time.Millisecond, 99 * time.Millisecond},
		"one long pause":             {0, 30 * time.Second, 0, 30 * time.Second, 99 * time.Millisecond},
		"what has come in a pause":   {0, 2 * time.Second, 120 * time.Millisecond, 0, 0},
		"pauses":                     {0, 2 * time.Second, 0, 0, 2 * time.Second, 0, 0, 2 * time.Second},
		"the first that can be seen": {time.Second},
	} {
		c := overload.NewControl(target)
		for i, d := range delays {
			c.Step(d, 20*time.Millisecond+d)
			if share := c.Share(d); share != 0 {
				t.Errorf("%s: after %v, number %d, %.3f are refused", name, d, i, share)
			}
		}
	}
}

func TestGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var delay atomic.Int64
		var said bytes.Buffer
		metrics := prometheus.NewRegistry()
		g, err := overload.New(overload.Config{
			Log: slog.New(slog.NewTextHandler(&said, nil)), Registerer: metrics, Delay: func() time.Duration { return time.Duration(delay.Load()) },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := g.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		refused := func() (n int) {
			for range 10_000 {
				if g.Refuses() {
					n++
				}
			}
			return n
		}
		wait := func(d time.Duration) {
			<-time.After(d)
			synctest.Wait()
		}
		if wait(time.Second); refused() != 0 {
			t.Error("requests are refused while there is no load")
		}
		delay.Store(int64(2 * target))
		if wait(3 * time.Second); refused() < 5_000 {
			t.Errorf("%d of 10,000 are refused", refused())
		}
		if shown, n := gauge(t, metrics, "sallyport_overload_share"), refused(); math.Abs(shown-float64(n)/10_000) > 0.05 {
			t.Errorf("shown are %.3f, and %d of 10,000 are refused", shown, n)
		}
		if d := gauge(t, metrics, "sallyport_scheduling_delay_seconds"); d != 0.2 {
			t.Errorf("the delay is shown as %v", d)
		}
		delay.Store(0)
		if wait(5 * time.Second); refused() != 0 {
			t.Errorf("%d are refused after it", refused())
		}
		delay.Store(int64(2 * target))
		wait(3 * time.Second)
		cancel()
		running.Wait()
		if refused() != 0 {
			t.Error("who is not looked after is refused")
		}
		if text := said.String(); strings.Count(text, "overloaded and refuses requests") != 2 || strings.Count(text, "not overloaded any more") != 1 {
			t.Errorf("the log is\n%s", text)
		}
	})
	synctest.Test(t, testHold)
	if (*overload.Guard)(nil).Refuses() {
		t.Error("a guard that is none refuses")
	}
	if _, err := overload.New(overload.Config{}); err == nil {
		t.Error("a guard without a logger is made")
	}
}

// Who is refused waits a while to be told, unless very many do.
func testHold(t *testing.T) {
	g, err := overload.New(overload.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	var waiting sync.WaitGroup
	for range 10_000 {
		waiting.Go(func() {
			g.Hold()
			if d := time.Since(began); d < 500*time.Millisecond || d > time.Second {
				t.Errorf("one has waited for %v", d)
			}
		})
	}
	synctest.Wait()
	if g.Hold(); time.Since(began) > 0 {
		t.Errorf("one more has waited for %v", time.Since(began))
	}
	waiting.Wait()
	again := time.Now()
	if g.Hold(); time.Since(again) == 0 {
		t.Error("nobody waits any more")
	}
}

func gauge(t *testing.T, r *prometheus.Registry, name string) float64 {
	t.Helper()
	all, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

// A Guard waits as those do who have something to do.
func TestStandingInLine(t *testing.T) {
	g, err := overload.New(overload.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running, crowd sync.WaitGroup
	running.Go(func() {
		if err := g.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	var longest atomic.Int64
	for range 200 * runtime.GOMAXPROCS(0) {
		crowd.Go(func() {
			for until := time.Now().Add(5 * time.Millisecond); time.Now().Before(until); {
			}
			longest.Store(max(longest.Load(), int64(g.Delay())))
		})
	}
	crowd.Wait()
	if d := time.Duration(longest.Load()); d < 2*target {
		t.Errorf("while hundreds are busy it has waited for %v", d)
	}
	cancel()
	running.Wait()
}

func BenchmarkRefuses(b *testing.B) {
	g, err := overload.New(overload.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		g.Refuses()
	}
}
