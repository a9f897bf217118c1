package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/identity"
)

// upstreams are the ways to an upstream that answers with h.
func (w *world) upstreams(h http.HandlerFunc) map[string]string {
	w.t.Helper()
	plain, secure := newEcho(w.t), newEchoTLS(w.t, identity.ServerConfig(w.identified("spiffe://prod.example/ns/shop/orders"), identity.Only(self)))
	plain.answerWith(h)
	secure.answerWith(h)
	return map[string]string{
		"HTTP/1.1": plaintext(plain.address()),
		"HTTP/2":   fmt.Sprintf(`spiffe: {peerIds: ["spiffe://prod.example/ns/shop/*"]}, endpoints: [%q]`, secure.address()),
	}
}

// eachWay runs a test with HTTP/1.1 and HTTP/2 on both sides.
func eachWay(t *testing.T, h http.HandlerFunc, test func(t *testing.T, w *world, c *http.Client)) {
	t.Helper()
	w := newWorld(t, options{})
	for to, upstream := range w.upstreams(h) {
		w.apply(w.usual(upstream))
		for from, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
			t.Run(from+" to "+to, func(t *testing.T) {
				w.t = t
				test(t, w, w.client(http2, w.tls(host)))
			})
		}
	}
	w.t = t
	w.settle()
}

// settle waits until no request is under way.
func (w *world) settle() {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); w.metric("sallyport_requests_in_flight") != "0"; {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s requests never end", w.metric("sallyport_requests_in_flight"))
		}
		<-time.After(time.Millisecond)
	}
}

// request is one of alice's.
func (w *world) request(ctx context.Context, method string, body io.Reader) *http.Request {
	w.t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, "https://"+host+"/v1/orders", body)
	w.must(err)
	r.Header.Set("Authorization", "Bearer "+w.tokens.sign(nil))
	return r
}

// flush is for servers, whose client may be gone by now.
func flush(rw http.ResponseWriter) { _ = http.NewResponseController(rw).Flush() }

// Events arrive when they happen, not when there are enough of them.
func TestEventStream(t *testing.T) {
	next := make(chan string)
	eachWay(t, func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "text/event-stream")
		flush(rw)
		for event := range next {
			if event == "" {
				return
			}
			_, _ = io.WriteString(rw, event)
			flush(rw)
		}
	}, func(t *testing.T, w *world, c *http.Client) {
		res, err := c.Do(w.request(t.Context(), "GET", nil)) // the head, before any event
		w.must(err)
		defer res.Body.Close()
		for i := range 3 {
			event := fmt.Sprintf("data: %d\n\n", i)
			next <- event
			got := make([]byte, len(event))
			if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != event {
				t.Fatalf("%v, got %q, want %q", err, got, event)
			}
		}
		next <- ""
		if rest, err := io.ReadAll(res.Body); err != nil || len(rest) != 0 {
			t.Errorf("%v, %q", err, rest)
		}
	})
}

// Both sides speak at once, line by line.
func TestBothWaysAtOnce(t *testing.T) {
	eachWay(t, func(rw http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(rw).EnableFullDuplex()
		flush(rw)
		for lines := bufio.NewScanner(r.Body); lines.Scan(); flush(rw) {
			fmt.Fprintln(rw, strings.ToUpper(lines.Text()))
		}
	}, func(t *testing.T, w *world, c *http.Client) {
		body, sends := io.Pipe()
		go func() { fmt.Fprintln(sends, "first") }()
		res, err := c.Do(w.request(t.Context(), "POST", body))
		w.must(err)
		defer res.Body.Close()
		lines := bufio.NewScanner(res.Body)
		for i := range 50 {
			if i > 0 {
				fmt.Fprintln(sends, "line", i)
			}
			if want := strings.ToUpper(map[bool]string{true: "first", false: fmt.Sprint("line ", i)}[i == 0]); !lines.Scan() || lines.Text() != want {
				t.Fatalf("got %q, %v, want %q", lines.Text(), lines.Err(), want)
			}
		}
		_ = sends.Close()
		if lines.Scan() || lines.Err() != nil {
			t.Errorf("after the end %q, %v", lines.Text(), lines.Err())
		}
	})
}

