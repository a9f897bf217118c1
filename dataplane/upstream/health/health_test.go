package health_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sallyport/sallyport/dataplane/upstream/health"
)

// usual is checked by whether it can be connected to.
var usual = health.Check{Kind: health.TCP, Interval: 10 * time.Second, Timeout: 2 * time.Second, Healthy: 2, Fail: 3}

// place is an endpoint in a bubble of synctest, and what was told of it.
type place struct {
	away     atomic.Bool  // it refuses
	ours     atomic.Bool  // it is not asked
	silent   atomic.Bool  // it does not answer at all
	asked    atomic.Int64 // how often
	waiting  atomic.Int64 // how many wait
	together atomic.Int64 // how many waited at once, at most
	told     strings.Builder
}

func (p *place) connect(ctx context.Context, _ ...string) (net.Conn, error) {
	p.asked.Add(1)
	if p.silent.Load() {
		p.together.Store(max(p.together.Load(), p.waiting.Add(1)))
		<-ctx.Done()
		p.waiting.Add(-1)
		return nil, ctx.Err()
	}
	if p.ours.Load() {
		return nil, fmt.Errorf("%w: we have no identity", health.ErrNotAsked)
	}
	if p.away.Load() {
		return nil, errors.New("refused")
	}
	here, there := net.Pipe()
	_ = there.Close()
	return here, nil
}

// take returns what was told: + for healthy, - for unhealthy.
func (p *place) take() string {
	defer p.told.Reset()
	return p.told.String()
}

// watch watches p in the bubble of the test.
func (p *place) watch(t *testing.T, by *health.Prober, c health.Check) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		by.Watch(ctx, c, health.Endpoint{Upstream: "shop/orders", Address: "192.0.2.1:443", Connect: p.connect}, func(healthy bool) {
			p.told.WriteByte(map[bool]byte{true: '+', false: '-'}[healthy])
		})
	}()
	stop = func() {
		cancel()
		<-ended
	}
	t.Cleanup(stop)
	return stop
}

func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // of testing/synctest
	synctest.Wait()
}

func TestThresholds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		by := newProber(t, health.Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
		var p place
		p.watch(t, by, usual)
		round := func(about string, away bool, checks int, want string) {
			t.Helper()
			p.away.Store(away)
			for range checks {
				before := p.asked.Load()
				for p.asked.Load() == before {
					pass(100 * time.Millisecond)
				}
			}
			if got := p.take(); got != want {
				t.Errorf("%s: %s, want %s", about, got, want)
			}
		}
		round("well at first", false, 2, "++")
		round("two failures", true, 2, "++")
		round("an answer between", false, 1, "+")
		round("three failures", true, 3, "++-")
		round("one answer", false, 1, "-")
		round("a failure between", true, 1, "-")
		round("two answers", false, 2, "-+")
		p.ours.Store(true)
		round("reasons of ours", true, 10, "")
		p.ours.Store(false)
		text := log.String()
		if ill, well := strings.Count(text, "endpoint is unhealthy"), strings.Count(text, "endpoint is healthy"); ill != 1 || well != 1 {
			t.Errorf("logged %d and %d times:\n%s", ill, well, text)
		}
	})
}

// The first check alone decides, and comes within a second.
func TestFirstCheck(t *testing.T) {
	for _, away := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			var p place
			p.away.Store(away)
			p.watch(t, newProber(t, health.Config{Log: slog.New(slog.NewTextHandler(&log, nil))}), usual)
			pass(time.Second + time.Millisecond)
			if got := p.take(); got != map[bool]string{true: "-", false: "+"}[away] {
				t.Errorf("away %v: told %q", away, got)
			}
			if said := log.Len() > 0; said != away {
				t.Errorf("away %v: logged %q", away, log.String())
			}
		})
	}
}

func TestHowOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		by := newProber(t, health.Config{Registerer: registry})
		var p place
		stop := p.watch(t, by, usual)
		pass(time.Hour)
		if n := p.asked.Load(); n < 324 || n > 400 {
			t.Errorf("asked %d times in an hour, want about 360", n)
		}
		stop()
		asked := p.asked.Load()
		pass(time.Hour)
		if n := p.asked.Load(); n != asked {
			t.Errorf("asked %d times more after its end", n-asked)
		}
		if n, err := testutil.GatherAndCount(registry, "sallyport_upstream_checks_total"); err != nil || n != 2 {
			t.Errorf("%d results, %v", n, err)
		}
	})
}

// Endpoints that do not answer take the time of a check each, so many at once and no
// more, and who is watched no more waits for none of it.
func TestManyThatAreSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		by := newProber(t, health.Config{})
		var all place
		all.silent.Store(true)
		stops := make([]func(), 200)
		for i := range stops {
			one := usual
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				by.Watch(ctx, one, health.Endpoint{Connect: all.connect}, func(bool) {})
			}()
			stops[i] = func() { cancel(); <-ended }
		}
		pass(time.Minute)
		if n := all.together.Load(); n != 64 {
			t.Errorf("%d were asked at once, want 64", n)
		}
		if n := all.asked.Load(); n < 600 {
			t.Errorf("%d checks in a minute: some had no turn", n)
		}
		before := time.Now()
		for _, stop := range stops {
			stop()
		}
		if took := time.Since(before); took != 0 {
			t.Errorf("it took %v to stop", took)
		}
	})
}

func TestNewNeedsALogger(t *testing.T) {
	if _, err := health.New(health.Config{}); err == nil {
		t.Error("it has none")
	}
}
