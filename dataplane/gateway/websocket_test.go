package gateway_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/sallyport/sallyport/dataplane/gateway"
)

// sockets is the usual, for WebSockets.
func (w *world) sockets(upstream string) string {
	return strings.Replace(w.usual(upstream), "upstream: orders,", "webSocket: true, upstream: orders,", 1)
}

// echoes says back what it hears over a WebSocket, until the client ends it.
func echoes(rw http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(rw, r, &websocket.AcceptOptions{Subprotocols: []string{"orders.v1"}, CompressionMode: websocket.CompressionContextTakeover})
	if err != nil {
		return
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(-1)
	for {
		kind, message, err := conn.Read(r.Context())
		if err != nil {
			return
		}
		if err := conn.Write(r.Context(), kind, message); err != nil {
			return
		}
	}
}

// open opens a WebSocket as a subject.
func (w *world) open(c *http.Client, subject string) (*websocket.Conn, *http.Response) {
	w.t.Helper()
	conn, res, err := websocket.Dial(w.t.Context(), "wss://"+host+"/v1/orders", &websocket.DialOptions{
		HTTPClient: c, Subprotocols: []string{"orders.v1"}, CompressionMode: websocket.CompressionContextTakeover,
		HTTPHeader: http.Header{"Authorization": {"Bearer " + w.tokens.sign(map[string]any{"sub": subject})}},
	})
	w.must(err)
	w.t.Cleanup(func() { _ = conn.CloseNow() })
	conn.SetReadLimit(-1)
	return conn, res
}

func say(ctx context.Context, conn *websocket.Conn, message string) error {
	if err := conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
		return err
	}
	_, got, err := conn.Read(ctx)
	if err == nil && string(got) != message {
		return fmt.Errorf("got %d bytes, want %d", len(got), len(message))
	}
	return err
}

// Messages of any size go both ways, and both sides end as they wish; the
// handshakes are the gateway's own, and over HTTP/1.1 on both sides.
func TestWebSocket(t *testing.T) {
	w := newWorld(t, options{})
	asked := make(chan *http.Request, 1)
	for to, upstream := range w.upstreams(func(rw http.ResponseWriter, r *http.Request) {
		asked <- r.Clone(t.Context())
		echoes(rw, r)
	}) {
		w.apply(w.sockets(upstream))
		conn, res := w.open(w.client(false, w.tls(host)), "alice")
		r := <-asked
		if r.Proto != "HTTP/1.1" || r.Header.Get("X-Forwarded-For") != "127.0.0.1" || r.Header.Get("Sec-WebSocket-Key") == "" ||
			r.Header.Get("Sec-WebSocket-Key") == res.Request.Header.Get("Sec-WebSocket-Key") {
			t.Errorf("%s: asked was %s %v", to, r.Proto, r.Header)
		}
		if conn.Subprotocol() != "orders.v1" || res.Header.Get("Sallyport-Revision") == "" || !strings.Contains(res.Header.Get("Sec-WebSocket-Extensions"), "deflate") {
			t.Errorf("%s: answered was %v", to, res.Header)
		}
		for _, size := range []int{0, 1, 125, 126, 65535, 65536, 3 << 20} {
			if err := say(t.Context(), conn, strings.Repeat("x", size)); err != nil {
				t.Errorf("%s, %d bytes: %v", to, size, err)
			}
		}
		w.must(conn.Close(websocket.StatusNormalClosure, "done"))
		id := res.Header.Get("Sallyport-Decision-Id")
		d, o := w.records.of(t, "decision", id), w.records.of(t, "outcome", id)
		if !d.Allow || d.Principal.ID != "alice" || o.Status != 101 || o.Reason != "" || o.Sent == 0 || o.Received == 0 || o.Endpoint == "" {
			t.Errorf("%s: recorded were %+v and %+v", to, d, o)
		}
	}
	w.settle()
}

