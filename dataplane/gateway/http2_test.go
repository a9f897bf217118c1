package gateway_test

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// Frames of HTTP/2 (RFC 9113, section 6), written by hand: no client would send
// what these tests send.
const (
	frameData     = 0
	frameHeaders  = 1
	frameReset    = 3
	frameSettings = 4
	framePing     = 6
	frameGoAway   = 7
	frameUpdate   = 8

	endStream  = 1
	endHeaders = 4
)

func frame(kind, flags byte, stream uint32, payload string) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	b = append(b, flags)
	b = binary.BigEndian.AppendUint32(b, stream)
	return string(b) + payload
}

// block is a header block of literals (RFC 7541, section 6.2.2).
func block(fields ...string) string {
	var b strings.Builder
	for _, f := range fields {
		at := strings.Index(f[1:], ": ") + 1 // names may begin with a colon
		name, value := f[:at], f[at+2:]
		b.WriteByte(0)
		for _, text := range []string{name, value} {
			if len(text) < 127 {
				b.WriteByte(byte(len(text)))
			} else {
				b.WriteString("\x7f")
				n := len(text) - 127
				for ; n >= 128; n >>= 7 {
					b.WriteByte(byte(n) | 0x80)
				}
				b.WriteByte(byte(n))
			}
			b.WriteString(text)
		}
	}
	return b.String()
}

// begin is a connection with its preface and settings exchanged.
func (w *world) begin() *tls.Conn {
	w.t.Helper()
	conn := w.dial("h2")
	_, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+frame(frameSettings, 0, 0, "")+frame(frameSettings, 1, 0, ""))
	w.must(err)
	return conn
}

// next returns the next frame.
func next(conn io.Reader) (kind, flags byte, stream uint32, payload string, err error) {
	var h [9]byte
	if _, err = io.ReadFull(conn, h[:]); err != nil {
		return 0, 0, 0, "", err
	}
	p := make([]byte, int(h[0])<<16|int(h[1])<<8|int(h[2]))
	_, err = io.ReadFull(conn, p)
	return h[3], h[4], binary.BigEndian.Uint32(h[5:]), string(p), err
}

// answer says how stream 1 ended: with which problem, or how else.
func (w *world) answer(conn io.Reader) string {
	w.t.Helper()
	var body strings.Builder
	for {
		kind, flags, stream, payload, err := next(conn)
		switch {
		case err != nil:
			return "connection closed"
		case kind == frameReset && stream == 1:
			return "reset"
		case kind == frameGoAway && payload[7] != 0:
			return "connection closed"
		case kind == frameData && stream == 1:
			body.WriteString(payload)
		}
		if stream == 1 && flags&endStream != 0 && (kind == frameData || kind == frameHeaders) {
			switch text := body.String(); {
			case strings.HasPrefix(text, "{"):
				return w.problem(text).Reason
			case strings.Contains(text, "api.shop.example HTTP/1.1"):
				return "answered"
			}
			return "malformed" // says the server, before any handler
		}
	}
}

func TestHTTP2Tricks(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.usual(plaintext(up.address())))
	const method, scheme, authority, path = ":method: GET", ":scheme: https", ":authority: api.shop.example", ":path: /v1/orders"
	token := "authorization: Bearer " + w.tokens.sign(nil)
	for _, c := range []struct {
		name   string
		fields []string
		want   string
	}{
		{"honest", []string{method, scheme, authority, path, token}, "answered"},
		{"with a host that is the same", []string{method, scheme, authority, path, token, "host: api.shop.example"}, "answered"},
		{"with another host", []string{method, scheme, authority, path, token, "host: evil.example"}, "host_ambiguous"},
		{"with two hosts", []string{method, scheme, authority, path, token, "host: api.shop.example", "host: evil.example"}, "host_ambiguous"},
		{"to another host", []string{method, scheme, ":authority: evil.example", path, token}, "misdirected_request"},
		{"to nobody", []string{method, scheme, path, token}, "host_missing"},
		{"without a slash", []string{method, scheme, authority, ":path: v1/orders", token}, "reset"},
		{"with an absolute path", []string{method, scheme, authority, ":path: https://evil.example/v1/orders", token}, "target_absolute_form"},
		{"with an asterisk", []string{":method: OPTIONS", scheme, authority, ":path: *", token}, "target_asterisk_form"},
		{"with a path trick", []string{method, scheme, authority, ":path: /v1/orders/..%2fadmin", token}, "path_ambiguous_escape"},
		{"with a space in the path", []string{method, scheme, authority, ":path: /v1/orders HTTP/1.1", token}, "path_invalid_byte"},
		{"with a line in the path", []string{method, scheme, authority, ":path: /v1/orders\r\nx: y", token}, "reset"},
		{"without a path", []string{method, scheme, authority, token}, "reset"},
		{"with an empty path", []string{method, scheme, authority, ":path: ", token}, "reset"},
		{"with two paths", []string{method, scheme, authority, path, ":path: /v1/admin", token}, "reset"},
		{"with two methods", []string{method, ":method: DELETE", scheme, authority, path, token}, "reset"},
		{"with a late path", []string{method, scheme, authority, token, path}, "reset"},
		{"with an unknown pseudo field", []string{method, scheme, authority, path, ":user: root", token}, "reset"},
		{"with a protocol", []string{":method: CONNECT", scheme, authority, path, ":protocol: websocket", token}, "reset"},
		{"tunnelling", []string{":method: CONNECT", authority, token}, "method_unsupported"},
		{"with an upper-case name", []string{method, scheme, authority, path, token, "X-User: root"}, "reset"},
		{"with a line in a value", []string{method, scheme, authority, path, token, "x-a: b\r\nx-user: root"}, "reset"},
		{"with a connection", []string{method, scheme, authority, path, token, "connection: keep-alive"}, "malformed"},
		{"with chunks", []string{method, scheme, authority, path, token, "transfer-encoding: chunked"}, "malformed"},
		{"with an upgrade", []string{method, scheme, authority, path, token, "upgrade: h2c"}, "malformed"},
		{"with two lengths", []string{method, scheme, authority, path, token, "content-length: 0", "content-length: 7"}, "header_duplicate"},
		{"with a length that is none", []string{method, scheme, authority, path, token, "content-length: 0x0"}, "length_invalid"},
		{"with two tokens", []string{method, scheme, authority, path, token, "authorization: Bearer x"}, "header_duplicate"},
		{"with trailers", []string{method, scheme, authority, path, token, "te: trailers"}, "answered"},
		{"with many fields", append([]string{method, scheme, authority, path, token}, strings.Split(strings.Repeat("x-a: b\n", 200)+"x-a: b", "\n")...), "header_too_large"},
	} {
		before := up.requests.Load()
		conn := w.begin()
		_, err := io.WriteString(conn, frame(frameHeaders, endHeaders|endStream, 1, block(c.fields...)))
		w.must(err)
		got := w.answer(conn)
		_ = conn.Close()
		if got != c.want && !(c.want == "reset" && got == "connection closed") {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if seen := up.requests.Load() - before; seen != 0 != (c.want == "answered") {
			t.Errorf("%s: the upstream saw %d requests", c.name, seen)
		}
	}
}

