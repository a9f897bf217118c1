// Package retry bounds how much more requests are sent to an upstream than were asked
// for: who fails because there is too much to do must not get more of it.
package retry

import (
	"sync/atomic"
	"time"
)

// Budget is how many requests may be sent again. It is safe for concurrent use.
type Budget struct {
	percent, floor uint64
	now            func() time.Time
	// slots are the last seconds that anything was counted in, each at its number
	// modulo theirs.
	slots [window + 1]slot
}

// window is the seconds that count together.
const window = 10

// slot is what happened in a second.
type slot struct {
	second         atomic.Int64
	sent, repeated atomic.Uint64
}

// New returns a Budget that lets percent of the requests of the last ten seconds be sent
// again, and perSecond more each second. A nil now is time.Now.
func New(percent, perSecond int, now func() time.Time) *Budget {
	if now == nil {
		now = time.Now
	}
	return &Budget{percent: uint64(max(0, percent)), floor: uint64(max(0, perSecond)) * window, now: now}
}

// Count counts a request.
func (b *Budget) Count() { b.at(b.now().Unix()).sent.Add(1) }

// Take reports whether a request may be sent again, and counts it if so. Requests that
// ask at once may be let through one each too many.
func (b *Budget) Take() bool {
	now := b.now().Unix()
	var sent, repeated uint64
	for i := range b.slots {
		s := &b.slots[i]
		if age := now - s.second.Load(); age >= 0 && age < window {
			sent += s.sent.Load()
			repeated += s.repeated.Load()
		}
	}
	if repeated*100 >= sent*b.percent+b.floor*100 {
		return false
	}
	b.at(now).repeated.Add(1)
	return true
}

// at returns the slot of a second, which forgets another one's.
func (b *Budget) at(second int64) *slot {
	s := &b.slots[uint64(second)%uint64(len(b.slots))] //nolint:gosec // it wraps
	if was := s.second.Load(); was != second && s.second.CompareAndSwap(was, second) {
		s.sent.Store(0)
		s.repeated.Store(0)
	}
	return s
}