// What is not let through is answered, ends its connection, and is seen by no
// upstream.
func TestRefusedWebSockets(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	up.answerWith(echoes)
	for _, c := range []struct {
		name, spec, sends string
		status            int
		reason            string
	}{
		{"of a route without", w.usual(plaintext(up.address())), get + shake, 400, "upgrade_unsupported"},
		{"with a bad token", w.sockets(plaintext(up.address())), strings.Replace(get, "TOKEN", "x", 1) + shake, 401, "token_malformed"},
		{"that nothing allows", strings.Replace(w.sockets(plaintext(up.address())), "[GET, POST]", "[POST]", 1), get + shake, 403, "no_matching_policy"},
		{"of no route", w.sockets(plaintext(up.address())), strings.Replace(get, "/v1", "/v2", 1) + shake, 404, "no_route"},
		{"to nobody", w.sockets(plaintext("127.0.0.1:1")), get + shake, 502, "upstream_unreachable"},
		{"with an old version", w.sockets(plaintext(up.address())), get + strings.Replace(shake, "13", "8", 1), 400, "websocket_invalid"},
		{"with an odd key", w.sockets(plaintext(up.address())), get + strings.Replace(shake, "==", "", 1), 400, "websocket_invalid"},
		{"and h2c", w.sockets(plaintext(up.address())), get + strings.Replace(shake, "websocket", "websocket, h2c", 1), 400, "upgrade_unsupported"},
	} {
		w.apply(c.spec)
		conn := w.dial("http/1.1")
		w.send(conn, c.sends+"\r\n")
		answers := bufio.NewReader(conn)
		res, err := http.ReadResponse(answers, nil)
		w.must(err)
		if body := w.read(res); res.StatusCode != c.status || w.problem(body).Reason != c.reason || !res.Close {
			t.Errorf("%s: %d %s, closes %t", c.name, res.StatusCode, body, res.Close)
		}
		if rest, err := io.ReadAll(answers); err != nil || len(rest) != 0 {
			t.Errorf("%s: after the answer %q, %v", c.name, rest, err)
		}
		_ = conn.Close()
	}
	if up.requests.Load() != 0 {
		t.Errorf("the upstream saw %d requests", up.requests.Load())
	}
	w.settle()
}

// rawUpstream speaks as answer does, once it has read a head, to all that come.
func (w *world) rawUpstream(answer func(conn net.Conn, r *http.Request)) (address string) {
	w.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					answer(conn, r)
				}
			})
		}
	})
	w.t.Cleanup(func() { _ = ln.Close(); serving.Wait() })
	return ln.Addr().String()
}

// switching is the head with which r becomes a WebSocket.
func switching(r *http.Request) string {
	return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		gateway.AcceptFor(r.Header.Get("Sec-WebSocket-Key")) + "\r\n\r\n"
}

// An upstream that does not understand what it was asked for gets nothing of
// what the client takes for a WebSocket.
func TestUpstreamHandshakes(t *testing.T) {
	w := newWorld(t, options{})
	for _, c := range []struct {
		name   string
		change func(head string) string
		status int
		reason string
	}{
		{"good", func(head string) string { return head }, 101, ""},
		{"for another key", func(head string) string { return strings.Replace(head, "Accept: ", "Accept: A", 1) }, 502, "upstream_handshake"},
		{"without proof", func(head string) string { return strings.Replace(head, "Accept: ", "Other: ", 1) }, 502, "upstream_handshake"},
		{"of another protocol", func(head string) string { return strings.Replace(head, "websocket", "h2c", 1) }, 502, "upstream_handshake"},
		{"of no protocol", func(head string) string { return strings.Replace(head, "Connection: Upgrade", "X-A: b", 1) }, 502, "upstream_handshake"},
		{"refused", func(string) string { return "HTTP/1.1 418 I'm a teapot\r\nContent-Length: 2\r\n\r\nno" }, 418, ""},
		{"answered", func(string) string { return "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" }, 200, ""},
		{"broken", func(string) string { return "rubbish\r\n\r\n" }, 502, "upstream_failed"},
	} {
		w.apply(w.sockets(plaintext(w.rawUpstream(func(conn net.Conn, r *http.Request) {
			_, _ = io.WriteString(conn, c.change(switching(r)))
		}))))
		conn := w.dial("http/1.1")
		w.send(conn, get+shake+"\r\n")
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		w.must(err)
		if res.StatusCode == 101 && res.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
			t.Errorf("%s: %v", c.name, res.Header) // RFC 6455, section 1.3, knows this one
		}
		_ = conn.Close()
		o := w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id"))
		if c.status == 101 {
			o.Reason = "" // both sides have left without a word
		}
		if res.StatusCode != c.status || o.Status != c.status || o.Reason != c.reason {
			t.Errorf("%s: %d, recorded %+v", c.name, res.StatusCode, o)
		}
	}
	w.settle()
}

