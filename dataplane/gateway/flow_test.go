package gateway_test

import (
	"io"
	"net/http"
	"testing"
)

// Clients that do not read have little kept for them, however much an upstream would
// send: over HTTP/2 one connection has hundreds of such streams.
func TestNobodyReadsTheAnswers(t *testing.T) {
	const streams, most = 20, 512 << 10
	w := newWorld(t, options{})
	taken := &counter{from: zeros{}}
	w.apply(w.usual(w.upstreams(func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.Copy(rw, taken) // until the client is gone
	})["HTTP/2"]))
	c := w.client(true, w.tls(host))
	c.Transport.(*http.Transport).HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}
	for range streams {
		res, err := c.Do(w.request(t.Context(), "GET", nil))
		w.must(err)
		t.Cleanup(func() { _ = res.Body.Close() })
	}
	taken.settle()
	if n := taken.n.Load(); n < streams || n > streams*most {
		t.Errorf("the upstream has sent %d KiB for each of %d streams that nobody reads", n/streams>>10, streams)
	}
}