// A body that is not as long as it says is no request that an upstream may take
// for whole.
func TestHTTP2Lengths(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.usual(plaintext(up.address())))
	for _, c := range []struct{ length, body, want string }{
		{"4", "body", "answered"},
		{"3", "body", "reset"},
		{"5", "body", "reset"},
	} {
		conn := w.begin()
		_, err := io.WriteString(conn, frame(frameHeaders, endHeaders, 1, block(
			":method: POST", ":scheme: https", ":authority: api.shop.example", ":path: /v1/orders",
			"authorization: Bearer "+w.tokens.sign(nil), "content-length: "+c.length,
		))+frame(frameData, endStream, 1, c.body))
		w.must(err)
		if got := w.answer(conn); got != c.want {
			t.Errorf("%s bytes announced, %d sent: %s, want %s", c.length, len(c.body), got, c.want)
		}
		_ = conn.Close()
	}
}

// Whoever keeps a connection busy with nothing loses it.
func TestHTTP2Floods(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.usual(plaintext(up.address())))
	stream := uint32(1)
	requests := func() string {
		stream += 2
		return frame(frameHeaders, endHeaders|endStream, stream, block(":method: GET", ":scheme: https", ":authority: api.shop.example", ":path: /v1/orders")) +
			frame(frameReset, 0, stream, "\x00\x00\x00\x08")
	}
	for name, flood := range map[string]func() string{
		"rapid resets": requests,
		"pings":        func() string { return frame(framePing, 0, 0, "12345678") },
		"settings":     func() string { return frame(frameSettings, 0, 0, "") },
		"empty data":   func() string { return frame(frameData, 0, 1, "") },
		"padding":      func() string { return frame(frameData, 8, 1, "\x00") },

		"window updates": func() string { return frame(8, 0, 0, "\x00\x00\x00\x01") },
		"priorities":     func() string { return frame(2, 0, 1, "\x00\x00\x00\x00\x10") },
		"unknown frames": func() string { return frame(0xbb, 0, 0, "") },
		"continuations":  func() string { return frame(9, 0, 1, "") },
	} {
		conn := w.begin()
		switch name {
		case "continuations":
			_, err := io.WriteString(conn, frame(frameHeaders, 0, 1, block(":method: GET")))
			w.must(err)
		case "empty data", "padding":
			_, err := io.WriteString(conn, frame(frameHeaders, endHeaders, 1, block(
				":method: POST", ":scheme: https", ":authority: api.shop.example", ":path: /v1/orders", "authorization: Bearer "+w.tokens.sign(nil))))
			w.must(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = io.Copy(io.Discard, conn)
		}()
		var err error
		for i := 0; i < 50_000 && err == nil; i++ {
			_, err = io.WriteString(conn, flood())
		}
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			t.Errorf("%s: 50,000 went through", name)
		}
		_ = conn.Close()
	}
	w.settle()
	if res, body := w.ask(w.client(true, w.tls(host)), "GET", "/v1/orders", nil); res.StatusCode != 200 {
		t.Errorf("afterwards: %d %s", res.StatusCode, body)
	}
}

// Who is answered may ask as much as they like, however little there is to say.
func TestHTTP2ManySmallAnswers(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	up.answerWith(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "ok") })
	w.apply(w.everybody(plaintext(up.address())))
	c := w.client(true, w.tls(host))
	var asking errgroup.Group
	for range 20 {
		asking.Go(func() error {
			for range 300 {
				res, err := c.Get("https://" + host + "/v1/orders")
				if err != nil {
					return err
				}
				_ = res.Body.Close()
			}
			return nil
		})
	}
	if err := asking.Wait(); err != nil {
		t.Error(err)
	}
}
