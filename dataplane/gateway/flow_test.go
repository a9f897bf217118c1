package gateway_test

import (
	"bytes"
	"io"
	"net/http"
	"testing"
	"time"
)

// Parts of a file are asked for, and answered, as if nobody stood between.
func TestRanges(t *testing.T) {
	const etag = `"v1"`
	eachWay(t, func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Etag", etag)
		http.ServeContent(rw, r, "alphabet.txt", time.Time{}, bytes.NewReader([]byte("abcdefghijklmnopqrstuvwxyz")))
	}, func(t *testing.T, w *world, c *http.Client) {
		for _, want := range []struct {
			asks, condition string
			status          int
			part, body      string
		}{
			{"bytes=2-5", "", 206, "bytes 2-5/26", "cdef"},
			{"bytes=-3", etag, 206, "bytes 23-25/26", "xyz"},
			{"bytes=2-5", `"v0"`, 200, "", "abcdefghijklmnopqrstuvwxyz"},
			{"bytes=26-", "", 416, "bytes */26", "invalid range: failed to overlap\n"},
		} {
			r := w.request(t.Context(), "GET", nil)
			r.Header.Set("Range", want.asks)
			if want.condition != "" {
				r.Header.Set("If-Range", want.condition)
			}
			res, err := c.Do(r)
			w.must(err)
			if got := w.read(res); res.StatusCode != want.status || res.Header.Get("Content-Range") != want.part || got != want.body {
				t.Errorf("%s if %q: %d %q of %q", want.asks, want.condition, res.StatusCode, got, res.Header.Get("Content-Range"))
			}
		}
	})
}

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
