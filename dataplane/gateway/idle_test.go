package gateway_test

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/dataplane/gateway"
)

func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var over atomic.Int64
		touch, stop := gateway.Idle(time.Minute, func() { over.Add(1) })
		for range 10 {
			<-time.After(59 * time.Second)
			touch()
		}
		<-time.After(59 * time.Second)
		if synctest.Wait(); over.Load() != 0 {
			t.Error("closed while something moves")
		}
		<-time.After(2 * time.Second)
		if synctest.Wait(); over.Load() != 1 {
			t.Error("not closed in time")
		}
		stop()
		_, stop = gateway.Idle(time.Minute, func() { over.Add(1) })
		stop()
		<-time.After(time.Hour)
		if over.Load() != 1 {
			t.Error("closed after it was stopped, or twice")
		}
	})
}

// An answer that stalls is cut off, and never looks whole.
func TestIdleAnswers(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	up.answerWith(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, "begun")
		_ = http.NewResponseController(rw).Flush()
		<-r.Context().Done()
	})
	w.apply(w.with(plaintext(up.address()), `paths: ["/v1/**"], idleTimeout: 3s`))
	for _, http2 := range []bool{false, true} {
		r := w.request(t.Context(), "GET", nil)
		res, err := w.client(http2, w.tls(host)).Do(r)
		w.must(err)
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if string(body) != "begun" || err == nil {
			t.Errorf("HTTP/2 %v: %q, %v", http2, body, err)
		}
		if o := w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id")); o.Reason != "stream_idle" || o.Status != 200 {
			t.Errorf("HTTP/2 %v: recorded is %+v", http2, o)
		}
	}
}

// What an upstream says of itself stays behind, and where it is asked for its words
// when it fails.
func TestErrorPagesAndServerHeaders(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	up.answerWith(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header()["Server"], rw.Header()["X-Powered-By"] = []string{"secretd/1.2"}, []string{"secretd"}
		switch {
		case strings.HasSuffix(r.URL.Path, "/500"):
			rw.WriteHeader(500)
		case strings.HasSuffix(r.URL.Path, "/404"):
			rw.WriteHeader(404)
		}
		_, _ = io.WriteString(rw, "a trace of secretd")
	})
	for _, c := range []struct {
		spec, path   string
		status       int
		server, page bool
	}{
		{"", "/v1/x", 200, false, false},
		{"", "/v1/500", 500, false, false},
		{"serverHeaders: true, ", "/v1/x", 200, true, false},
		{"errorPages: {}, ", "/v1/x", 200, false, false},
		{"errorPages: {}, ", "/v1/500", 500, false, true},
		{"errorPages: {}, ", "/v1/404", 404, false, false},
		{"errorPages: {statuses: [404]}, ", "/v1/404", 404, false, true},
		{"errorPages: {statuses: [404]}, ", "/v1/500", 500, false, false},
	} {
		w.apply(w.with(plaintext(up.address()), c.spec+`paths: ["/v1/**"]`))
		for _, http2 := range []bool{false, true} {
			res, body := w.ask(w.client(http2, w.tls(host)), "GET", c.path, nil)
			named := res.Header["Server"] != nil || res.Header["X-Powered-By"] != nil
			if res.StatusCode != c.status || named != c.server || strings.Contains(body, "secretd") == c.page {
				t.Errorf("%+v: %d %v %s", c, res.StatusCode, res.Header, body)
			}
			if !c.page {
				continue
			}
			id := res.Header.Get("Sallyport-Decision-Id")
			if p := w.problem(body); p.Reason != "upstream_error" || p.DecisionID != id {
				t.Errorf("%+v: %s", c, body)
			}
			if o := w.records.of(t, "outcome", id); o.Status != c.status || o.Reason != "upstream_error" {
				t.Errorf("%+v: recorded is %+v", c, o)
			}
		}
	}
}