// An upstream that has answered before the client is done must not be waited
// for, and neither must the client.
func TestUpstreamEndsFirst(t *testing.T) {
	eachWay(t, func(rw http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(rw).EnableFullDuplex()
		_, _ = r.Body.Read(make([]byte, 1))
		rw.WriteHeader(http.StatusRequestEntityTooLarge)
		flush(rw)
		<-time.After(30 * time.Millisecond) // in which a proxy may lose patience
		_, _ = io.WriteString(rw, "enough")
	}, func(t *testing.T, w *world, c *http.Client) {
		body, sends := io.Pipe()
		defer sends.Close()
		go func() { _, _ = io.WriteString(sends, "some, and nothing more for ever") }()
		res, err := c.Do(w.request(t.Context(), "POST", body))
		w.must(err)
		if got := w.read(res); got != "enough" || res.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%d %q", res.StatusCode, got)
		}
		w.settle() // while the client still holds its request open
	})
}

// Whoever does not wait for the answer any more does not keep an upstream busy.
func TestClientGivesUp(t *testing.T) {
	gone := make(chan struct{}, 1)
	eachWay(t, func(rw http.ResponseWriter, r *http.Request) {
		flush(rw)
		<-r.Context().Done()
		gone <- struct{}{}
	}, func(t *testing.T, w *world, c *http.Client) {
		ctx, cancel := context.WithCancel(t.Context())
		res, err := c.Do(w.request(ctx, "GET", nil))
		w.must(err)
		cancel()
		_ = res.Body.Close()
		select {
		case <-gone:
		case <-time.After(30 * time.Second):
			t.Fatal("the upstream still works on it")
		}
		if o := w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id")); o.Reason != "client_gone" || o.Status != 200 {
			t.Errorf("recorded was %+v", o)
		}
	})
}

func TestClientGivesUpBeforeTheAnswer(t *testing.T) {
	came, gone := make(chan string, 1), make(chan struct{}, 1)
	eachWay(t, func(_ http.ResponseWriter, r *http.Request) {
		came <- r.Header.Get("Sallyport-Decision-Id")
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		gone <- struct{}{}
	}, func(t *testing.T, w *world, c *http.Client) {
		ctx, cancel := context.WithCancel(t.Context())
		var id string
		go func() {
			id = <-came
			cancel()
		}()
		if _, err := c.Do(w.request(ctx, "POST", strings.NewReader("x"))); err == nil {
			t.Error("there was an answer")
		}
		<-gone
		if o := w.records.of(t, "outcome", id); o.Reason != "client_gone" || o.Status != 499 {
			t.Errorf("recorded was %+v", o)
		}
	})
}

// An answer that breaks off must not look whole.
func TestInterruptedAnswer(t *testing.T) {
	for name, header := range map[string]string{"with a length": "100", "without": ""} {
		t.Run(name, func(t *testing.T) {
			eachWay(t, func(rw http.ResponseWriter, _ *http.Request) {
				if header != "" {
					rw.Header().Set("Content-Length", header)
				}
				_, _ = io.WriteString(rw, "the beginning")
				flush(rw)
				panic(http.ErrAbortHandler)
			}, func(t *testing.T, w *world, c *http.Client) {
				res, err := c.Do(w.request(t.Context(), "GET", nil))
				w.must(err)
				defer res.Body.Close()
				if got, err := io.ReadAll(res.Body); err == nil {
					t.Errorf("%q seems to be whole", got)
				}
				o := w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id"))
				if o.Reason != "upstream_interrupted" || o.Status != 200 || o.Sent != len("the beginning") {
					t.Errorf("recorded was %+v", o)
				}
			})
		})
	}
}

