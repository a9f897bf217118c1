package http1_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/upstream/http1"
)

const hello = ok + "Content-Length: 5\r\n\r\nhello"

// counted counts connections.
func counted(serve func(net.Conn)) (func(net.Conn), *atomic.Int64) {
	n := new(atomic.Int64)
	return func(conn net.Conn) {
		n.Add(1)
		serve(conn)
	}, n
}

// settle waits until something holds.
func settle(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

// A connection is used again after an answer that ended where it said, and that
// nothing followed.
func TestReuse(t *testing.T) {
	for name, c := range map[string]struct {
		method, first string
		conns         int64 // for two requests
	}{
		"with a length":       {"GET", hello, 1},
		"in chunks":           {"GET", chunked + "5\r\nhello\r\n0\r\n\r\n", 1},
		"with a trailer":      {"GET", chunked + "5\r\nhello\r\n0\r\nX-A: b\r\n\r\n", 1},
		"large":               {"GET", ok + "Content-Length: 100000\r\n\r\n" + strings.Repeat("x", 100_000), 1},
		"empty":               {"GET", ok + "Content-Length: 0\r\n\r\n", 1},
		"to HEAD":             {"HEAD", ok + "Content-Length: 5\r\n\r\n", 1},
		"204":                 {"GET", "HTTP/1.1 204 No Content\r\n\r\n", 1},
		"304":                 {"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 1},
		"behind a 103":        {"GET", "HTTP/1.1 103 Early Hints\r\n\r\n" + hello, 1},
		"that closes":         {"GET", ok + "Connection: x, Close\r\nContent-Length: 5\r\n\r\nhello", 2},
		"of HTTP/1.0":         {"GET", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 2},
		"of HTTP/1.0 for now": {"GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", 2},
		"with more behind":    {"GET", hello + "x", 2},
		"two at once":         {"GET", hello + hello, 2},
		"to HEAD with a body": {"HEAD", hello, 2},
		"304 with a body":     {"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello", 2},
		"chunks and more":     {"GET", chunked + "0\r\n\r\n\r\n", 2},
	} {
		for over, listen := range map[string]func(*testing.T, func(net.Conn)) *endpoint{"TCP": listen, "TLS": listenTLS} {
			serve, conns := counted(inTurn(c.first, hello))
			e := listen(t, serve)
			client := newClient(t, e, limits, nil)
			if _, err := ask(client, e.request(c.method, nil)); err != nil {
				t.Errorf("%s over %s: %v", name, over, err)
			}
			a, err := ask(client, e.request("GET", nil))
			if err != nil || a.Body != "hello" || conns.Load() != c.conns {
				t.Errorf("%s over %s: %d connections, want %d; %v %v", name, over, conns.Load(), c.conns, a, err)
			}
		}
	}
}

// What comes, or ends, between requests is noticed before the next one.
func TestIdleConnectionsThatEnd(t *testing.T) {
	for name, then := range map[string]func(net.Conn){
		"an end":                  func(conn net.Conn) { linger(conn) },
		"a close":                 func(conn net.Conn) { _ = conn.Close() },
		"an answer nobody wanted": func(conn net.Conn) { _, _ = io.WriteString(conn, hello); _, _ = io.Copy(io.Discard, conn) },
		"a byte nobody wanted":    func(conn net.Conn) { _, _ = io.WriteString(conn, "x"); _, _ = io.Copy(io.Discard, conn) },
	} {
		for over, listen := range map[string]func(*testing.T, func(net.Conn)) *endpoint{"TCP": listen, "TLS": listenTLS} {
			next := make(chan struct{})
			serve, conns := counted(func(conn net.Conn) {
				in := bufio.NewReader(conn)
				if _, err := http.ReadRequest(in); err != nil {
					return
				}
				_, _ = io.WriteString(conn, ok+"Content-Length: 1\r\n\r\n1")
				<-next
				then(conn)
			})
			e := listen(t, serve)
			client := newClient(t, e, limits, nil)
			_, err := ask(client, e.request("POST", nil))
			must(t, err)
			next <- struct{}{}
			settle(t, name+" over "+over, func() bool {
				c := client.Take()
				if c != nil {
					c.GiveBack()
				}
				return c == nil
			})
			close(next)
			a, err := ask(client, e.request("POST", nil))
			if err != nil || a.Body != "1" || conns.Load() != 2 {
				t.Errorf("%s over %s: %v %v, %d connections", name, over, a, err, conns.Load())
			}
		}
	}
}

// ownBody is a body that says whether it was closed, and fails when it is read
// after that.
type ownBody struct {
	io.Reader
	whole  bool
	closed atomic.Bool
}

func (b *ownBody) Whole() bool { return b.whole }

func (b *ownBody) Close() error {
	b.closed.Store(true)
	return nil
}

// What goes out is what was asked for, byte by byte.
func TestRequests(t *testing.T) {
	const head = " /v1/orders?a=b;c HTTP/1.1\r\nHost: "
	for name, c := range map[string]struct {
		method, body string
		change       func(*http.Request)
		want         string
	}{
		"without a body":      {"GET", "", nil, "GET" + head + "HOST\r\n\r\n"},
		"POST without a body": {"POST", "", nil, "POST" + head + "HOST\r\nContent-Length: 0\r\n\r\n"},
		"with a field": {"GET", "", func(r *http.Request) { r.Header = http.Header{"x-a": {"b", "c\xe9"}, "User-Agent": nil} },
			"GET" + head + "HOST\r\nx-a: b\r\nx-a: c\xe9\r\n\r\n"},
		"with framing that is not its own": {"GET", "", func(r *http.Request) {
			r.Header = http.Header{"Content-Length": {"7"}, "Transfer-Encoding": {"chunked"}, "Trailer": {"X"}, "Host": {"a"}}
		}, "GET" + head + "HOST\r\n\r\n"},
		"with another host": {"GET", "", func(r *http.Request) { r.Host = "api.shop.example" }, "GET" + head + "api.shop.example\r\n\r\n"},
		"as it is":          {"GET", "", func(r *http.Request) { r.URL.Opaque, r.URL.RawQuery = "/a;b/%C3%A9/c%2Bd?x=%2f;y", "" }, "GET /a;b/%C3%A9/c%2Bd?x=%2f;y HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"that closes":       {"GET", "", func(r *http.Request) { r.Close = true }, "GET" + head + "HOST\r\nConnection: close\r\n\r\n"},
		"with a length": {"POST", "hello", func(r *http.Request) { r.ContentLength = 5 },
			"POST" + head + "HOST\r\nContent-Length: 5\r\n\r\nhello"},
		"in chunks": {"POST", "hello", nil, "POST" + head + "HOST\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"},
		"in chunks, with a trailer": {"POST", "hello", func(r *http.Request) { r.Trailer = http.Header{"X-Sum": {"7"}} },
			"POST" + head + "HOST\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n"},
	} {
		for _, whole := range []bool{false, true} {
			seen := make(chan string, 1)
			e := listen(t, func(conn net.Conn) {
				var all strings.Builder
				in := bufio.NewReader(io.TeeReader(conn, &all))
				r, err := http.ReadRequest(in)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				seen <- all.String()
				_, _ = io.WriteString(conn, hello)
			})
			var body io.Reader
			own := &ownBody{Reader: strings.NewReader(c.body), whole: whole}
			if c.body != "" {
				body = own
			}
			r := e.request(c.method, body)
			if c.change != nil {
				c.change(r)
			}
			_, err := ask(newClient(t, e, limits, nil), r)
			must(t, err)
			if got, want := <-seen, strings.ReplaceAll(c.want, "HOST", e.ln.Addr().String()); got != want {
				t.Errorf("%s, whole %t: got\n%q\nwant\n%q", name, whole, got, want)
			}
			if body != nil && !own.closed.Load() {
				t.Errorf("%s, whole %t: the body was not closed", name, whole)
			}
		}
	}
}

// A request that would be read as another one is not sent.
func TestRequestsThatAreNotSent(t *testing.T) {
	serve, conns := counted(each(hello))
	e := listen(t, serve)
	client := newClient(t, e, limits, nil)
	for name, change := range map[string]func(*http.Request){
		"a space in the method": func(r *http.Request) { r.Method = "GET /" },
		"CONNECT":               func(r *http.Request) { r.Method = "CONNECT" },
		"a space in the target": func(r *http.Request) { r.URL.Opaque = "/a HTTP/1.1" },
		"a line in the target":  func(r *http.Request) { r.URL.Opaque = "/a\r\nX-A:b" },
		"a line in the host":    func(r *http.Request) { r.Host = "a\r\nX-A:b" },
		"a line in a name":      func(r *http.Request) { r.Header["X-A: b\r\nX-B"] = []string{"c"} },
		"a line in a value":     func(r *http.Request) { r.Header["X-A"] = []string{"b\r\nX-B: c"} },
		"LF in a value":         func(r *http.Request) { r.Header["X-A"] = []string{"b\nX-B: c"} },
		"framing in a trailer":  func(r *http.Request) { r.Trailer = http.Header{"Content-Length": {"7"}} },
		"no token in a trailer": func(r *http.Request) { r.Trailer = http.Header{"X A": {"7"}} },
	} {
		body := &ownBody{Reader: strings.NewReader("hello")}
		r := e.request("POST", body)
		change(r)
		if a, err := ask(client, r); err == nil || http1.Repeatable(r, err) {
			t.Errorf("%s: %v %v", name, a, err)
		}
		if !body.closed.Load() {
			t.Errorf("%s: the body was not closed", name)
		}
	}
	if a, err := ask(client, e.request("GET", nil)); err != nil || conns.Load() != 1 {
		t.Errorf("%v, %v, %d connections, want the one that nothing was sent over", a, err, conns.Load())
	}
}

// A body that is not what it was said to be is never made to look whole.
func TestBodiesThatBreak(t *testing.T) {
	broke := errors.New("the client broke off")
	for name, c := range map[string]struct {
		body   io.Reader
		length int64
	}{
		"too short":             {strings.NewReader("hell"), 5},
		"too long":              {strings.NewReader("hello!"), 5},
		"broken":                {io.MultiReader(strings.NewReader("hel"), failing{broke}), 5},
		"broken, in chunks":     {io.MultiReader(strings.NewReader("hel"), failing{broke}), -1},
		"broken from the start": {failing{broke}, 5},
	} {
		for _, whole := range []bool{false, true} {
			got := make(chan error, 1)
			e := listen(t, func(conn net.Conn) {
				r, err := http.ReadRequest(bufio.NewReader(conn))
				if err == nil {
					_, err = io.Copy(io.Discard, r.Body)
				}
				got <- err
			})
			r := e.request("POST", &ownBody{Reader: c.body, whole: whole})
			r.ContentLength = c.length
			a, err := ask(newClient(t, e, limits, nil), r)
			if err == nil || strings.HasPrefix(name, "broken") != errors.Is(err, broke) || http1.Repeatable(r, err) {
				t.Errorf("%s, whole %t: %v %v", name, whole, a, err)
			}
			if err := <-got; err == nil && name != "too long" {
				t.Errorf("%s, whole %t: it looks whole", name, whole)
			}
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// The answer comes while the request is on its way, and the other way round.
func TestBothWaysAtOnce(t *testing.T) {
	e := listen(t, func(conn net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, ok+"Transfer-Encoding: chunked\r\n\r\n")
		for in := bufio.NewScanner(r.Body); in.Scan(); {
			_, _ = io.WriteString(conn, "2\r\n"+strings.ToUpper(in.Text())+"\n\r\n")
		}
		_, _ = io.WriteString(conn, "0\r\n\r\n")
		_, _ = io.Copy(io.Discard, conn)
	})
	client := newClient(t, e, limits, nil)
	body, sends := io.Pipe()
	res, err := client.RoundTrip(e.request("POST", body))
	must(t, err)
	in := bufio.NewScanner(res.Body)
	for range 100 {
		_, _ = io.WriteString(sends, "x\n")
		if !in.Scan() || in.Text() != "X" {
			t.Fatalf("got %q, %v", in.Text(), in.Err())
		}
	}
	_ = sends.Close()
	if in.Scan() || in.Err() != nil {
		t.Errorf("after the end %q, %v", in.Text(), in.Err())
	}
	if client.Idle() != 1 {
		t.Error("the connection was not kept")
	}
}

// An answer that has ended before the request has is whole. What is left of the
// request is not sent, and nobody waits for it.
func TestAnswersThatComeEarly(t *testing.T) {
	for name, c := range map[string]struct {
		length int64
		sends  string
	}{
		"with a length": {100, hello}, "in chunks": {-1, hello}, "413 that closes": {-1, strings.Replace(hello, "OK\r\n", "OK\r\nConnection: close\r\n", 1)},
	} {
		e := listen(t, func(conn net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, c.sends)
			linger(conn)
		})
		client := newClient(t, e, limits, nil)
		reads, sends := io.Pipe()
		r := e.request("POST", reads)
		r.ContentLength = c.length
		go func() { _, _ = io.WriteString(sends, "some") }()
		a, err := ask(client, r)
		if err != nil || a.Body != "hello" || client.Idle() != 0 {
			t.Errorf("%s: %v %v", name, a, err)
		}
		settle(t, "the body is closed", func() bool { _, err := io.WriteString(sends, "more"); return err != nil })
	}
}

// A request that asks first sends its body when it is told to, or nobody says
// anything, and not when it is answered.
func TestExpectContinue(t *testing.T) {
	for name, c := range map[string]struct {
		before, after string // the body
		sent          string
		patience      time.Duration
	}{
		"it may":              {"HTTP/1.1 100 Continue\r\n\r\n", hello, "body", time.Minute},
		"it may not":          {hello, "", "", time.Minute},
		"nobody says":         {"", hello, "body", time.Millisecond},
		"something else said": {"HTTP/1.1 103 Early Hints\r\n\r\n", hello, "body", 50 * time.Millisecond},
	} {
		got := make(chan string, 1)
		e := listen(t, func(conn net.Conn) {
			r, err := http.ReadRequest(bufio.NewReader(conn))
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, c.before)
			body, _ := io.ReadAll(r.Body)
			got <- string(body)
			_, _ = io.WriteString(conn, c.after)
		})
		l := limits
		l.Continue = c.patience
		client := newClient(t, e, l, nil)
		r := e.request("POST", &ownBody{Reader: strings.NewReader("body"), whole: true})
		r.ContentLength = 4
		r.Header.Set("Expect", "100-continue")
		a, err := ask(client, r)
		if body := <-got; err != nil || a.Body != "hello" || body != c.sent {
			t.Errorf("%s: %v %v, sent was %q", name, a, err, body)
		}
		if kept := client.Idle() == 1; kept != (c.sent != "") {
			t.Errorf("%s: kept is %t", name, kept)
		}
	}
}

// Whoever gives up does so at once, wherever the request is.
func TestGivingUp(t *testing.T) {
	gaveUp := errors.New("the client gave up")
	for name, c := range map[string]struct {
		method, sends string
	}{
		"before the answer":  {"GET", ""},
		"in the head":        {"GET", ok},
		"within the answer":  {"GET", ok + "Content-Length: 5\r\n\r\nhell"},
		"in chunks":          {"GET", chunked + "5\r\nhell"},
		"up to the end":      {"GET", ok + "\r\nhell"},
		"within the request": {"POST", ""},
		"within both":        {"POST", chunked + "ffff\r\nhell"},
	} {
		said, gone := make(chan struct{}), make(chan struct{})
		e := listen(t, func(conn net.Conn) {
			defer close(gone)
			in := bufio.NewReader(conn)
			if _, err := http.ReadRequest(in); err != nil {
				return
			}
			_, _ = io.WriteString(conn, c.sends)
			close(said)
			if c.method == "GET" {
				_, _ = io.Copy(io.Discard, in)
				return
			}
			settle(t, name+": the connection ends", func() bool { _, err := io.WriteString(conn, "0"); return err != nil })
		})
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			<-said
			<-time.After(5 * time.Millisecond)
			cancel(gaveUp)
		}()
		var body io.Reader
		if c.method == "POST" {
			body = zeros{}
		}
		client := newClient(t, e, limits, nil)
		if a, err := ask(client, e.request(c.method, body).WithContext(ctx)); !errors.Is(err, gaveUp) || client.Idle() != 0 {
			t.Errorf("%s: %v %v", name, a, err)
		}
		<-gone
		cancel(nil)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// An endpoint that neither takes nor says anything is given up in time.
func TestPatience(t *testing.T) {
	end := make(chan struct{})
	for name, c := range map[string]struct {
		body  io.Reader
		sends string
	}{
		"for taking the request": {zeros{}, ""},
		"for the answer":         {nil, ok + "Content-Length: 5\r\n\r\nhell"},
	} {
		e := listen(t, func(conn net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, c.sends)
			<-end
		})
		l := limits
		l.Write, l.Silence = 50*time.Millisecond, 50*time.Millisecond
		if c.body != nil {
			l.Silence = time.Minute
		}
		r := e.request("POST", c.body)
		if a, err := ask(newClient(t, e, l, nil), r); !isTimeout(err) || http1.Repeatable(r, err) {
			t.Errorf("%s: %v %v", name, a, err)
		}
	}
	close(end)
}

// Until an answer begins it is the request's context that limits how long that takes,
// also over a connection whose last answer was limited.
func TestPatienceWithHeads(t *testing.T) {
	in := make(chan string, 2)
	e := listen(t, func(conn net.Conn) {
		for requests := bufio.NewReader(conn); ; {
			if _, err := http.ReadRequest(requests); err != nil {
				return
			}
			_, _ = io.WriteString(conn, <-in)
			_, _ = io.WriteString(conn, <-in)
		}
	})
	l := limits
	l.Silence = 50 * time.Millisecond
	client := newClient(t, e, l, nil)
	for range 3 {
		time.AfterFunc(2*l.Silence, func() {
			in <- ok + "Content-Length: 5\r\n\r\n"
			time.AfterFunc(l.Silence/5, func() { in <- "hello" })
		})
		if a, err := ask(client, e.request("GET", nil)); err != nil || a.Body != "hello" || client.Idle() != 1 {
			t.Errorf("%v %v, %d kept", a, err, client.Idle())
		}
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// Closing an answer that was not read to its end ends the connection, and a read
// that waits.
func TestClosingEarly(t *testing.T) {
	e := listen(t, each(ok+"Content-Length: 5\r\n\r\nhell"))
	client := newClient(t, e, limits, nil)
	res, err := client.RoundTrip(e.request("GET", nil))
	must(t, err)
	read := make(chan error)
	go func() {
		_, err := io.ReadAll(res.Body)
		read <- err
	}()
	_ = res.Body.Close()
	if err := <-read; err == nil || client.Idle() != 0 {
		t.Errorf("read: %v, %d kept", err, client.Idle())
	}
	_ = res.Body.Close()
}

// Only what an endpoint has not seen, or what changes nothing, may be sent again.
func TestRepeatable(t *testing.T) {
	silent := listen(t, func(conn net.Conn) { _, _ = http.ReadRequest(bufio.NewReader(conn)) })
	halfway := listen(t, say("HTTP/1.1 2"))
	early := listen(t, say("HTTP/1.1 103 Early Hints\r\n\r\n"))
	for _, c := range []struct {
		to     *endpoint
		method string
		body   bool
		want   bool
	}{
		{silent, "GET", false, true},
		{silent, "HEAD", false, true},
		{silent, "GET", true, false},
		{silent, "POST", false, false},
		{silent, "DELETE", false, false},
		{silent, "POST", true, false},
		{halfway, "GET", false, false},
		{early, "GET", false, false},
	} {
		var body io.Reader
		if c.body {
			body = strings.NewReader("x")
		}
		r := c.to.request(c.method, body)
		if a, err := ask(newClient(t, c.to, limits, nil), r); err == nil || http1.Repeatable(r, err) != c.want {
			t.Errorf("%+v: %v %v", c, a, err)
		}
	}
	// Nothing can be sent over a connection that is closed already.
	raw, socket, err := silent.dial(t.Context())
	must(t, err)
	_ = raw.Close()
	body := &ownBody{Reader: strings.NewReader("x")}
	r := silent.request("POST", body)
	a, err := newClient(t, silent, limits, nil).New(raw, socket).RoundTrip(r, nil)
	if err == nil {
		_ = a.Body.Close()
	}
	if !http1.Repeatable(r, err) {
		t.Errorf("over a closed connection: %v", err)
	}
}

// An answer without a length ends where its connection does, and over TLS only if
// that was meant.
func TestCutOffOverTLS(t *testing.T) {
	for cut, whole := range map[bool]bool{false: true, true: false} {
		e := listenTLS(t, func(conn net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, ok+"\r\nhello")
			if below, ok := conn.(interface{ NetConn() net.Conn }); ok && cut {
				_ = below.NetConn().Close()
			}
		})
		if a, err := ask(newClient(t, e, limits, nil), e.request("GET", nil)); (err == nil) != whole {
			t.Errorf("cut off %t: %v %v", cut, a, err)
		}
	}
}

// What breaks off is not whole.
func TestBrokenAnswers(t *testing.T) {
	for _, sends := range []string{
		ok, "HTTP/1.1 200 OK\r\nX-A", ok + "Content-Length: 6\r\n\r\nhello", chunked, chunked + "5", chunked + "5\r\nhell",
		chunked + "5\r\nhello", chunked + "5\r\nhello\r\n", chunked + "5\r\nhello\r\n0\r\n", chunked + "5\r\nhello\r\n0\r\nX-A: b\r\n",
	} {
		e := listen(t, say(sends))
		if a, err := ask(newClient(t, e, limits, nil), e.request("GET", nil)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: %v %v", sends, a, err)
		}
	}
}

// A connection that changes its protocol is handed over as it is.
func TestSwitch(t *testing.T) {
	for over, listen := range map[string]func(*testing.T, func(net.Conn)) *endpoint{"TCP": listen, "TLS": listenTLS} {
		e := listen(t, func(conn net.Conn) {
			in := bufio.NewReader(conn)
			_, _ = http.ReadRequest(in)
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nfirst ")
			_, _ = io.Copy(conn, in)
		})
		l := limits
		l.Silence = 20 * time.Millisecond
		client := newClient(t, e, l, nil)
		ctx, cancel := context.WithCancel(t.Context())
		res, err := client.RoundTrip(e.request("GET", nil).WithContext(ctx))
		must(t, err)
		cancel()
		conn, ok := res.Body.(interface {
			io.ReadWriteCloser
			CloseWrite() error
		})
		if !ok || res.StatusCode != 101 || res.Header.Get("Upgrade") != "echo" {
			t.Fatalf("%s: %T, %d %v", over, res.Body, res.StatusCode, res.Header)
		}
		time.AfterFunc(60*time.Millisecond, func() { // in which nobody says anything
			_, _ = io.WriteString(conn, "second")
			_ = conn.CloseWrite()
		})
		if got, err := io.ReadAll(conn); err != nil || string(got) != "first second" {
			t.Errorf("%s: %q, %v", over, got, err)
		}
		_ = conn.Close()
		if client.Idle() != 0 {
			t.Error("it was kept")
		}
	}
}

// A body is ready when something of it, or its end, or what is wrong with it, is
// there.
func TestReady(t *testing.T) {
	for sends, want := range map[string]bool{
		ok + "Content-Length: 5\r\n\r\nh": true,
		ok + "Content-Length: 5\r\n\r\n":  false,
		ok + "\r\nh":                      true,
		ok + "\r\n":                       false,
		chunked + "5\r\nh":                true,
		chunked + "5\r\n":                 false,
		chunked + "5":                     false,
		chunked:                           false,
		chunked + "0\r\n\r\n":             true,
		chunked + "0\r\nX-A: b\r\n":       false,
		chunked + "zz\r\n":                true,
		"HTTP/1.1 103 Early Hints\r\n\r\n" + chunked + "5\r\nh": true,
	} {
		e := listen(t, each(sends))
		res, err := newClient(t, e, limits, nil).RoundTrip(e.request("GET", nil))
		must(t, err)
		body, ok := res.Body.(interface{ Ready() bool })
		if !ok || body.Ready() != want {
			t.Errorf("%q: %t, want %t", sends, !want, want)
		}
		_ = res.Body.Close()
	}
}
