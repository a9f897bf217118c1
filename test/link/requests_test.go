package link_test

import (
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/dataplane"
)

var requestRate = flag.Int("request-rate", 5000, "how many requests a second are sent to a whole proxy, for the time of -records")

// A whole proxy brings the records of all that it allows to Postgres, at 5,000
// requests a second over TLS: none is dropped or doubled. No request waits for
// records: they are answered while the database takes none.
func TestRequestsAtFiveThousandASecond(t *testing.T) {
	g := newGate(t, "ALL")
	l := &load{gate: g, perSecond: *requestRate}
	used := cpu(t)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		l.send(16)
	}()
	eventually(t, "records are kept", func() bool { return len(g.ids()) > 0 })
	release := g.hold()
	before := l.answered.Load()
	eventually(t, "requests are answered while no record is kept", func() bool { return l.answered.Load() > before+1000 })
	release()
	<-time.After(time.Until(l.began.Add(*recordsFor)))
	l.ended.Store(true)
	<-sent
	rate := float64(l.answered.Load()) / time.Since(l.began).Seconds()
	per := (cpu(t) - used) / time.Duration(max(l.answered.Load(), 1))
	if l.denied > 0 {
		t.Errorf("%d requests were denied", l.denied)
	}
	// Each has a beginning and an end.
	eventually(t, "all has arrived", func() bool { return g.metric("sallyport_remote_records_total") >= float64(2*len(l.allowed)) })
	g.kept(l.allowed)
	if dropped := g.metric("sallyport_remote_records_dropped_total"); dropped > 0 {
		t.Errorf("%.0f records were dropped", dropped)
	}
	slices.Sort(l.took)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	fmt.Printf("figure recorded_requests_per_second %.0f 1/s\nfigure recorded_request_p99_ms %.2f ms\nfigure recorded_request_longest_ms %.2f ms\n"+
		"figure recorded_request_all_cpu_us %.1f us\n",
		rate, ms(l.took[len(l.took)*99/100]), ms(l.took[len(l.took)-1]), float64(per.Nanoseconds())/1000)
}

// A whole proxy sends what it records to a collector of logs. While that is away no
// request waits, and what was recorded meanwhile arrives when it is back.
func TestRecordsAsLogs(t *testing.T) {
	var away atomic.Bool
	var decisions, outcomes atomic.Int64
	collector := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		body, err := io.ReadAll(r.Body)
		var m collectorv1.ExportLogsServiceRequest
		if err != nil || proto.Unmarshal(body, &m) != nil {
			t.Errorf("what was sent cannot be read (%v)", err)
		}
		for _, l := range m.GetResourceLogs()[0].GetScopeLogs()[0].GetLogRecords() {
			map[string]*atomic.Int64{"sallyport.decision": &decisions, "sallyport.outcome": &outcomes}[l.GetEventName()].Add(1)
		}
	}))
	t.Cleanup(collector.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: collector.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	g := newGate(t, "SAMPLED", func(s *dataplane.Settings) {
		s.Collector = dataplane.Collector{Endpoint: collector.URL + "/v1/logs", CAFile: ca}
	})
	c, err := g.caller()
	if err != nil {
		t.Fatal(err)
	}
	defer c.conn.Close()
	var sent int64
	ask := func() {
		for range 100 {
			if status, _, err := c.ask(); status != http.StatusOK {
				t.Fatal(status, err)
			}
			sent++
		}
	}
	arrive := func() {
		eventually(t, "all has arrived", func() bool { return decisions.Load() == sent && outcomes.Load() == sent })
	}
	ask()
	arrive()
	away.Store(true)
	ask()
	if decisions.Load() >= sent {
		t.Error("a collector that was away has records")
	}
	away.Store(false)
	arrive()
}
