package stream

import (
	"cmp"
	"math/rand/v2"
	"time"
)

// confirm hands on freshness statements that the proxy has not been sent yet. The first
// of a stream are sent at once, later ones when it is this proxy's turn: wait is how long
// that takes, or ackWithin when there is nothing to send.
func (t *talk) confirm(security, configuration State) (wait time.Duration, err error) {
	if !t.security.unconfirmed(security) && !t.configuration.unconfirmed(configuration) {
		return t.ackWithin, nil
	}
	first := t.security.confirmed == nil || t.configuration.confirmed == nil
	if wait = t.turn.left(time.Now(), t.spread()); wait > 0 && !first {
		return wait, nil
	}
	t.turn.over()
	return t.ackWithin, cmp.Or(t.confirmLane(t.security, security), t.confirmLane(t.configuration, configuration))
}

func (t *talk) confirmLane(l *lane, s State) error {
	if !l.unconfirmed(s) {
		return nil
	}
	l.confirmed = s.Freshness
	f, err := s.confirms()
	if err != nil {
		return err
	}
	return t.write(f)
}

// spread is what is spread over that thousands of proxies are sent at the same time,
// and none of which is urgent.
func (s *Service) spread() time.Duration {
	return min(time.Duration(s.streams.Load())*time.Second/confirmsPerSecond, latestConfirm)
}

// turn is when a proxy is sent what confirms: apart from the others, and behind what a
// change has all of them do. The zero value is of one that has nothing to be sent.
type turn struct {
	at, last time.Time // when it is, and when at the latest
	changed  time.Time // when a change was sent
}

// left returns how long it is until then, zero or less when it has come. The first call
// sets it.
func (t *turn) left(now time.Time, spread time.Duration) time.Duration {
	if t.at.IsZero() {
		t.at = t.next(now, spread)
		t.last = t.at.Add(longestConfirm)
	}
	return t.at.Sub(now)
}

// yield is called when a change was sent.
func (t *turn) yield(now time.Time, spread time.Duration) {
	t.changed = now
	if t.at.IsZero() {
		return
	}
	if t.at = t.next(now, spread); t.at.After(t.last) {
		t.at = t.last
	}
}

// over is called when the turn has come.
func (t *turn) over() { t.at = time.Time{} }

func (t *turn) next(now time.Time, spread time.Duration) time.Time {
	if calm := t.changed.Add(spread); calm.After(now) {
		now = calm
	}
	return now.Add(rand.N(spread + 1)) //nolint:gosec // spreads load, hides nothing
}
