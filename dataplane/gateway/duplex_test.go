package gateway_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// An upstream that breaks off is not waited for, although the client holds its
// request open for ever.
func TestUpstreamBreaksOffFirst(t *testing.T) {
	eachWay(t, func(rw http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(rw).EnableFullDuplex()
		_, _ = r.Body.Read(make([]byte, 1))
		_, _ = io.WriteString(rw, "some")
		flush(rw)
		if conn, _, err := http.NewResponseController(rw).Hijack(); err == nil {
			_ = conn.Close() // at once, where the server would wait for the body
			return
		}
		panic(http.ErrAbortHandler)
	}, func(t *testing.T, w *world, c *http.Client) {
		body, sends := io.Pipe()
		defer sends.Close()
		go func() { _, _ = io.WriteString(sends, "more, and nothing more for ever") }()
		res, err := c.Do(w.request(t.Context(), "POST", body))
		w.must(err)
		defer res.Body.Close()
		if got, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("%q seems to be whole", got)
		}
		o := w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id"))
		if o.Reason != "upstream_interrupted" || o.Received == 0 || o.Sent != len("some") {
			t.Errorf("recorded was %+v", o)
		}
		w.settle()
	})
}

// A client keeps its connection when an upstream answers before it has seen the end
// of the request, as most do to a call whose only message has come.
func TestConnectionIsKeptAfterAnEarlyAnswer(t *testing.T) {
	w := newWorld(t, options{})
	for to, upstream := range w.upstreams(func(rw http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(rw).EnableFullDuplex()
		_, _ = io.ReadFull(r.Body, make([]byte, len("some")))
		_, _ = io.WriteString(rw, "enough")
	}) {
		w.apply(w.usual(upstream))
		conn := w.dial("http/1.1")
		answers := bufio.NewReader(conn)
		for range 3 {
			w.send(conn, post+"Transfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n")
			res, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatalf("to %s: %v", to, err)
			}
			if got := w.read(res); got != "enough" || res.Close {
				t.Errorf("to %s: %q, closes %t", to, got, res.Close)
			}
			w.send(conn, "0\r\n\r\n")
		}
		w.must(conn.Close())
	}
	w.settle()
}

// A client that leaves, or is cut off, while the upstream takes nothing of what
// it sends does not keep either of them. Over HTTP/1.1 nobody can see a client
// leave that has more to send than is read.
func TestNobodyTakesTheRequest(t *testing.T) {
	written := make(chan struct{})
	w := newWorld(t, options{})
	for to, upstream := range w.upstreams(func(rw http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(rw).EnableFullDuplex()
		flush(rw) // the answer begins, and nothing is read
		select {
		case <-r.Context().Done(): // HTTP/2
		case <-written: // HTTP/1.1
		}
	}) {
		w.apply(w.usual(upstream))
		for _, http2 := range []bool{true, false} {
			for reason, end := range map[string]func(leave func()){
				"client_gone": func(leave func()) { leave() },
				"revoked":     func(func()) { w.gateway.CloseStreams(everyStream, revoked) },
			} {
				if reason == "client_gone" && !http2 {
					continue
				}
				ctx, cancel := context.WithCancel(t.Context())
				taken := &counter{from: zeros{}}
				res, err := w.client(http2, w.tls(host)).Do(w.request(ctx, "POST", taken))
				w.must(err)
				taken.settle()
				end(func() { cancel(); _ = res.Body.Close() })
				if o := w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id")); o.Reason != reason {
					t.Errorf("to %s, HTTP/2 %t: recorded was %+v", to, http2, o)
				}
				cancel()
				_ = res.Body.Close()
			}
		}
	}
	w.settle()
	close(written)
}

// counter counts what is read of it.
type counter struct {
	from io.Reader
	n    atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// settle waits until nothing moves any more.
func (c *counter) settle() {
	for last := int64(-1); last != c.n.Load(); {
		last = c.n.Load()
		<-time.After(50 * time.Millisecond)
	}
}
