package stream_test

import (
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/controlplane/stream"
	"github.com/sallyport/sallyport/storage"
)

// Whom the replica would not let in any more, it does not go on serving.
func TestCertificatesAreLookedAtAgain(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(s *stream.Service) { s.RecheckEvery(20 * time.Millisecond) })
	l.publish(aws(t, 1, documents{"a": "1"}))
	p := l.connect(awsID, "i", nil)
	p.updated(1, nil)
	p.ack()
	l.publish(aws(t, 2, documents{"a": "2"}))
	p.updated(2, p.current)
	l.distrusted.Store(true)
	p.over(connect.CodePermissionDenied, "would not be taken any more")
}

// A proxy is asked to come with its next certificate before the one that it has
// expires, and goes on being served until it does.
func TestStreamsMoveToTheNextCertificate(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.publish(aws(t, 1, documents{"a": "1"}))
	began := time.Now()
	const life = 20 * time.Second
	p := l.stream(l.client(awsID, life), "i", nil)
	p.updated(1, nil)
	p.ack()
	for p.next().GetDirective().GetReconnect().GetWithin().AsDuration() <= 0 {
		continue // freshness
	}
	if took := time.Since(began); took < life/2 || took > life {
		t.Errorf("it is asked after %s", took)
	}
	l.publish(aws(t, 2, documents{"a": "2"}))
	p.updated(2, p.current)
}

// The more proxies a replica has, the longer they take to leave it.
func TestProxiesLeaveAtAPace(t *testing.T) {
	t.Parallel()
	for streams, want := range map[int]time.Duration{
		0: time.Second, 1: time.Second, 400: time.Second, 2000: 5 * time.Second, 5000: 12500 * time.Millisecond, 1_000_000: 30 * time.Second,
	} {
		if got := stream.MoveWithin(streams); got != want {
			t.Errorf("%d leave within %s, want %s", streams, got, want)
		}
	}
}

// A proxy that another replica is to have is asked to go, and is served until it does.
func TestProxyIsAskedToGoElsewhere(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.publish(aws(t, 1, documents{"a": "1"}))
	p := l.connect(awsID, "i", nil)
	p.updated(1, nil)
	p.ack()
	id := registry.ProxyID(string(awsID), "i")
	if asked := l.registry.Move(9, func(other storage.ProxyID) bool { return other != id }); len(asked) != 0 {
		t.Errorf("asked are %v, who may not be", asked)
	}
	asked := l.registry.Move(9, func(storage.ProxyID) bool { return true })
	if !slices.Equal(asked, []storage.ProxyID{id}) {
		t.Errorf("asked are %v", asked)
	}
	for p.next().GetDirective().GetReconnect().GetWithin().AsDuration() != 5*time.Second {
		continue // freshness
	}
	l.publish(aws(t, 2, documents{"a": "2"}))
	p.updated(2, p.current)
}

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// Freshness of few is not held up, and that of thousands is spread.
func TestFreshnessIsSpread(t *testing.T) {
	t.Parallel()
	for streams, want := range map[int64]time.Duration{0: 0, 2: time.Millisecond, 2000: time.Second, 1_000_000: 3 * time.Second} {
		spread := stream.Spread(streams)
		if spread != want {
			t.Errorf("that of %d streams is spread over %s, want %s", streams, spread, want)
		}
		var longest time.Duration
		for range 1000 {
			longest = max(longest, new(stream.Turn).Left(noon, spread))
		}
		if longest > spread || longest < spread*9/10 {
			t.Errorf("of %d streams some wait for %s, want up to %s", streams, longest, spread)
		}
	}
}

// What confirms gives way to changes, before they are seen and behind, but not for ever.
func TestFreshnessGivesWayToChanges(t *testing.T) {
	t.Parallel()
	const spread = time.Second
	for range 100 {
		var turn stream.Turn
		turn.Yield(noon, spread)
		if left := turn.Left(noon, spread); left < spread || left > 2*spread {
			t.Fatalf("behind a change its turn is in %s", left)
		}
		now := noon
		for turn.Left(now, spread) > 0 {
			now = now.Add(spread / 10)
			turn.Yield(now, spread)
		}
		if waited := now.Sub(noon); waited < 5*time.Second || waited > 5*time.Second+2*spread+spread/10 {
			t.Fatalf("with changes all the time it is sent after %s", waited)
		}
		turn.Over()
		if left := turn.Left(now.Add(time.Minute), spread); left > spread {
			t.Fatalf("a minute later its turn is in %s", left)
		}
	}
}