// What follows the switch is no request, whatever it looks like; it arrives as
// it was sent.
func TestNoRequestsBehindTheSwitch(t *testing.T) {
	w := newWorld(t, options{})
	const hidden = "GET /v1/admin HTTP/1.1\r\nHost: api.shop.example\r\n\r\n"
	got := make(chan string, 1)
	w.apply(w.sockets(plaintext(w.rawUpstream(func(conn net.Conn, r *http.Request) {
		_, _ = io.WriteString(conn, switching(r))
		heard, _ := io.ReadAll(conn)
		got <- string(heard)
	}))))
	conn := w.dial("http/1.1")
	defer conn.Close()
	w.send(conn, get+shake+"\r\n")
	answers := bufio.NewReader(conn)
	res, err := http.ReadResponse(answers, nil)
	w.must(err)
	w.send(conn, hidden)
	w.must(conn.CloseWrite())
	if heard := <-got; heard != hidden {
		t.Errorf("the upstream heard %q", heard)
	}
	if rest, err := io.ReadAll(answers); err != nil || len(rest) > 0 {
		t.Errorf("answered was %q, %v", rest, err)
	}
	id := res.Header.Get("Sallyport-Decision-Id")
	if o := w.records.of(t, "outcome", id); o.Received != len(hidden) || o.Reason != "client_gone" {
		t.Errorf("recorded was %+v", o)
	}
	if n := strings.Count(w.records.all(), `"type":"decision"`); n != 1 {
		t.Errorf("%d decisions were made", n)
	}
}

// A client that does not wait for the answer gets none that it likes: had it
// been a refusal, what was sent could be taken for a request.
func TestEarlyData(t *testing.T) {
	w := newWorld(t, options{})
	came, gone := make(chan struct{}), make(chan struct{})
	w.apply(w.sockets(plaintext(w.rawUpstream(func(conn net.Conn, _ *http.Request) {
		close(came)
		_, _ = io.Copy(io.Discard, conn)
		close(gone)
	}))))
	conn := w.dial("http/1.1")
	defer conn.Close()
	w.send(conn, get+shake+"\r\n")
	<-came
	w.send(conn, "GET /v1/admin HTTP/1.1\r\nHost: api.shop.example\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	w.must(err)
	body := w.read(res)
	o := w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id"))
	if res.StatusCode != 400 || w.problem(body).Reason != "early_data" || o.Reason != "early_data" || !res.Close {
		t.Errorf("%d %s, recorded %+v", res.StatusCode, body, o)
	}
	<-gone
	if n := strings.Count(w.records.all(), `"type":"decision"`); n != 1 {
		t.Errorf("%d decisions were made", n)
	}
}

// Either side may leave without a word, and takes the other with it.
func TestWebSocketSidesLeave(t *testing.T) {
	w := newWorld(t, options{})
	leaves := make(chan struct{})
	stays := make(chan struct{}, 1)
	leavesAsWell := func(conn *tls.Conn) {
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}
	for _, c := range []struct {
		name, reason string
		upstream     func(conn net.Conn)
		client       func(conn *tls.Conn)
	}{
		{"the client's connection ends", "client_gone", func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 1))
			stays <- struct{}{}
		}, func(conn *tls.Conn) { _ = conn.NetConn().Close() }},
		{"the client has said all", "client_gone", func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 1))
			stays <- struct{}{}
			_, _ = io.WriteString(conn, "\x81\x02ok")
		}, func(conn *tls.Conn) { _ = conn.CloseWrite() }},
		{"the client has said all, and the upstream stays", "client_gone", func(conn net.Conn) {
			_, _ = io.ReadAll(conn)
			_, _ = conn.Write([]byte{0x89, 0})
			stays <- struct{}{}
			_, _ = conn.Read(make([]byte, 1))
			<-leaves
		}, func(conn *tls.Conn) { _ = conn.CloseWrite() }},
		{"the upstream's connection ends", "upstream_interrupted", func(net.Conn) { stays <- struct{}{} }, leavesAsWell},
		{"the upstream says goodbye", "", func(conn net.Conn) {
			_, _ = conn.Write([]byte{0x88, 0})
			stays <- struct{}{}
		}, leavesAsWell},
	} {
		w.apply(w.sockets(plaintext(w.rawUpstream(func(conn net.Conn, r *http.Request) {
			_, _ = io.WriteString(conn, switching(r))
			c.upstream(conn)
		}))))
		conn := w.dial("http/1.1")
		w.send(conn, get+shake+"\r\n")
		answers := bufio.NewReader(conn)
		res, err := http.ReadResponse(answers, nil)
		w.must(err)
		c.client(conn)
		<-stays
		if c.name == "the client has said all" {
			if got, err := io.ReadAll(answers); string(got) != "\x81\x02ok" || err != nil {
				t.Errorf("%s: heard was %q, %v", c.name, got, err)
			}
		}
		if o := w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id")); o.Reason != c.reason || o.Status != 101 {
			t.Errorf("%s: recorded was %+v", c.name, o)
		}
		_ = conn.Close()
	}
	close(leaves)
	w.settle()
}

