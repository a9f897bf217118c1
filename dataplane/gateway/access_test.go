package gateway_test

import (
	"bufio"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/dataplane/access"
)

// accessLog is what w is to write, and a function that waits for its next line.
func accessLog(t *testing.T, fields ...string) (l *access.Log, next func() map[string]any) {
	t.Helper()
	r, w := io.Pipe()
	t.Cleanup(func() { _ = r.Close() })
	l, err := access.New(access.Config{Writer: w, Fields: fields, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(r)
	return l, func() (line map[string]any) {
		t.Helper()
		text, err := in.ReadBytes('\n')
		if err != nil || json.Unmarshal(text, &line) != nil {
			t.Fatalf("%v in %q", err, text)
		}
		return line
	}
}

// Each request has one line, however it ended.
func TestAccessLog(t *testing.T) {
	log, next := accessLog(t)
	w := newWorld(t, options{access: log})
	w.run(log.Run)
	up := newEcho(t)
	up.answerWith(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/broken" {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "0123456789")
	})
	w.apply(w.usual(plaintext(up.address())))
	for _, http2 := range []bool{false, true} {
		c := w.client(http2, w.tls(host))
		for _, q := range []struct {
			method, path, body string
			want               map[string]any
		}{
			{"GET", "/v1/orders?x=y", "", map[string]any{"status": 200., "decision": "allow", "reason": "allowed_by_policy", "sent": 10., "endpoint": up.address(), "route": "shop/orders", "principal": "alice", "path": "/v1/orders"}},
			{"POST", "/v1/orders", "abc", map[string]any{"status": 200., "method": "POST", "received": 3.}},
			{"DELETE", "/v1/orders", "", map[string]any{"status": 403., "decision": "deny", "reason": "no_matching_policy", "principal": "alice", "upstream_us": 0.}},
			{"GET", "/v1/broken", "", map[string]any{"status": 502., "decision": "allow", "reason": "upstream_failed", "endpoint": up.address()}},
			{"GET", "/v1/orders/..%2f", "", map[string]any{"status": 400., "decision": "deny", "reason": "path_ambiguous_escape"}},
		} {
			res, body := w.ask(c, q.method, q.path, strings.NewReader(q.body))
			line := next()
			q.want["decision_id"], q.want["sent"], q.want["user_agent"] = res.Header.Get("Sallyport-Decision-Id"), float64(len(body)), "Go-http-client/"+res.Proto[5:]
			for key, value := range q.want {
				if line[key] != value {
					t.Errorf("%s %s, HTTP/2 %t: %s is %v, not %v, in %v", q.method, q.path, http2, key, line[key], value, line)
				}
			}
			if us, _ := line["took_us"].(float64); us <= 0 {
				t.Errorf("it took %v", line["took_us"])
			}
		}
	}
	w.raw("BREW / HTTP/1.1\r\nHost: " + host + "\r\n bad\r\n\r\n")
	if line := next(); line["status"] != 400. || line["reason"] != "header_folded" {
		t.Errorf("the line of what is no HTTP is %v", line)
	}
}
