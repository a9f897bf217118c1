package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// talks is a server of WebSockets that does what it hears: it asks whether the client is
// still there, says a message back, or ends with a code of its own.
func talks(ended chan<- error) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(rw, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionContextTakeover})
		if err != nil {
			ended <- err
			return
		}
		defer func() { _ = conn.CloseNow() }()
		conn.SetReadLimit(-1)
		ended <- talk(r.Context(), conn)
	}
}

func talk(ctx context.Context, conn *websocket.Conn) error {
	for {
		kind, message, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		switch string(message) {
		case "ping":
			next := make(chan error, 1)
			go func() { // a pong is only heard by who reads
				var err error
				_, message, err = conn.Read(ctx)
				next <- err
			}()
			if err := errors.Join(conn.Ping(ctx), conn.Write(ctx, kind, []byte("pong")), <-next); err != nil {
				return err
			}
		case "leave":
			return conn.Close(4002, "as you wish")
		}
		if err := conn.Write(ctx, kind, message); err != nil {
			return err
		}
	}
}

// Two ends understand each other in all that a WebSocket has: pings of each of them,
// messages in pieces, compression that they have agreed on, and codes at the end.
func TestWebSocketConversation(t *testing.T) {
	w := newWorld(t, options{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	for to, upstream := range w.upstreams(talks(ended)) {
		w.apply(w.sockets(upstream))
		conn, res := w.open(w.client(false, w.tls(host)), "alice")
		w.must(conversation(ctx, conn))
		w.must(conn.Close(4001, "enough"))
		if err := <-ended; websocket.CloseStatus(err) != 4001 || !strings.Contains(err.Error(), "enough") {
			t.Errorf("%s: the server has heard %v", to, err)
		}
		const most = 64 << 10 // of a mebibyte that says little
		if o := w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id")); o.Received > most || o.Sent > most || o.Reason != "" {
			t.Errorf("%s: recorded was %+v", to, o)
		}

		conn, _ = w.open(w.client(false, w.tls(host)), "alice")
		w.must(conn.Write(ctx, websocket.MessageText, []byte("leave")))
		if _, _, err := conn.Read(ctx); websocket.CloseStatus(err) != 4002 || !strings.Contains(err.Error(), "as you wish") {
			t.Errorf("%s: the client has heard %v", to, err)
		}
		w.must(<-ended)
	}
	w.settle()
}

// conversation has both ends ask for a sign of life, while the client says a message in
// many pieces.
func conversation(ctx context.Context, conn *websocket.Conn) error {
	if err := conn.Write(ctx, websocket.MessageText, []byte("ping")); err != nil {
		return err
	}
	if _, got, err := conn.Read(ctx); err != nil || string(got) != "pong" {
		return fmt.Errorf("heard %q, %w", got, err)
	}
	pieces := strings.Repeat("the same again, ", 64<<10)
	heard := make(chan error, 1)
	go func() { // which answers pings as well
		_, got, err := conn.Read(ctx)
		if err == nil && string(got) != pieces {
			err = io.ErrUnexpectedEOF
		}
		heard <- err
	}()
	if err := conn.Ping(ctx); err != nil {
		return err
	}
	out, err := conn.Writer(ctx, websocket.MessageBinary)
	if err != nil {
		return err
	}
	for piece := range slices.Chunk([]byte(pieces), 1000) {
		if _, err := out.Write(piece); err != nil {
			return err
		}
	}
	if err := out.Close(); err != nil {
		return err
	}
	return <-heard
}

// Frames arrive as they were sent, byte for byte: what is in them is for the two ends
// alone.
func TestWebSocketFramesAreUntouched(t *testing.T) {
	w := newWorld(t, options{})
	key := "\x01\x02\x03\x04"
	says := strings.Join([]string{
		"\x01\x83" + key + "abc", "\x89\x82" + key + "pi", "\x80\x81" + key + "d", // a ping between fragments
		"\xc1\x84" + key + "\x01\x02\x03\x04", // compressed
		"\xb3\x81" + key + "?",                // with bits and a kind that nobody knows
		"\x8a\x80" + key,                      // a pong that nobody asked for
		"\x82\xfe\x01\x00" + key + strings.Repeat("x", 256),
		"\x88\x86" + key + "\x0f\xa1text",
	}, "")
	answers := strings.ReplaceAll(strings.ReplaceAll(says, key, ""), "\x8a\x80", "\x8a\x00")
	heard := make(chan string, 1)
	w.apply(w.sockets(plaintext(w.rawUpstream(func(conn net.Conn, r *http.Request) {
		_, _ = io.WriteString(conn, strings.Replace(switching(r), "\r\n\r\n", "\r\nSec-WebSocket-Extensions: "+r.Header.Get("Sec-WebSocket-Extensions")+"\r\n\r\n", 1))
		got := make([]byte, len(says))
		_, _ = io.ReadFull(conn, got)
		_, _ = io.WriteString(conn, answers)
		heard <- string(got)
	}))))
	conn := w.dial("http/1.1")
	defer conn.Close()
	const extension = "permessage-deflate; client_max_window_bits"
	w.send(conn, get+shake+"Sec-WebSocket-Extensions: "+extension+"\r\n\r\n")
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	w.must(err)
	if got := res.Header.Get("Sec-WebSocket-Extensions"); got != extension {
		t.Errorf("agreed on was %q", got)
	}
	for _, c := range []byte(says) { // however they come
		_, err := conn.Write([]byte{c})
		w.must(err)
	}
	if got := <-heard; got != says {
		t.Errorf("the upstream heard %q", got)
	}
	if got, err := io.ReadAll(in); err != nil || string(got) != answers {
		t.Errorf("%v, the client heard %q", err, got)
	}
	w.settle()
}
