package gateway

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// exemplarEvery is how often an exemplar of a bucket is replaced: making one costs
	// more than counting.
	exemplarEvery = time.Second
	// mostExemplars are those that are shown besides the newest of each bucket.
	mostExemplars = 10
)

// timing is a histogram of how long requests took, which names a recent one of each
// bucket. It has classic buckets for those who ask in text, and native ones, within 10 %
// of what was measured, for those who take them. A histogram of the library, which may be
// of anything, finds its native buckets in a map: to count two of them took 1 % of a
// proxy's time. It is safe for concurrent use.
type timing struct {
	desc    *prometheus.Desc
	made    time.Time
	bounds  []float64 // of classic, in seconds
	classic []bucket  // one more than bounds
	native  natives
	sum     atomic.Int64 // nanoseconds

	mu     sync.Mutex
	recent []*dto.Exemplar
}

// bucket is a classic one.
type bucket struct {
	count    atomic.Uint64
	named    atomic.Int64 // when one was named last, in Unix nanoseconds
	exemplar atomic.Pointer[dto.Exemplar]
}

func newTiming(o prometheus.HistogramOpts) *timing {
	return &timing{
		desc: prometheus.NewDesc(o.Name, o.Help, nil, nil), made: time.Now(),
		bounds: o.Buckets, classic: make([]bucket, len(o.Buckets)+1),
	}
}

// observe counts a request that took as long, and names it by its decision, and its
// trace if that has spans, if nobody in its bucket has been for a while.
func (t *timing) observe(took time.Duration, now time.Time, x *exchange) {
	seconds := took.Seconds()
	at, _ := slices.BinarySearch(t.bounds, seconds)
	b := &t.classic[at]
	t.native.count(seconds)
	t.sum.Add(int64(took))
	b.count.Add(1)
	if last := b.named.Load(); now.UnixNano()-last >= int64(exemplarEvery) && b.named.CompareAndSwap(last, now.UnixNano()) {
		t.name(b, seconds, now, x)
	}
}

func (t *timing) name(b *bucket, seconds float64, now time.Time, x *exchange) {
	e := &dto.Exemplar{Value: &seconds, Timestamp: timestamppb.New(now), Label: []*dto.LabelPair{label("decision_id", x.id)}}
	if x.trace.Attempts() != nil {
		e.Label = append(e.Label, label("trace_id", x.trace.Trace.String()))
	}
	b.exemplar.Store(e)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.recent) == mostExemplars {
		t.recent = slices.Delete(t.recent, 0, 1)
	}
	t.recent = append(t.recent, e)
}

func label(name, value string) *dto.LabelPair { return &dto.LabelPair{Name: &name, Value: &value} }

// requests is how many were counted.
func (t *timing) requests() (sum uint64) {
	for i := range t.classic {
		sum += t.classic[i].count.Load()
	}
	return sum
}

// Describe implements prometheus.Collector.
func (t *timing) Describe(to chan<- *prometheus.Desc) { to <- t.desc }

// Collect implements prometheus.Collector.
func (t *timing) Collect(to chan<- prometheus.Metric) { to <- t }

// Desc implements prometheus.Metric.
func (t *timing) Desc() *prometheus.Desc { return t.desc }

// Write implements prometheus.Metric.
func (t *timing) Write(to *dto.Metric) error {
	h := &dto.Histogram{
		SampleSum: new(time.Duration(t.sum.Load()).Seconds()), CreatedTimestamp: timestamppb.New(t.made),
		ZeroThreshold: new(prometheus.DefNativeHistogramZeroThreshold),
	}
	var count uint64
	for i := range t.classic {
		b := &t.classic[i]
		count += b.count.Load()
		bound, e := math.Inf(1), b.exemplar.Load()
		switch {
		case i < len(t.bounds):
			bound = t.bounds[i]
		case e == nil: // it goes without saying
			continue
		}
		h.Bucket = append(h.Bucket, &dto.Bucket{CumulativeCount: new(count), UpperBound: &bound, Exemplar: e})
	}
	h.SampleCount = &count
	t.native.write(h)
	t.mu.Lock()
	defer t.mu.Unlock()
	h.Exemplars = slices.Clone(t.recent)
	to.Histogram = h
	return nil
}
