package gateway

import (
	"math"
	"sync/atomic"

	dto "github.com/prometheus/client_model/go"
)

// Dimensions of native buckets. Those of schema n are the powers of two with 1<<n equal
// steps of the exponent between them.
const (
	nativeSchema = 3
	nativeSteps  = 1 << nativeSchema
	// What takes less than a quarter of a microsecond counts as taking that, and
	// what takes more than seventeen minutes as taking those.
	nativeLow, nativeHigh = -22 * nativeSteps, 10 * nativeSteps
	// mostNatives are shown: if there are more, the steps become coarser.
	mostNatives = 100
)

// nativeBounds are where steps end between a half and one.
var nativeBounds = func() (b [nativeSteps]float64) {
	for i := range b {
		b[i] = math.Exp2(float64(i)/nativeSteps - 1)
	}
	return b
}()

// natives are the buckets of a native histogram. They are safe for concurrent use.
type natives struct {
	zero atomic.Uint64 // what took no time
	of   [nativeHigh - nativeLow + 1]atomic.Int64
}

func (n *natives) count(seconds float64) {
	if seconds <= 0 {
		n.zero.Add(1)
		return
	}
	fraction, exponent := math.Frexp(seconds)
	step := 0
	for step < nativeSteps && nativeBounds[step] < fraction {
		step++
	}
	n.of[min(max((exponent-1)*nativeSteps+step, nativeLow), nativeHigh)-nativeLow].Add(1)
}

// write adds the buckets to h.
func (n *natives) write(h *dto.Histogram) {
	counts := make(map[int]int64)
	for i := range n.of {
		if count := n.of[i].Load(); count > 0 {
			counts[i+nativeLow] = count
		}
	}
	schema := int32(nativeSchema)
	for ; len(counts) > mostNatives; schema-- {
		coarser := make(map[int]int64)
		for i, count := range counts {
			coarser[(i+1)>>1] += count // a bucket is known by where it ends
		}
		counts = coarser
	}
	h.Schema, h.ZeroCount = &schema, new(n.zero.Load())
	h.PositiveSpan, h.PositiveDelta = spans(counts)
}

// spans writes counts as Prometheus has them: neighbours in one span, and each count as
// the difference to the one before.
func spans(counts map[int]int64) (all []*dto.BucketSpan, deltas []int64) {
	next, before := 0, int64(0)
	for i := nativeLow; i <= nativeHigh; i++ {
		count, there := counts[i]
		if !there {
			continue
		}
		if i > next || len(all) == 0 {
			all = append(all, &dto.BucketSpan{Offset: new(int32(i - next)), Length: new(uint32)})
		}
		*all[len(all)-1].Length++
		deltas = append(deltas, count-before)
		next, before = i+1, count
	}
	return all, deltas
}
