package overload

import (
	"math"
	"runtime/metrics"
	"slices"
	"time"
)

const (
	// fewest is of how many waits there has to be a record for them to say anything. Go
	// keeps one of every eighth.
	fewest = 10
	// longest is for how many calls at most they are gathered.
	longest = 5
)

// schedulingDelay returns a function that tells how long goroutines that could run have
// waited to, since it was called last: nine of ten no longer. Those that are woken by one
// that ends its turn run at once, whatever the load: the middle would hide the others.
func schedulingDelay() func() time.Duration {
	w := waits{sample: []metrics.Sample{{Name: "/sched/latencies:seconds"}}}
	return w.delay
}

// waits are those that the scheduler has recorded.
type waits struct {
	sample []metrics.Sample
	before []uint64 // what is not looked at any more
	calls  int      // since then
	last   time.Duration
}

func (w *waits) delay() time.Duration {
	metrics.Read(w.sample)
	if w.sample[0].Value.Kind() != metrics.KindFloat64Histogram {
		return 0 // a version of Go that does not tell
	}
	h := w.sample[0].Value.Float64Histogram()
	if w.calls++; len(w.before) == len(h.Counts) {
		d, known := quantile(h, w.before, 0.9)
		switch {
		case known:
			w.last = d
		case w.calls < longest:
			return w.last
		default:
			w.last = 0 // hardly anything runs
		}
	}
	w.before, w.calls = slices.Clone(h.Counts), 0
	return w.last
}

// quantile is that of what h has more than before, unknown when that is next to nothing.
func quantile(h *metrics.Float64Histogram, before []uint64, q float64) (d time.Duration, known bool) {
	var total uint64
	for i, n := range h.Counts {
		total += n - before[i]
	}
	if total < fewest {
		return 0, false
	}
	rest := uint64(math.Ceil(float64(total) * (1 - q))) // that are above
	for i := len(h.Counts) - 1; i > 0; i-- {
		n := h.Counts[i] - before[i]
		if n >= rest {
			return time.Duration(max(h.Buckets[i], 0) * float64(time.Second)), true
		}
		rest -= n
	}
	return 0, true
}
