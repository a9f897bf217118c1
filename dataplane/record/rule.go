package record

import (
	"sync/atomic"
	"time"
)

// Mode is which allowed requests the control plane gets records of.
type Mode uint8

// The modes.
const (
	Sampled  Mode = iota // at most Rule.Rate in a second
	All                  // every one, while there is room
	Required             // every one, or it is not let through
)

// Rule is which allowed requests of a route the control plane gets records of. Mode
// and Rate do not change. It is safe for concurrent use. The zero Rule is none.
type Rule struct {
	Mode Mode
	Rate int64

	second, taken, passed atomic.Int64
}

// Takes reports whether the control plane gets a record of a request that was
// allowed now, and for how many it stands then. It asks what time that is only where it
// matters.
func (r *Rule) Takes(now func() time.Time) (count int64, takes bool) {
	if r == nil {
		return 0, false
	}
	if r.Mode != Sampled {
		return 1, true
	}
	if s := now().Unix(); r.second.Load() != s && r.second.Swap(s) != s {
		r.taken.Store(0)
	}
	if r.taken.Load() >= r.Rate || r.taken.Add(1) > r.Rate {
		r.passed.Add(1)
		return 0, false
	}
	return 1 + r.passed.Swap(0), true
}
