package gateway_test

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/sallyport/sallyport/dataplane/gateway"
)

// What Prometheus asks for, with native histograms and without.
const (
	acceptsProtobuf    = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
	acceptsOpenMetrics = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
)

// scrape asks as Prometheus does.
func (w *world) scrape(accepts string) *httptest.ResponseRecorder {
	w.t.Helper()
	r, recorder := httptest.NewRequest("GET", "/metrics", nil), httptest.NewRecorder()
	r.Header.Set("Accept", accepts)
	promhttp.HandlerFor(w.registry, promhttp.HandlerOpts{EnableOpenMetrics: true}).ServeHTTP(recorder, r)
	return recorder
}

// family scrapes in protobuf.
func (w *world) family(name string) *dto.MetricFamily {
	w.t.Helper()
	scraped := w.scrape(acceptsProtobuf)
	format := expfmt.ResponseFormat(scraped.Header())
	if format.FormatType() != expfmt.TypeProtoDelim {
		w.t.Fatalf("the answer is %q", format)
	}
	for in := expfmt.NewDecoder(scraped.Body, format); ; {
		var f dto.MetricFamily
		w.must(in.Decode(&f))
		if f.GetName() == name {
			return &f
		}
	}
}

// Durations have native buckets, classic ones, and requests to look into.
func TestTimingsAreHistogramsOfBothKinds(t *testing.T) {
	w := newWorld(t, options{})
	w.apply(w.usual(plaintext(newEcho(t).address())))
	c, ids := w.client(false, w.tls(host)), map[string]bool{}
	for range 20 {
		res, _ := w.ask(c, "GET", "/v1/orders/7", nil)
		ids[res.Header.Get("Sallyport-Decision-Id")] = true
	}
	for _, name := range []string{"sallyport_decision_duration_seconds", "sallyport_upstream_duration_seconds"} {
		h := w.family(name).GetMetric()[0].GetHistogram()
		if h.GetSampleCount() != 20 || len(h.GetBucket()) < 10 {
			t.Errorf("%s has %d requests in %d classic buckets", name, h.GetSampleCount(), len(h.GetBucket()))
		}
		if h.GetSchema() != 3 || len(h.GetPositiveSpan()) == 0 || len(h.GetExemplars()) == 0 {
			t.Errorf("%s is not native: %v", name, h)
		}
		named := map[string]bool{}
		for _, b := range h.GetBucket() {
			for _, l := range b.GetExemplar().GetLabel() {
				named[l.GetValue()] = true
				if l.GetName() != "decision_id" || !ids[l.GetValue()] {
					t.Errorf("%s has the exemplar %v", name, l)
				}
			}
		}
		if len(named) == 0 {
			t.Errorf("%s names no request", name)
		}
		text := w.scrape(acceptsOpenMetrics).Body.String()
		for id := range named {
			if want := fmt.Sprintf(" # {decision_id=%q} ", id); !strings.Contains(text, want) {
				t.Errorf("OpenMetrics does not have%s", want)
			}
		}
	}
}

// However many requests there are, each bucket names one in a second.
func TestExemplarsAreFew(t *testing.T) {
	w := newWorld(t, options{})
	w.apply(w.usual(plaintext(newEcho(t).address())))
	now := time.Now()
	w.set(func() { w.clock = func() time.Time { return now } }) // so that all take no time
	c := w.client(false, w.tls(host))
	for second := 1; second <= 3; second++ {
		for range 5 {
			w.ask(c, "GET", "/v1/orders/7", nil)
		}
		h := w.family("sallyport_decision_duration_seconds").GetMetric()[0].GetHistogram()
		if len(h.GetExemplars()) != second {
			t.Errorf("in %d seconds %d of %d requests were named", second, len(h.GetExemplars()), h.GetSampleCount())
		}
		w.set(func() { now = now.Add(time.Second) })
	}
}

// counts are the native buckets that have any, by where they end.
func counts(h *dto.Histogram) map[int]int64 {
	all, at, delta, count := map[int]int64{}, 0, 0, int64(0)
	for _, s := range h.GetPositiveSpan() {
		at += int(s.GetOffset())
		for range s.GetLength() {
			count += h.GetPositiveDelta()[delta]
			if count > 0 {
				all[at] = count
			}
			at, delta = at+1, delta+1
		}
	}
	return all
}

// Durations are counted as a histogram of the library counts them.
func TestTimingCountsAsTheLibraryDoes(t *testing.T) {
	o := prometheus.HistogramOpts{Name: "took_seconds", Help: "Time.", Buckets: []float64{1e-6, 1e-3, 0.25, 1}}
	native := o
	native.NativeHistogramBucketFactor = 1.1
	now := time.Now()
	for name, took := range map[string][]time.Duration{
		"none":        {},
		"no time":     {0, 0},
		"bounds":      {time.Microsecond, time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second},
		"many":        spread(250*time.Nanosecond, 17*time.Minute, 1.003),
		"neighbours":  {10 * time.Millisecond, 10 * time.Millisecond, 11 * time.Millisecond, 40 * time.Millisecond},
		"a long time": {time.Minute, 10 * time.Minute},
	} {
		ours, theirs := gateway.NewTiming(o), prometheus.NewHistogram(native)
		for _, d := range took {
			ours.Observe(d, now)
			theirs.Observe(d.Seconds())
		}
		var got, want dto.Metric
		if err := errors.Join(ours.Write(&got), theirs.Write(&want)); err != nil {
			t.Fatal(err)
		}
		g, w := got.GetHistogram(), want.GetHistogram()
		if g.GetSampleCount() != w.GetSampleCount() || g.GetZeroCount() != w.GetZeroCount() || g.GetZeroThreshold() != w.GetZeroThreshold() ||
			math.Abs(g.GetSampleSum()-w.GetSampleSum()) > 1e-6 {
			t.Errorf("%s: %v, where the library has %v", name, g, w)
		}
		for i, b := range w.GetBucket() {
			if b.GetCumulativeCount() != g.GetBucket()[i].GetCumulativeCount() || b.GetUpperBound() != g.GetBucket()[i].GetUpperBound() {
				t.Errorf("%s: bucket %d is %v, where the library has %v", name, i, g.GetBucket()[i], b)
			}
		}
		wanted := counts(w)
		for schema := w.GetSchema(); schema > g.GetSchema(); schema-- {
			wanted = coarser(wanted)
		}
		if !maps.Equal(counts(g), wanted) || len(counts(g)) > 100 {
			t.Errorf("%s: native buckets of schema %d are %v, where the library has %v", name, g.GetSchema(), counts(g), wanted)
		}
	}
}

// coarser are the counts of the next lower schema.
func coarser(counts map[int]int64) map[int]int64 {
	half := map[int]int64{}
	for at, count := range counts {
		half[int(math.Ceil(float64(at)/2))] += count
	}
	return half
}

// spread are durations in a range, each a little longer than the one before.
func spread(from, to time.Duration, by float64) (all []time.Duration) {
	for d := from; d < to; d = max(time.Duration(float64(d)*by), d+1) {
		all = append(all, d)
	}
	return all
}

func BenchmarkTiming(b *testing.B) {
	o := prometheus.HistogramOpts{Name: "took_seconds", Help: "Time.", Buckets: prometheus.DefBuckets}
	ours, now := gateway.NewTiming(o), time.Now()
	o.NativeHistogramBucketFactor = 1.1
	theirs := prometheus.NewHistogram(o)
	b.Run("this", func(b *testing.B) {
		for b.Loop() {
			ours.Observe(30*time.Millisecond, now)
		}
	})
	b.Run("library", func(b *testing.B) {
		for b.Loop() {
			theirs.Observe(0.03)
		}
	})
}
