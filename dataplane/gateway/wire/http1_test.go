package wire_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/sallyport/sallyport/dataplane/gateway/wire"
	"github.com/sallyport/sallyport/internal/request"
)

// sent is a connection on which a client sent all that a reader yields.
type sent struct {
	net.Conn // none: what is not overridden panics
	io.Reader
}

func (s sent) Read(p []byte) (int, error)      { return s.Reader.Read(p) }
func (s sent) Write(p []byte) (int, error)     { return len(p), nil }
func (s sent) SetReadDeadline(time.Time) error { return nil }
func (s sent) Close() error                    { return nil }

func conn(r io.Reader) *wire.HTTP1 {
	return wire.NewHTTP1(sent{Reader: r}, wire.Timeouts{Head: time.Second})
}

const (
	get  = "GET /v1/orders/7?x=1 HTTP/1.1\r\nHost: api.shop.example\r\n"
	post = "POST /v1/orders HTTP/1.1\r\nHost: api.shop.example\r\n"
)

func TestHeads(t *testing.T) {
	for _, c := range []struct{ sends, reason string }{
		{get + "\r\n", ""},

		// Lines.
		{"GET / HTTP/1.1\nHost: a.example\n\n", wire.ReasonLineEnding},
		{get + "X-A: b\n\r\n", wire.ReasonLineEnding},
		{get + "X-A: b\n\n", wire.ReasonLineEnding},
		{get + "X-A: b\rX-B: c\r\n\r\n", wire.ReasonLineEnding},
		{get + "\n", wire.ReasonLineEnding},
		{"\r\n" + get + "\r\n", wire.ReasonRequestLine},
		{"\n" + get + "\r\n", wire.ReasonLineEnding},

		// The request line.
		{"GET  / HTTP/1.1\r\nHost: a.example\r\n\r\n", wire.ReasonRequestLine},
		{"GET / HTTP/1.1 \r\nHost: a.example\r\n\r\n", wire.ReasonRequestLine},
		{"GET /a b HTTP/1.1\r\nHost: a.example\r\n\r\n", wire.ReasonRequestLine},
		{"GET\t/ HTTP/1.1\r\nHost: a.example\r\n\r\n", wire.ReasonRequestLine},
		{"GET /\tb HTTP/1.1\r\nHost: a.example\r\n\r\n", wire.ReasonRequestLine},
		{" GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", wire.ReasonRequestLine},
		{"GET /\r\n\r\n", wire.ReasonRequestLine},
		{"GET / http/1.1\r\nHost: a.example\r\n\r\n", wire.ReasonRequestLine},
		{"GET / HTTP/1.0\r\nHost: a.example\r\n\r\n", request.ReasonVersion},
		{"GET / HTTP/1.2\r\nHost: a.example\r\n\r\n", request.ReasonVersion},
		{"GET / HTTP/01.1\r\nHost: a.example\r\n\r\n", request.ReasonVersion},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", request.ReasonVersion},
		{"G\x80T / HTTP/1.1\r\nHost: a.example\r\n\r\n", request.ReasonMethodInvalid},
		{"get / HTTP/1.1\r\nHost: a.example\r\n\r\n", ""}, // package request refuses it
		{"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n", request.ReasonMethodUnsupported},
		{"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", request.ReasonTargetAbsolute},
		{"GET a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n", request.ReasonTargetAuthority},
		{"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", request.ReasonTargetAsterisk},
		{"GET index.html HTTP/1.1\r\nHost: a.example\r\n\r\n", request.ReasonTargetInvalid},
		{"GET /%zz HTTP/1.1\r\nHost: a.example\r\n\r\n", request.ReasonPathEscape},
		{"GET /a% HTTP/1.1\r\nHost: a.example\r\n\r\n", request.ReasonPathEscape},
		{"GET /a%2 HTTP/1.1\r\nHost: a.example\r\n\r\n", request.ReasonPathEscape},

		// Fields.
		{get + "X-A: b\r\n c\r\n\r\n", wire.ReasonFolding},
		{get + "X-A: b\r\n\tc\r\n\r\n", wire.ReasonFolding},
		{get + " X-A: b\r\n\r\n", wire.ReasonFolding},
		{get + "X-A : b\r\n\r\n", request.ReasonHeaderName},
		{get + "X-A\r\n\r\n", request.ReasonHeaderName},
		{get + ": b\r\n\r\n", request.ReasonHeaderName},
		{get + "X\x00A: b\r\n\r\n", request.ReasonHeaderName},
		{get + "X-A: b\x00c\r\n\r\n", request.ReasonHeaderValue},
		{get + "X-A: this is longer than eight \x0b bytes\r\n\r\n", request.ReasonHeaderValue},
		{get + "X-A: b\tc\r\n\r\n", ""},
		{get + "X-A: caf\xe9\r\n\r\n", ""},
		{get + "X-A:\r\n\r\n", ""},
		{get + "X-A:b \t\r\n\r\n", ""},

		// Who is meant.
		{"GET / HTTP/1.1\r\n\r\n", request.ReasonHostMissing},
		{"GET / HTTP/1.1\r\nHost:\r\n\r\n", request.ReasonHostMissing},
		{get + "host: b.example\r\n\r\n", request.ReasonHostAmbiguous},
		{get + "Host: api.shop.example\r\n\r\n", request.ReasonHostAmbiguous},
		{"GET / HTTP/1.1\r\nHost: a.example/x\r\n\r\n", request.ReasonHostInvalid},
		{"GET / HTTP/1.1\r\nHost: a@b.example\r\n\r\n", request.ReasonHostInvalid},
		{"GET / HTTP/1.1\r\nHOST: a.example\r\n\r\n", ""},

		// Where the body ends.
		{post + "Content-Length: 0\r\n\r\n", ""},
		{post + "Content-Length: 2\r\n\r\nok", ""},
		{post + "Content-Length: 2\r\nContent-Length: 2\r\n\r\nok", request.ReasonHeaderDuplicate},
		{post + "Content-Length: 2, 2\r\n\r\nok", request.ReasonLength},
		{post + "Content-Length: +2\r\n\r\nok", request.ReasonLength},
		{post + "Content-Length: -2\r\n\r\nok", request.ReasonLength},
		{post + "Content-Length: 0x2\r\n\r\nok", request.ReasonLength},
		{post + "Content-Length:\r\n\r\nok", request.ReasonLength},
		{post + "Content-Length: 99999999999999999999\r\n\r\n", request.ReasonLength},
		{post + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""},
		{post + "transfer-encoding: Chunked\r\n\r\n0\r\n\r\n", ""},
		{post + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", request.ReasonLength},
		{post + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", request.ReasonLength},
		{post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", request.ReasonTransferEncoding},
		{post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", request.ReasonTransferEncoding},
		{post + "Transfer-Encoding: identity\r\n\r\n", request.ReasonTransferEncoding},
		{post + "Transfer-Encoding:\r\n\r\n", request.ReasonTransferEncoding},
		{post + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", request.ReasonTransferEncoding},
		{post + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", request.ReasonHeaderName},
		{post + "X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", wire.ReasonFolding},
		{post + "Expect: 100-continue\r\nContent-Length: 2\r\n\r\nok", ""},
		{post + "Expect: 200-ok\r\nContent-Length: 2\r\n\r\nok", request.ReasonExpectation},
		{post + "Trailer: X-Sum, content-length\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", wire.ReasonTrailer},
		{post + "Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n", ""},
		{get + "uPGRADE: x\r\nContent-Length: 0\r\n\r\n", ""},
		{get + "Upgrade: x\r\nContent-Length: 1\r\n\r\nx", request.ReasonUpgrade},
		{get + "Transfer-Encoding: chunked\r\nUpgrade: x\r\n\r\n0\r\n\r\n", request.ReasonUpgrade},

		// How much.
		{get + strings.Repeat("X-A: b\r\n", request.MaxHeaderFields-1) + "\r\n", ""},
		{get + strings.Repeat("X-A: b\r\n", request.MaxHeaderFields) + "\r\n", request.ReasonHeaderTooLarge},
		{get + "X-A: " + strings.Repeat("b", request.MaxHeaderBytes) + "\r\n\r\n", ""}, // package request refuses it
		{get + "X-A: " + strings.Repeat("b", 128<<10) + "\r\n\r\n", request.ReasonHeaderTooLarge},
		{strings.Repeat("G", 128<<10), request.ReasonHeaderTooLarge},
	} {
		for name, split := range splits {
			w := conn(split(strings.NewReader(c.sends)))
			got, err := io.ReadAll(w)
			switch refused := w.Refused(); {
			case err != nil:
				t.Errorf("%.90q %s: %v", c.sends, name, err)
			case c.reason == "" && refused != nil:
				t.Errorf("%.90q %s: refused, %v", c.sends, name, refused)
			case c.reason == "" && string(got) != c.sends:
				t.Errorf("%.90q %s: handed on was %q", c.sends, name, got)
			case c.reason != "" && (refused == nil || refused.Reason != c.reason):
				t.Errorf("%.90q %s: refused with %v, want %s", c.sends, name, refused, c.reason)
			case c.reason != "" && !strings.HasPrefix(string(got), wire.RefusedMethod+" "):
				t.Errorf("%.90q %s: handed on was %q", c.sends, name, got)
			}
		}
	}
}

var splits = map[string]func(io.Reader) io.Reader{
	"at once":      func(r io.Reader) io.Reader { return r },
	"byte by byte": iotest.OneByteReader,
}

func TestBodies(t *testing.T) {
	const chunked = post + "Transfer-Encoding: chunked\r\n\r\n"
	for _, c := range []struct{ body, reason string }{
		{"0\r\n\r\n", ""},
		{"2\r\nok\r\n0\r\n\r\n", ""},
		{"00002\r\nok\r\n000\r\n\r\n", ""},
		{"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", ""},
		{"2;name=value\r\nok\r\n0;last\r\n\r\n", ""},
		{"0\r\nX-Sum: 1\r\n\r\n", ""},
		{"2\nok\r\n0\r\n\r\n", wire.ReasonLineEnding},
		{"2;x\nok\r\n0\r\n\r\n", wire.ReasonLineEnding},
		{"2\r\nok\n0\r\n\r\n", wire.ReasonChunk},
		{"2\r\nokay\r\n0\r\n\r\n", wire.ReasonChunk},
		{"0x2\r\nok\r\n0\r\n\r\n", wire.ReasonChunk},
		{"+2\r\nok\r\n0\r\n\r\n", wire.ReasonChunk},
		{"-2\r\nok\r\n0\r\n\r\n", wire.ReasonChunk},
		{"2 \r\nok\r\n0\r\n\r\n", wire.ReasonChunk},
		{" 2\r\nok\r\n0\r\n\r\n", wire.ReasonChunk},
		{"\r\nok\r\n0\r\n\r\n", wire.ReasonChunk},
		{";x\r\nok\r\n0\r\n\r\n", wire.ReasonChunk},
		{"2;a\rb\r\nok\r\n0\r\n\r\n", wire.ReasonChunk},
		{"1000000000000002\r\nok\r\n0\r\n\r\n", wire.ReasonChunk},
		{"ffffffffffffffff\r\nok\r\n0\r\n\r\n", wire.ReasonChunk},
		{"2;" + strings.Repeat("x", 300) + "\r\nok\r\n0\r\n\r\n", wire.ReasonChunk},
		{"0\r\nX-Sum: 1\n\r\n", wire.ReasonTrailer},
		{"0\r\nX-Sum : 1\r\n\r\n", wire.ReasonTrailer},
		{"0\r\nX-Sum: 1\r\n 2\r\n\r\n", wire.ReasonTrailer},
		{"0\r\n" + strings.Repeat("X-Sum: 1\r\n", 200) + "\r\n", wire.ReasonTrailer},
		{"0\r\nX-Sum: " + strings.Repeat("1", 9<<10) + "\r\n\r\n", wire.ReasonTrailer},
	} {
		for name, split := range splits {
			w := conn(split(strings.NewReader(chunked + c.body + get + "\r\n")))
			got, err := io.ReadAll(w)
			var e *request.Error
			switch {
			case c.reason == "" && (err != nil || string(got) != chunked+c.body+get+"\r\n"):
				t.Errorf("%.60q %s: %v, handed on was %q", c.body, name, err, got)
			case c.reason != "" && (!errors.As(err, &e) || e.Reason != c.reason):
				t.Errorf("%.60q %s: %v, want %s", c.body, name, err, c.reason)
			case c.reason != "" && strings.Contains(string(got), get):
				t.Errorf("%.60q %s: the next request was handed on", c.body, name)
			}
		}
	}
}

// No read goes beyond one message, whatever has arrived.
func TestReadsEndWithTheMessage(t *testing.T) {
	messages := []string{
		get + "\r\n",
		post + "Content-Length: 5\r\n\r\nGET /",
		post + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		get + "\r\n",
	}
	w := conn(strings.NewReader(strings.Join(messages, "")))
	p := make([]byte, 4096)
	for i, m := range messages {
		for got := ""; got != m; {
			n, err := w.Read(p)
			if got += string(p[:n]); err != nil || !strings.HasPrefix(m, got) {
				t.Fatalf("message %d: %v, read %q", i, err, got)
			}
		}
		if w.Heads() != int64(i+1) {
			t.Errorf("after message %d: %d heads", i, w.Heads())
		}
	}
}

func TestNothingFollowsARefusal(t *testing.T) {
	w := conn(strings.NewReader(get + "\r\n" + get + "X : y\r\n\r\n" + get + "\r\n"))
	got, err := io.ReadAll(w)
	if err != nil || strings.Count(string(got), "api.shop.example") != 1 || w.Heads() != 2 {
		t.Errorf("%v, %d heads, handed on was %q", err, w.Heads(), got)
	}
}

// A server that stops waiting for the next request, as net/http does when a
// handler ends, waits again later; one that stops within a body never does, as
// what it would read is somebody's body.
func TestDeadlines(t *testing.T) {
	server, client := net.Pipe()
	w := wire.NewHTTP1(server, wire.Timeouts{Head: time.Minute})
	p := make([]byte, 4096)
	past := time.Unix(1, 0)

	send := func(s string) {
		t.Helper()
		go func() { _, _ = io.WriteString(client, s) }()
		if n, err := w.Read(p); err != nil || string(p[:n]) != s {
			t.Fatalf("%v, read %q, want %q", err, p[:n], s)
		}
	}
	expire := func() {
		t.Helper()
		if err := w.SetReadDeadline(past); err != nil {
			t.Fatal(err)
		}
		var timeout net.Error
		if n, err := w.Read(p); n != 0 || !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Fatalf("%v, read %q, want a timeout", err, p[:n])
		}
		if err := w.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	expire()
	send(get + "\r\n")
	expire()
	send(post + "Content-Length: 10\r\n\r\n")
	send("01234")
	expire()
	go func() { _, _ = io.WriteString(client, "56789") }()
	if n, err := w.Read(p); err == nil {
		t.Errorf("after a timeout within a body %q was read", p[:n])
	}
	_ = client.Close()
	_ = w.Close()
}

// Behind a wish for another protocol nothing is handed on, unless it is granted,
// and then as it comes.
func TestAnotherProtocol(t *testing.T) {
	const head = get + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	server, client := net.Pipe()
	w := wire.NewHTTP1(server, wire.Timeouts{Head: time.Minute})
	p := make([]byte, 4096)
	send := func(s string) string {
		go func() { _, _ = io.WriteString(client, s) }()
		n, err := w.Read(p)
		if err != nil {
			return err.Error()
		}
		return string(p[:n])
	}
	if w.Release() {
		t.Error("nobody has asked for another protocol")
	}
	if got := send(get + "\r\n"); got != get+"\r\n" || w.Release() {
		t.Errorf("handed on was %q", got)
	}
	if got := send(head); got != head || w.Heads() != 2 {
		t.Errorf("handed on was %q", got)
	}
	_ = w.SetReadDeadline(time.Unix(1, 0))
	if _, err := w.Read(p); err == nil {
		t.Error("a read without data ended well")
	}
	_ = w.SetReadDeadline(time.Time{})
	if !w.Release() || w.Release() {
		t.Error("it is not granted once")
	}
	for _, s := range []string{"\x81\x02ok", get + "\r\n", "X : y\n"} {
		if got := send(s); got != s {
			t.Errorf("handed on was %q, want %q", got, s)
		}
	}
	if w.Heads() != 2 || w.Refused() != nil {
		t.Errorf("%d heads, refused %v", w.Heads(), w.Refused())
	}
	_, _ = client.Close(), w.Close()
}

func TestBytesBeforeAnotherProtocol(t *testing.T) {
	const head = get + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	for name, split := range splits {
		w := conn(split(strings.NewReader(head + get + "\r\n")))
		got, err := io.ReadAll(w)
		refused := w.Refused()
		if refused == nil || refused.Reason != wire.ReasonEarly || w.Heads() != 1 || w.Release() {
			t.Errorf("%s: %v, refused %v, %d heads", name, err, refused, w.Heads())
		}
		if name == "at once" && !strings.HasPrefix(string(got), wire.RefusedMethod) || name != "at once" && string(got) != head {
			t.Errorf("%s: handed on was %q", name, got)
		}
	}
}

func TestSlowHeads(t *testing.T) {
	server, client := net.Pipe()
	w := wire.NewHTTP1(server, wire.Timeouts{Head: 20 * time.Millisecond})
	go func() { _, _ = io.WriteString(client, "GET / HT") }()
	// Servers set deadlines of their own; a head that has begun ends sooner.
	if err := w.SetReadDeadline(time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	n, err := w.Read(make([]byte, 4096))
	var timeout net.Error
	if n != 0 || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("%d, %v, want a timeout", n, err)
	}
	_ = client.Close()
	_ = w.Close()
}

func TestClientThatStopsReading(t *testing.T) {
	server, client := net.Pipe()
	w := wire.NewHTTP1(server, wire.Timeouts{Write: 50 * time.Millisecond})
	p := make([]byte, 10)
	go func() { _, _ = io.ReadFull(client, p[:5]) }()
	var timeout net.Error
	if n, err := w.Write(p); n != 5 || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("%d bytes, %v, want a timeout after 5", n, err)
	}
	_ = client.Close()
	_ = w.Close()
}

// A body is whole once all of it was read, and before any of it is handed on.
func TestWhole(t *testing.T) {
	for sends, want := range map[string]bool{
		post + "Content-Length: 2\r\n\r\nok":                            true,
		post + "Content-Length: 2\r\n\r\nok" + get + "\r\n":             true,
		post + "Content-Length: 3\r\n\r\nok":                            false,
		post + "Content-Length: 2\r\n\r\n":                              false,
		post + "Content-Length: 0\r\n\r\n":                              false,
		post + "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n": false,
		get + "\r\n": false,
	} {
		c := conn(strings.NewReader(sends))
		in := bufio.NewReader(c)
		r, err := http.ReadRequest(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Whole(); got != want {
			t.Errorf("%q: %t, want %t", sends, got, want)
		}
		if _, err := io.CopyN(io.Discard, r.Body, 1); err == nil && c.Whole() {
			t.Errorf("%q: whole without its first byte", sends)
		}
	}
}

// FuzzHTTP1 holds the two parsers against each other: whatever is handed on,
// net/http has to understand, and as a message that ends where ours did.
func FuzzHTTP1(f *testing.F) {
	for _, s := range []string{
		get + "\r\n", get + "\r\n" + get + "\r\n",
		post + "Content-Length: 5\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
		post + "Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nGET /\r\n0\r\nX-Sum: 1\r\n\r\n" + get + "\r\n",
		post + "Trailer: X-Sum\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET /%41?%zz=1;2 HTTP/1.1\r\nHost: [::1]:443\r\nX-A: b\tc\r\nConnection: close\r\n\r\n",
		get + "Upgrade: websocket\r\n\r\n" + get + "\r\n", get + "Upgrade: h2c\r\nContent-Length: 1\r\n\r\nx",
		"POST / HTTP/1.1\r\nHost: a:b\r\nContent-Length: 0\r\nPragma: no-cache\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		w := conn(bytes.NewReader(sent))
		var handed bytes.Buffer
		server := bufio.NewReader(io.TeeReader(w, &handed))
		for n := int64(1); ; n++ {
			r, err := http.ReadRequest(server)
			if w.Heads() < n {
				return // nothing more came
			}
			if err != nil {
				t.Fatalf("net/http does not understand request %d: %v\nsent %q\nhanded on %q", n, err, sent, &handed)
			}
			if r.Method == wire.RefusedMethod && w.Refused() != nil {
				return
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return // the connection ended, or the body was refused
			}
			// Our message has ended: its last byte was handed on, and no further.
			if server.Buffered() != 0 || !bytes.HasPrefix(sent, handed.Bytes()) {
				t.Fatalf("request %d: %q left over\nsent %q", n, handed.Bytes()[handed.Len()-server.Buffered():], sent)
			}
		}
	})
}

func BenchmarkHTTP1(b *testing.B) {
	sends := []byte(get + "Accept: application/json\r\nAccept-Encoding: gzip\r\nAuthorization: Bearer " +
		strings.Repeat("x", 400) + "\r\nUser-Agent: orders-client/1.4\r\n\r\n")
	r := bytes.NewReader(sends)
	w := conn(r)
	p := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		r.Reset(sends)
		if n, err := w.Read(p); n != len(sends) || err != nil {
			b.Fatal(n, err)
		}
	}
}