func TestTrailers(t *testing.T) {
	eachWay(t, func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Trailer", "X-Announced")
		_, _ = io.Copy(rw, r.Body)
		rw.Header().Set("X-Announced", "yes")
		rw.Header().Set(http.TrailerPrefix+"X-Surprise", "too")
		rw.Header().Set(http.TrailerPrefix+"X-Got", r.Trailer.Get("X-Sum")+r.Trailer.Get("Authorization")+r.Trailer.Get("X-Forwarded-For"))
	}, func(t *testing.T, w *world, c *http.Client) {
		r := w.request(t.Context(), "POST", io.NopCloser(strings.NewReader("body")))
		r.Trailer = http.Header{"X-Sum": {"7"}, "X-Forwarded-For": {"6.6.6.6"}}
		res, err := c.Do(r)
		w.must(err)
		if got := w.read(res); got != "body" {
			t.Errorf("got %q", got)
		}
		want := map[string]string{"X-Announced": "yes", "X-Surprise": "too", "X-Got": "7"}
		for name := range want {
			if got := res.Trailer.Get(name); got != want[name] {
				t.Errorf("trailer %s: %q, want %q", name, got, want[name])
			}
		}
	})
}

// A trailer that nobody announced comes behind an answer however short it is.
func TestTrailersThatSurprise(t *testing.T) {
	eachWay(t, func(rw http.ResponseWriter, _ *http.Request) {
		flush(rw)
		_, _ = io.WriteString(rw, "short")
		rw.Header().Set(http.TrailerPrefix+"X-Surprise", "yes")
	}, func(t *testing.T, w *world, c *http.Client) {
		res, err := c.Do(w.request(t.Context(), "GET", nil))
		w.must(err)
		if got := w.read(res); got != "short" || res.Trailer.Get("X-Surprise") != "yes" {
			t.Errorf("%q, trailer %v", got, res.Trailer)
		}
	})
}

func TestEarlyHints(t *testing.T) {
	eachWay(t, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Link", "</style.css>; rel=preload")
		rw.Header().Set("X-Hidden", "1")
		rw.WriteHeader(http.StatusEarlyHints)
		rw.Header().Del("Link")
		rw.Header().Del("X-Hidden")
		_, _ = io.WriteString(rw, "answer")
	}, func(t *testing.T, w *world, c *http.Client) {
		var hinted []string
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				hinted = append(hinted, fmt.Sprint(code, h))
				return nil
			},
		})
		res, err := c.Do(w.request(ctx, "GET", nil))
		w.must(err)
		if got := w.read(res); got != "answer" || res.Header.Get("Link") != "" {
			t.Errorf("%q %v", got, res.Header)
		}
		if len(hinted) != 1 || hinted[0] != "103 map[Link:[</style.css>; rel=preload]]" {
			t.Errorf("hinted was %q", hinted)
		}
	})
}

// Who has hints without end is not waited for.
func TestEarlyHintsWithoutEnd(t *testing.T) {
	eachWay(t, func(rw http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			rw.WriteHeader(http.StatusEarlyHints)
		}
	}, func(t *testing.T, w *world, c *http.Client) {
		told := 0
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(int, textproto.MIMEHeader) error {
				told++
				return nil
			},
		})
		res, err := c.Do(w.request(ctx, "GET", nil))
		w.must(err)
		if got := w.read(res); res.StatusCode != http.StatusBadGateway || w.problem(got).Reason != "upstream_malformed" {
			t.Errorf("%d %s", res.StatusCode, got)
		}
		if told > 32 {
			t.Errorf("%d hints were handed on", told)
		}
	})
}

