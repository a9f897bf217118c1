package gateway_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// hello is what a client says first.
type hello struct {
	net.Conn
	said bytes.Buffer
}

func (h *hello) Write(p []byte) (int, error) { return h.said.Write(p) }
func (h *hello) Read([]byte) (int, error)    { return 0, errors.New("nobody answers") }

func (w *world) hello() []byte {
	h := &hello{}
	_ = tls.Client(h, w.tls(host)).Handshake() // nobody answers
	return h.said.Bytes()
}

// half opens a connection whose handshake the client does not end.
func (w *world) half() net.Conn {
	w.t.Helper()
	raw, err := net.Dial("tcp", w.address("edge/public"))
	w.must(err)
	w.t.Cleanup(func() { _ = raw.Close() })
	_, err = raw.Write(w.hello())
	w.must(err)
	w.must(raw.SetDeadline(time.Now().Add(20 * time.Second)))
	return raw
}

// Handshakes wait for their turn, and not for ever.
func TestHandshakesTakeTurns(t *testing.T) {
	w := newWorld(t, options{})
	w.apply(w.usual(plaintext(newEcho(t).address())))
	end := w.gateway.TakeTurns(50 * time.Millisecond)
	raw := w.half()
	if n, err := raw.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Error("a handshake went on whose turn it was not")
	}
	if n := w.metric(`sallyport_connections_refused_total{limit="handshakes",listener="edge/public"}`); n != "1" {
		t.Errorf("%q connections were refused", n)
	}
	end()
	if w.knock("") == nil {
		t.Error("nobody is let in afterwards")
	}
	end = w.gateway.TakeTurns(time.Minute)
	var waiting sync.WaitGroup
	var some [2]*tls.Conn
	for i := range some {
		waiting.Go(func() { some[i] = w.knock("") })
	}
	end()
	waiting.Wait()
	if some[0] == nil || some[1] == nil {
		t.Error("those who wait for their turn do not get it")
	}
}

// Who does not end a handshake keeps nobody's turn.
func TestSlowHandshakesTakeNoTurns(t *testing.T) {
	w := newWorld(t, options{})
	w.apply(w.usual(plaintext(newEcho(t).address())))
	for range 3 * w.gateway.Turns() {
		raw := w.half()
		if _, err := io.ReadFull(raw, make([]byte, 100)); err != nil { // now it waits for the client
			t.Fatal(err)
		}
	}
	if w.knock("") == nil {
		t.Error("nobody is let in beside them")
	}
	for range 3 * w.gateway.Turns() {
		raw, err := net.Dial("tcp", w.address("edge/public"))
		w.must(err)
		t.Cleanup(func() { _ = raw.Close() })
	}
	if w.knock("") == nil {
		t.Error("nobody is let in beside those who say nothing")
	}
}
