package gateway

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// exemplarEvery is how often an exemplar of a bucket is replaced: making one costs
// more than counting.
const exemplarEvery = time.Second

// timing is a histogram of how long requests took, which names a recent one of each
// bucket.
type timing struct {
	prometheus.Histogram
	bounds []float64      // of its classic buckets, in seconds
	named  []atomic.Int64 // when one was named last, in Unix nanoseconds; one more than bounds
}

// newTiming makes a histogram with classic buckets for those who ask in text, and
// native ones, within 10 % of what was measured, for those who take them.
func newTiming(o prometheus.HistogramOpts) *timing {
	o.NativeHistogramBucketFactor = 1.1
	o.NativeHistogramMaxBucketNumber = 100
	o.NativeHistogramMinResetDuration = time.Hour
	return &timing{Histogram: prometheus.NewHistogram(o), bounds: o.Buckets, named: make([]atomic.Int64, len(o.Buckets)+1)}
}

// observe counts a request that took as long, and names it by its decision, and its
// trace if that has spans, if nobody in its bucket has been for a while.
func (t *timing) observe(took time.Duration, now time.Time, x *exchange) {
	seconds := took.Seconds()
	bucket, _ := slices.BinarySearch(t.bounds, seconds)
	last := t.named[bucket].Load()
	if now.UnixNano()-last < int64(exemplarEvery) || !t.named[bucket].CompareAndSwap(last, now.UnixNano()) {
		t.Observe(seconds)
		return
	}
	with, ok := t.Histogram.(prometheus.ExemplarObserver)
	if !ok {
		panic("gateway: a histogram that takes no exemplars")
	}
	named := prometheus.Labels{"decision_id": x.id}
	if x.trace.Attempts() != nil {
		named["trace_id"] = x.trace.Trace.String()
	}
	with.ObserveWithExemplar(seconds, named)
}