// A client that asks before it sends gets its answer without sending.
func TestExpectContinue(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.usual(plaintext(up.address())))
	expect := func(head string) (*bufio.Reader, net.Conn) {
		conn := w.dial("http/1.1")
		t.Cleanup(func() { _ = conn.Close() })
		w.send(conn, head+"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n")
		return bufio.NewReader(conn), conn
	}
	status := func(r *bufio.Reader) int {
		t.Helper()
		res, err := http.ReadResponse(r, nil)
		w.must(err)
		defer res.Body.Close()
		return res.StatusCode
	}
	answers, conn := expect(post)
	if got := status(answers); got != 100 {
		t.Fatalf("got %d", got)
	}
	w.send(conn, "body")
	if got := status(answers); got != 200 {
		t.Errorf("got %d", got)
	}
	// Whoever is refused did not send, and is not waited for.
	up.answerWith(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(413) })
	for head, want := range map[string]int{strings.Replace(post, "TOKEN", "x", 1): 401, post: 413} {
		answers, _ = expect(head)
		if got := status(answers); got != want {
			t.Errorf("got %d, want %d", got, want)
		}
		if rest, err := io.ReadAll(answers); err != nil {
			t.Errorf("the connection stays open: %v, %q", err, rest)
		}
	}
}

// How long a client keeps its connection is not the upstream's business.
func TestConnectionsAreTheirOwn(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.usual(plaintext(up.address())))
	for range 3 {
		if res, body := w.raw(get + "Connection: close\r\n\r\n"); res.StatusCode != 200 || !res.Close {
			t.Errorf("%d %t %s", res.StatusCode, res.Close, body)
		}
	}
	if n := up.conns.Load(); n != 1 {
		t.Errorf("%d connections to the upstream, want 1", n)
	}
}

func TestAnswersWithoutBody(t *testing.T) {
	eachWay(t, func(rw http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("X-Want") {
		case "204":
			rw.WriteHeader(http.StatusNoContent)
		case "304":
			rw.Header().Set("Etag", `"7"`)
			rw.WriteHeader(http.StatusNotModified)
		case "empty":
			rw.Header().Set("Content-Length", "0")
		default:
			rw.Header().Set("Content-Length", "1234")
		}
	}, func(t *testing.T, w *world, c *http.Client) {
		for want, status := range map[string]int{"204": 204, "304": 304, "empty": 200} {
			r := w.request(t.Context(), "GET", nil)
			r.Header.Set("X-Want", want)
			res, err := c.Do(r)
			w.must(err)
			if got := w.read(res); got != "" || res.StatusCode != status || want == "empty" && res.ContentLength != 0 {
				t.Errorf("%s: %d %q %d", want, res.StatusCode, got, res.ContentLength)
			}
		}
	})
}

func TestHead(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	up.answerWith(func(rw http.ResponseWriter, _ *http.Request) { rw.Header().Set("Content-Length", "1234") })
	w.apply(strings.Replace(w.usual(plaintext(up.address())), "methods: [GET, POST]", "methods: [HEAD]", 1))
	for _, http2 := range []bool{false, true} {
		res, body := w.ask(w.client(http2, w.tls(host)), "HEAD", "/v1/orders", nil)
		if res.StatusCode != 200 || body != "" || res.ContentLength != 1234 {
			t.Errorf("HTTP/2 %t: %d %q %d", http2, res.StatusCode, body, res.ContentLength)
		}
	}
}

func TestLargeBodies(t *testing.T) {
	eachWay(t, func(rw http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(rw).EnableFullDuplex()
		_, _ = io.Copy(rw, r.Body)
	}, func(t *testing.T, w *world, c *http.Client) {
		const size = 8 << 20
		res, err := c.Do(w.request(t.Context(), "POST", io.LimitReader(zeros{}, size)))
		w.must(err)
		defer res.Body.Close()
		if n, err := io.Copy(io.Discard, res.Body); n != size || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		o := w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id"))
		if o.Sent != size || o.Received != size || o.Reason != "" || o.Status != 200 || o.Endpoint == "" {
			t.Errorf("recorded was %+v", o)
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