// Of a thousand WebSockets every tenth is closed: its client and its upstream
// are told, and all others go on.
func TestCloseWebSockets(t *testing.T) {
	const all, tenth = 1000, 100
	w := newWorld(t, options{})
	ends := make(chan error, all)
	up := newEcho(t)
	up.answerWith(func(rw http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(rw, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = conn.CloseNow() }()
		for err == nil {
			var kind websocket.MessageType
			var message []byte
			if kind, message, err = conn.Read(r.Context()); err == nil {
				err = conn.Write(r.Context(), kind, message)
			}
		}
		ends <- err
	})
	w.apply(w.sockets(plaintext(up.address())))
	c := w.client(false, w.tls(host))
	conns := make([]*websocket.Conn, all)
	ids := make([]string, all)
	var opening sync.WaitGroup
	for worker := range 20 {
		opening.Go(func() {
			for i := worker; i < all; i += 20 {
				var res *http.Response
				conns[i], res = w.open(c, map[bool]string{true: "mallory", false: "alice"}[i%10 == 0])
				ids[i] = res.Header.Get("Sallyport-Decision-Id")
			}
		})
	}
	opening.Wait()
	each := func(do func(i int, conn *websocket.Conn)) {
		for i, conn := range conns {
			do(i, conn)
		}
	}
	each(func(i int, conn *websocket.Conn) { w.must(say(t.Context(), conn, "before")) })
	began := time.Now()
	if n := w.gateway.CloseStreams(of("mallory"), revoked); n != tenth {
		t.Fatalf("%d were closed, want %d", n, tenth)
	}
	took := time.Since(began)
	each(func(i int, conn *websocket.Conn) {
		if i%10 != 0 {
			if err := say(t.Context(), conn, "after"); err != nil {
				t.Errorf("%d, which goes on: %v", i, err)
			}
			return
		}
		_, _, err := conn.Read(t.Context())
		if ce := (websocket.CloseError{}); !errors.As(err, &ce) || ce.Code != websocket.StatusPolicyViolation || ce.Reason != "revoked" {
			t.Errorf("%d, which was closed: %v", i, err)
		}
		if o := w.records.of(t, "outcome", ids[i]); o.Reason != "revoked" || o.Status != 101 || o.Sent != len("before")+2 {
			t.Errorf("recorded was %+v", o)
		}
		if err := <-ends; websocket.CloseStatus(err) != websocket.StatusGoingAway {
			t.Errorf("its upstream: %v", err)
		}
	})
	fmt.Printf("figure close_100_of_1000_websockets %.2f ms\n", float64(took.Microseconds())/1000)
	if n := w.gateway.CloseStreams(everyStream, gateway.Cause{Reason: "enough", Status: 503}); n != all-tenth {
		t.Errorf("%d were left, want %d", n, all-tenth)
	}
	each(func(i int, conn *websocket.Conn) {
		if i%10 != 0 {
			if _, _, err := conn.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusGoingAway {
				t.Errorf("%d: %v", i, err)
			}
		}
	})
	w.settle()
}

// Our last frame is never put into another one.
func TestCloseBetweenFrames(t *testing.T) {
	w := newWorld(t, options{})
	ours := "\x88\x09\x03\xf0revoked"
	long := "\x82\x7e\x01\x00" + strings.Repeat("x", 256)
	for _, c := range []struct {
		name          string
		before, after string // CloseStreams
		heard         string
	}{
		{"nothing was sent", "", "", ours},
		{"between frames", "\x81\x02ok", "\x81\x02no", "\x81\x02ok" + ours},
		{"in a frame", long[:100], long[100:] + "\x81\x02no", long + ours},
		{"in a header", long[:1], long[1:] + long, long + ours},
		{"in a length", long[:3], long[3:] + long, long + ours},
		{"between fragments", "\x01\x01a", "\x80\x01b", "\x01\x01a" + ours},
		{"in a frame that is not finished", long[:100], "", long[:100]},
		{"in a frame that is too long", "\x82\x7f\x00\x00\x00\x00\x01\x00\x00\x00x", "yyy", "\x82\x7f\x00\x00\x00\x00\x01\x00\x00\x00x"},
		{"in a frame without end", "\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xffx", "yyy", "\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xffx"},
		{"after a goodbye", "\x88\x00", "\x81\x02no", "\x88\x00"},
	} {
		sent, ended := make(chan struct{}), make(chan string, 1)
		w.apply(w.sockets(plaintext(w.rawUpstream(func(conn net.Conn, r *http.Request) {
			_, _ = io.WriteString(conn, switching(r)+c.before)
			close(sent)
			heard, _ := io.ReadAll(conn)
			_, _ = io.WriteString(conn, c.after)
			_ = conn.(*net.TCPConn).CloseWrite()
			ended <- string(heard)
		}))))
		conn := w.dial("http/1.1")
		w.send(conn, get+shake+"\r\n")
		answers := bufio.NewReader(conn)
		res, err := http.ReadResponse(answers, nil)
		w.must(err)
		<-sent
		heard := make([]byte, len(c.before))
		_, err = io.ReadFull(answers, heard)
		w.must(err)
		if n := w.gateway.CloseStreams(everyStream, revoked); n != 1 {
			t.Errorf("%s: %d streams were closed", c.name, n)
		}
		rest, _ := io.ReadAll(answers)
		if got := string(heard) + string(rest); got != c.heard {
			t.Errorf("%s: heard was %q, want %q", c.name, got, c.heard)
		}
		_ = conn.Close()
		if got := <-ended; got != "\x88\x89\x00\x00\x00\x00\x03\xe9revoked" {
			t.Errorf("%s: the upstream heard %q", c.name, got)
		}
		if o := w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id")); o.Reason != "revoked" || o.Status != 101 {
			t.Errorf("%s: recorded was %+v", c.name, o)
		}
	}
	w.settle()
}

// Nobody keeps a WebSocket by not listening.
func TestCloseWebSocketsThatDoNotListen(t *testing.T) {
	w := newWorld(t, options{})
	var written atomic.Int64
	w.apply(w.sockets(plaintext(w.rawUpstream(func(conn net.Conn, r *http.Request) {
		_, err := io.WriteString(conn, switching(r))
		for err == nil { // frames that nobody reads, and reads none
			written.Add(1)
			_, err = io.WriteString(conn, "\x82\x7e\x10\x00"+strings.Repeat("x", 4096))
		}
	}))))
	conn := w.dial("http/1.1")
	defer conn.Close()
	w.send(conn, get+shake+"\r\n")
	res, err := http.ReadResponse(bufio.NewReaderSize(conn, 512), nil)
	w.must(err)
	go func() {
		_, _ = io.Copy(conn, zeros{}) // which is cut off
	}()
	for last := int64(-1); last != written.Load(); { // until nothing moves any more
		last = written.Load()
		<-time.After(50 * time.Millisecond)
	}
	w.gateway.CloseStreams(everyStream, revoked)
	if o := w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id")); o.Reason != "revoked" {
		t.Errorf("recorded was %+v", o)
	}
	w.settle()
}

// A WebSocket outlives tables that do not touch its listener; when that ends,
// or the proxy, the WebSocket gets the time of every stream and is told then.
func TestWebSocketsAndListeners(t *testing.T) {
	for name, end := range map[string]func(w *world, spec string){
		"the listener ends": func(w *world, spec string) { w.apply(strings.Replace(spec, w.listener(), "", 1)) },
		"it changes":        func(w *world, spec string) { w.apply(strings.Replace(spec, "OPTIONAL", "REQUIRED", 1)) },
		"the proxy ends":    func(w *world, _ string) { w.stop() },
	} {
		w := newWorld(t, options{drain: 100 * time.Millisecond})
		up := newEcho(t)
		up.answerWith(echoes)
		spec := w.sockets(plaintext(up.address()))
		w.apply(spec)
		conn, res := w.open(w.client(false, w.tls(host)), "alice")
		w.apply(spec + w.route("more", "more.example", plaintext(up.address())))
		w.must(say(t.Context(), conn, "hello"))
		go end(w, spec)
		_, _, err := conn.Read(t.Context())
		if ce := (websocket.CloseError{}); !errors.As(err, &ce) || ce.Code != websocket.StatusGoingAway || ce.Reason != "listener_ended" {
			t.Errorf("%s: %v", name, err)
		}
		if o := w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id")); o.Reason != "listener_ended" {
			t.Errorf("%s: recorded was %+v", name, o)
		}
		w.settle()
	}
}
