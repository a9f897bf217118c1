// Package quota says what rate limits count: how much a key may use, and what of a
// request is its key.
package quota

import (
	"errors"
	"time"
)

// Bounds of a Rate.
const (
	// MaxPerSecond is the fastest Rate.
	MaxPerSecond = 1_000_000
	// MaxRecovery is the longest that a burst may take to come back.
	MaxRecovery = 30 * 24 * time.Hour
)

// Rate is how much may be used: one each Interval, and so many at once as fit into
// Tolerance. The zero Rate allows nothing that costs something.
type Rate struct {
	Interval  time.Duration
	Tolerance time.Duration
}

// Why a Rate cannot be.
var (
	ErrTooFast = errors.New("is more than 1,000,000 in a second")
	ErrTooSlow = errors.New("takes more than 30 days to come back")
)

// NewRate returns the Rate of so many requests in a period, of which burst may come
// at once; as many as requests when burst is 0. What does not go evenly is rounded
// to less.
func NewRate(requests uint32, period time.Duration, burst uint32) (Rate, error) {
	if burst == 0 {
		burst = requests
	}
	if requests == 0 || period <= 0 {
		return Rate{}, ErrTooSlow
	}
	interval := (period + time.Duration(requests) - 1) / time.Duration(requests)
	switch {
	case interval < time.Second/MaxPerSecond:
		return Rate{}, ErrTooFast
	case time.Duration(burst) > MaxRecovery/interval:
		return Rate{}, ErrTooSlow
	}
	return Rate{Interval: interval, Tolerance: time.Duration(burst) * interval}, nil
}

// Share is what one of so many has of a rate: one at a time at least.
func (r Rate) Share(of int64) Rate {
	const most = 100_000
	interval := r.Interval * time.Duration(min(max(of, 1), most))
	return Rate{Interval: interval, Tolerance: max(r.Tolerance, interval)}
}

// Burst is how many may come at once.
func (r Rate) Burst() int64 {
	if r.Interval <= 0 {
		return 0
	}
	return int64(r.Tolerance / r.Interval)
}

// Outcome is what became of a request.
type Outcome struct {
	Allowed   bool
	Remaining int64         // how many more of cost 1 would be let through now
	Reset     time.Duration // until all is there again
	Retry     time.Duration // of what is not allowed: until it would be; never when it costs more than a burst
}

// Take is the generic cell rate algorithm: due is when all that was used will have
// come back, and so is the result. Both are times since the same moment as now. What
// is not allowed uses nothing, and what costs nothing is always allowed.
func (r Rate) Take(due, now time.Duration, cost int64) (time.Duration, Outcome) {
	// Due is never later than the Rate can make it: one that was raised is as if it
	// had been so from the beginning.
	due = min(max(due, now), now+r.Tolerance)
	cost = min(max(cost, 0), r.Burst()+1)
	after := due + time.Duration(cost)*r.Interval
	if over := after - now - r.Tolerance; cost > 0 && (over > 0 || r.Interval <= 0) {
		return due, r.outcome(due-now, over)
	}
	o := r.outcome(after-now, 0)
	o.Allowed = true
	return after, o
}

func (r Rate) outcome(used, over time.Duration) Outcome {
	o := Outcome{Reset: used, Retry: over}
	if r.Interval > 0 {
		o.Remaining = int64((r.Tolerance - used) / r.Interval)
	}
	return o
}

// Give takes back what Take has counted.
func (r Rate) Give(due time.Duration, cost int64) time.Duration {
	return due - time.Duration(min(max(cost, 0), r.Burst()+1))*r.Interval
}
