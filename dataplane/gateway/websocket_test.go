package gateway_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

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
		{"broken", func(string) string { return "rubbish\r\n\r\n" }, 502, "upstream_malformed"},
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
