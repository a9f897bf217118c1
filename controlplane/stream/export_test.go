package stream

import (
	"time"

	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// Limits sets how patient the service is, before it serves. Zero leaves what
// there is.
func (s *Service) Limits(silence, sendWithin, ackWithin time.Duration) {
	for limit, d := range map[*time.Duration]time.Duration{&s.silence: silence, &s.sendWithin: sendWithin, &s.ackWithin: ackWithin} {
		if d != 0 {
			*limit = d
		}
	}
}

// RecentBytes sets how much memory snapshots may take beside the newest, before it runs.
func (h *Hub) RecentBytes(n int) { h.recentBytes = n }

// RecheckEvery sets how often certificates are looked at again, before it serves.
func (s *Service) RecheckEvery(d time.Duration) { s.recheckEvery = d }

// MoveWithin is how long so many proxies of a replica that ends are spread over.
func MoveWithin(streams int) time.Duration { return moveWithin(streams) }

// Spread is what a replica with so many streams spreads freshness statements over.
func Spread(streams int64) time.Duration {
	var s Service
	s.streams.Store(streams)
	return s.spread()
}

// Turn is when one of them is sent.
type Turn struct{ turn }

// Left returns how long it is until then.
func (t *Turn) Left(now time.Time, spread time.Duration) time.Duration { return t.left(now, spread) }

// Yield says that a change was sent.
func (t *Turn) Yield(now time.Time, spread time.Duration) { t.yield(now, spread) }

// Over says that the turn has come.
func (t *Turn) Over() { t.over() }

// Framed returns an update as it goes over the wire, and the largest piece that it
// is written in.
func Framed(environment string, u *proxyv1.Update) (wire []byte, largest int, err error) {
	f, err := updateFrame(environment, u)
	if err != nil {
		return nil, 0, err
	}
	err = f.writeTo(writer(func(b []byte) (int, error) {
		wire, largest = append(wire, b...), max(largest, len(b))
		return len(b), nil
	}))
	return wire, largest, err
}

// Packed returns an update as it goes over the wire to who takes it compressed.
func Packed(environment string, u *proxyv1.Update) (wire []byte, err error) {
	f, err := newPart(environment, u).packed()
	if err != nil {
		return nil, err
	}
	err = f.writeTo(writer(func(b []byte) (int, error) {
		wire = append(wire, b...)
		return len(b), nil
	}))
	return wire, err
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }
