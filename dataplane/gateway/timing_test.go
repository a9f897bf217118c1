package gateway_test

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
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
