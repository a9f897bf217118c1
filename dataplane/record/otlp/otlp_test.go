package otlp_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	logsv1 "go.opentelemetry.io/proto/otlp/logs/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/dataplane/collector"
	"github.com/sallyport/sallyport/dataplane/record/otlp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver is a collector of logs, as the protocol has it.
type receiver struct {
	*testing.T
	*httptest.Server
	ca string // file

	mu       sync.Mutex
	logs     []*logsv1.LogRecord
	resource []*commonv1.KeyValue
	headers  []http.Header
	status   []int // of the answers to come; 200 when empty
	rejects  int64 // that each answer says it has rejected
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{T: t, ca: filepath.Join(t.TempDir(), "ca.pem")}
	r.Server = httptest.NewTLSServer(r)
	t.Cleanup(r.Close)
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw})
	if err := os.WriteFile(r.ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

// ServeHTTP implements http.Handler.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	var m collectorv1.ExportLogsServiceRequest
	if err != nil || req.URL.Path != "/v1/logs" || req.Header.Get("Content-Type") != "application/x-protobuf" || proto.Unmarshal(body, &m) != nil {
		r.Errorf("%s %s is no export (%v)", req.Method, req.URL, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.headers = append(r.headers, req.Header)
	if len(r.status) > 0 {
		status := r.status[0]
		r.status = r.status[1:]
		w.WriteHeader(status)
		return
	}
	for _, resource := range m.GetResourceLogs() {
		r.resource = resource.GetResource().GetAttributes()
		for _, scope := range resource.GetScopeLogs() {
			r.logs = append(r.logs, scope.GetLogRecords()...)
		}
	}
	answer, err := proto.Marshal(&collectorv1.ExportLogsServiceResponse{PartialSuccess: &collectorv1.ExportLogsPartialSuccess{RejectedLogRecords: r.rejects}})
	if err != nil {
		r.Error(err)
	}
	_, _ = w.Write(answer)
}

func (r *receiver) got() []*logsv1.LogRecord {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.logs)
}

// await waits for so many logs.
func (r *receiver) await(n int) []*logsv1.LogRecord {
	r.Helper()
	late := time.After(30 * time.Second)
	for len(r.got()) < n {
		select {
		case <-late:
			r.Fatalf("%d of %d logs have come", len(r.got()), n)
		case <-time.After(5 * time.Millisecond):
		}
	}
	return r.got()
}

// sink runs a sink with metrics until stop.
func (r *receiver) sink(c otlp.Config) (s *otlp.Sink, metrics *prometheus.Registry, stop func()) {
	r.Helper()
	metrics = prometheus.NewRegistry()
	c.Instance, c.Version, c.Log, c.Registerer = "one", "v1", slog.New(slog.DiscardHandler), metrics
	if c.Address.Endpoint == "" {
		c.Address = collector.Address{Endpoint: r.URL + "/v1/logs", CAFile: r.ca}
	}
	s, err := otlp.New(c)
	if err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			r.Error(err)
		}
	})
	r.Cleanup(stop)
	return s, metrics, stop
}

