package gateway_test

import (
	"bufio"
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