func metric(t *testing.T, r *prometheus.Registry, name string) float64 {
	t.Helper()
	all, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue() + f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

func write(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if n, err := io.WriteString(w, text); n != len(text) || err != nil {
		t.Fatalf("%d of %d bytes were taken (%v)", n, len(text), err)
	}
}

const lines = `{"type":"decision","time":"2026-11-24T09:42:07.123456Z","decision_id":"one","allow":true,"reason":"allowed_by_policy","revision":4711,"method":"GET","host":"api.example","path":"/v1/orders/7","principal":{"kind":"user","id":"al\"ice"},"beside":[{"kind":"key"}],"took_us":1500}
{"type":"decision","time":"2026-11-24T09:42:07Z","decision_id":"two","trace_id":"0af7651916cd43dd8448eb211c80319c","allow":false,"reason":"no_matching_policy","status":403}
{"type":"outcome","time":"2026-11-24T09:42:07Z","decision_id":"one","status":200,"sent":1024}
{"type":"outcome","time":"2026-11-24T09:42:07Z","decision_id":"one","reason":"upstream_failed","status":502}
`

// told is a log in a line.
func told(l *logsv1.LogRecord) string {
	var all []string
	for _, kv := range l.GetAttributes() {
		all = append(all, kv.GetKey()+"="+strings.ReplaceAll(kv.GetValue().String(), "  ", " "))
	}
	return fmt.Sprintf("%s %d %s %q %s", l.GetEventName(), l.GetTimeUnixNano(), l.GetSeverityText(), l.GetBody().GetStringValue(), strings.Join(all, " "))
}

func TestLinesBecomeLogs(t *testing.T) {
	r := newReceiver(t)
	authorization := filepath.Join(t.TempDir(), "authorization")
	if err := os.WriteFile(authorization, []byte("Bearer x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, metrics, stop := r.sink(otlp.Config{Address: collector.Address{Endpoint: r.URL + "/v1/logs", CAFile: r.ca, AuthorizationFile: authorization}})
	write(t, s, lines[:100])
	write(t, s, lines[100:])
	got := r.await(4)
	for i, want := range []string{
		`sallyport.decision 1795513327123456000 INFO "allowed allowed_by_policy GET api.example/v1/orders/7" allow=bool_value:true beside=array_value:{values:{kvlist_value:{values:{key:"kind" value:{string_value:"key"}}}}} ` +
			`decision_id=string_value:"one" host=string_value:"api.example" method=string_value:"GET" path=string_value:"/v1/orders/7" ` +
			`principal=kvlist_value:{values:{key:"id" value:{string_value:"al\"ice"}} values:{key:"kind" value:{string_value:"user"}}} reason=string_value:"allowed_by_policy" revision=int_value:4711 took_us=int_value:1500`,
		`sallyport.decision 1795513327000000000 WARN "denied 403 no_matching_policy" allow=bool_value:false decision_id=string_value:"two" reason=string_value:"no_matching_policy" status=int_value:403`,
		`sallyport.outcome 1795513327000000000 INFO "ended 200" decision_id=string_value:"one" sent=int_value:1024 status=int_value:200`,
		`sallyport.outcome 1795513327000000000 WARN "ended 502 upstream_failed" decision_id=string_value:"one" reason=string_value:"upstream_failed" status=int_value:502`,
	} {
		if told := told(got[i]); told != want {
			t.Errorf("log %d is\n%s, want\n%s", i, told, want)
		}
	}
	if id := hex.EncodeToString(got[1].GetTraceId()); id != "0af7651916cd43dd8448eb211c80319c" || got[0].GetTraceId() != nil {
		t.Errorf("the traces are %q and %q", got[0].GetTraceId(), id)
	}
	stop()
	if r.headers[0].Get("Authorization") != "Bearer x" || len(r.resource) != 3 || r.resource[1].GetValue().GetStringValue() != "one" {
		t.Errorf("sent were %v and %v", r.headers[0], r.resource)
	}
	if metric(t, metrics, "sallyport_collector_records_total") != 4 || metric(t, metrics, "sallyport_collector_records_waiting_bytes") != 0 {
		t.Error("not all are counted")
	}
}

// What a collector cannot take now is sent again, in order, and once where it has
// answered; what it never takes is counted.
func TestCollectorsThatRefuse(t *testing.T) {
	r := newReceiver(t)
	r.status = []int{503, 429, 401, 400}
	s, metrics, stop := r.sink(otlp.Config{})
	write(t, s, "{\"decision_id\":\"lost\"}\n")
	late := time.After(30 * time.Second)
	for metric(t, metrics, "sallyport_collector_records_dropped_total") == 0 {
		select {
		case <-late:
			t.Fatal("nothing is dropped")
		case <-time.After(5 * time.Millisecond):
		}
	}
	r.mu.Lock()
	r.rejects = 1
	r.mu.Unlock()
	write(t, s, "{\"decision_id\":\"a\"}\n{\"decision_id\":\"b\"}\n")
	got := r.await(2)
	stop()
	if got[0].GetAttributes()[0].GetValue().GetStringValue() != "a" || len(r.got()) != 2 {
		t.Errorf("sent were %v", got)
	}
	if dropped := metric(t, metrics, "sallyport_collector_records_dropped_total"); dropped != 2 {
		t.Errorf("%v were dropped, want one that was refused and one of two that was rejected", dropped)
	}
}

// Nobody waits for a collector that is away: what finds no room is counted. What has
// room arrives, in its order, when it is back, or at the end.
func TestCollectorAway(t *testing.T) {
	r := newReceiver(t)
	r.mu.Lock()
	r.status = slices.Repeat([]int{503}, 2)
	r.mu.Unlock()
	s, metrics, stop := r.sink(otlp.Config{Queue: 1000})
	const line = `{"decision_id":"00"}` + "\n"
	for n := range 100 {
		write(t, s, strings.Replace(line, "00", fmt.Sprintf("%02d", n), 1))
	}
	write(t, s, strings.Repeat("x", 300<<10)+"\n")
	got := r.await(50)
	stop()
	if dropped := metric(t, metrics, "sallyport_collector_records_dropped_total"); dropped != 51 || len(got) != 50 {
		t.Errorf("%d have arrived and %v were dropped", len(got), dropped)
	}
	for i, l := range got {
		if id := l.GetAttributes()[0].GetValue().GetStringValue(); id != fmt.Sprintf("%02d", i) {
			t.Errorf("log %d is %s", i, id)
		}
	}
}

func TestTheLastLinesAreSent(t *testing.T) {
	r := newReceiver(t)
	s, _, stop := r.sink(otlp.Config{})
	write(t, s, lines)
	stop()
	if n := len(r.got()); n != 4 {
		t.Errorf("%d logs have come", n)
	}
}

// A collector that is not who it is to be gets nothing.
func TestCollectorIsVerified(t *testing.T) {
	r := newReceiver(t)
	other := newReceiver(t)
	_, stranger, err := net.SplitHostPort(r.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	block := []byte("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n")
	bad := filepath.Join(t.TempDir(), "bad.pem")
	if err := os.WriteFile(bad, bytes.Repeat(block, 2), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []otlp.Config{
		{Instance: "one", Address: collector.Address{CAFile: bad}}, {Instance: "one", Address: collector.Address{CAFile: bad + "x"}},
		{Instance: ""}, {Instance: "one", Queue: -1},
	} {
		c.Address.Endpoint, c.Log = r.URL+"/v1/logs", slog.New(slog.DiscardHandler)
		if _, err := otlp.New(c); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
	s, metrics, stop := r.sink(otlp.Config{Address: collector.Address{Endpoint: "https://localhost:" + stranger + "/v1/logs", CAFile: other.ca}})
	write(t, s, lines)
	stop()
	if len(r.got()) > 0 || metric(t, metrics, "sallyport_collector_records_dropped_total") != 4 {
		t.Errorf("%d logs have come", len(r.got()))
	}
}

// Whatever a line is, a log is made of it.
func FuzzLine(f *testing.F) {
	f.Add([]byte(lines))
	f.Add([]byte("{\"\xff\":1e400,\"a\":null}\n{\"time\":\"0001-01-01T00:00:00Z\"}\nx\n\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for line := range bytes.Lines(text) {
			if _, err := proto.Marshal(otlp.Entry(line)); err != nil {
				t.Errorf("%q: %v", line, err)
			}
		}
	})
}
