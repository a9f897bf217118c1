package wire_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"reflect"
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
	answers bytes.Buffer
	closed  chan struct{}
}

func newSent(r io.Reader) *sent { return &sent{Reader: r, closed: make(chan struct{})} }

func (s *sent) Read(p []byte) (int, error)       { return s.Reader.Read(p) }
func (s *sent) Write(p []byte) (int, error)      { return s.answers.Write(p) }
func (s *sent) SetReadDeadline(time.Time) error  { return nil }
func (s *sent) SetWriteDeadline(time.Time) error { return nil }

func (s *sent) Close() error {
	close(s.closed)
	return nil
}

// serve has h answer all that r yields, and returns what was answered.
func serve(r io.Reader, h wire.Handler) string {
	s := newSent(r)
	below := wire.NewSocket(s)
	wire.NewServer(wire.Timeouts{Head: time.Second}, slog.New(slog.DiscardHandler)).Serve(below, below, h)
	<-s.closed
	return s.answers.String()
}

// seen is what a handler saw.
type seen struct {
	message

	failed  error // of the body
	refused *request.Error
}

// message is a request in all its parts.
type message struct {
	Method, Target, Host, Path, Query string
	Header, Trailer                   http.Header
	Length                            int64
	Encoding                          []string
	Close                             bool
	Body                              string
}

func see(r *http.Request) seen {
	b, err := io.ReadAll(r.Body)
	return seen{failed: err, message: message{
		Method: r.Method, Target: r.RequestURI, Host: r.Host, Path: r.URL.Path, Query: r.URL.RawQuery, Header: r.Header, Trailer: r.Trailer,
		Length: r.ContentLength, Encoding: r.TransferEncoding, Close: r.Close, Body: string(b),
	}}
}

// seenOf returns what a handler sees of what r yields.
func seenOf(r io.Reader) (all []seen, answers string) {
	answers = serve(r, func(_ *wire.Response, r *http.Request, refused *request.Error) {
		if refused != nil {
			all = append(all, seen{refused: refused})
			return
		}
		all = append(all, see(r))
	})
	return all, answers
}

// asStandard compares a request with what net/http's server would have made of it.
func asStandard(t *testing.T, from *bufio.Reader, got *seen) {
	t.Helper()
	r, err := http.ReadRequest(from)
	if err != nil {
		t.Fatalf("net/http does not understand %+v: %v", got, err)
	}
	want := see(r).message
	if r.Header.Get("Pragma") == "no-cache" && got.Header["Cache-Control"] == nil {
		delete(want.Header, "Cache-Control") // which net/http makes up
	}
	for name := range want.Trailer {
		if _, announced := got.Trailer[name]; !announced {
			delete(want.Trailer, name)
		}
	}
	if len(want.Trailer) == 0 && len(got.Trailer) == 0 {
		want.Trailer, got.Trailer = nil, nil
	}
	if !reflect.DeepEqual(want, got.message) {
		t.Fatalf("net/http sees %+v, and not %+v", want, got.message)
	}
}

const (
	get  = "GET /v1/orders/7?x=1 HTTP/1.1\r\nHost: api.shop.example\r\n"
	post = "POST /v1/orders HTTP/1.1\r\nHost: api.shop.example\r\n"
)

var splits = map[string]func(io.Reader) io.Reader{
	"at once":      func(r io.Reader) io.Reader { return r },
	"byte by byte": iotest.OneByteReader,
}

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
		{"GET /?" + strings.Repeat("q", request.MaxQueryLength) + " HTTP/1.1\r\nHost: a.example\r\nX-A: " + strings.Repeat("b", request.MaxHeaderBytes) + "\r\n\r\n", ""},
		{get + "X-A: " + strings.Repeat("b", request.MaxHeaderBytes+9<<10) + "\r\n\r\n", request.ReasonHeaderTooLarge},
		{get + "X-A: " + strings.Repeat("b", 128<<10) + "\r\n\r\n", request.ReasonHeaderTooLarge},
		{strings.Repeat("G", 128<<10), request.ReasonHeaderTooLarge},
	} {
		for name, split := range splits {
			all, answers := seenOf(split(strings.NewReader(c.sends)))
			if len(all) != 1 || strings.Count(answers, "Date: ") != 1 {
				t.Errorf("%.90q %s: %d requests, answered %q", c.sends, name, len(all), answers)
				continue
			}
			switch refused := all[0].refused; {
			case c.reason == "" && refused != nil:
				t.Errorf("%.90q %s: refused, %v", c.sends, name, refused)
			case c.reason == "":
				asStandard(t, bufio.NewReader(strings.NewReader(c.sends)), &all[0])
			case refused == nil || refused.Reason != c.reason:
				t.Errorf("%.90q %s: refused with %v, want %s", c.sends, name, refused, c.reason)
			case !strings.Contains(answers, "\r\nConnection: close\r\n"):
				t.Errorf("%.90q %s: answered was %q", c.sends, name, answers)
			}
		}
	}
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
		{strings.Repeat("1;"+strings.Repeat("x", 200)+"\r\nk\r\n", 50) + "0\r\n\r\n", ""},
		{strings.Repeat("1;"+strings.Repeat("x", 200)+"\r\nk\r\n", 200) + "0\r\n\r\n", wire.ReasonChunk},
	} {
		for name, split := range splits {
			sends := chunked + c.body + get + "\r\n"
			all, _ := seenOf(split(strings.NewReader(sends)))
			var e *request.Error
			switch {
			case c.reason == "" && (len(all) != 2 || all[0].failed != nil):
				t.Errorf("%.60q %s: seen was %+v", c.body, name, all)
			case c.reason == "":
				asStandard(t, bufio.NewReader(strings.NewReader(sends)), &all[0])
			case len(all) != 1:
				t.Errorf("%.60q %s: the next request was read", c.body, name)
			case !errors.As(all[0].failed, &e) || e.Reason != c.reason:
				t.Errorf("%.60q %s: %v, want %s", c.body, name, all[0].failed, c.reason)
			}
		}
	}
}

// Requests that come at once are answered in turn.
func TestPipelining(t *testing.T) {
	for name, split := range splits {
		var told []string
		answers := serve(split(strings.NewReader(get+"\r\n"+
			post+"Content-Length: 5\r\n\r\nGET /"+
			post+"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"+
			post+"Content-Length: 4\r\n\r\nleft"+
			get+"Connection: close\r\n\r\n"+get+"\r\n")), func(w *wire.Response, r *http.Request, _ *request.Error) {
			n := string(rune('0' + len(told)))
			told = append(told, r.Method)
			w.Header()["X-Turn"] = []string{n}
			if n != "3" {
				_, _ = io.Copy(w, r.Body)
			}
		})
		in := bufio.NewReader(strings.NewReader(answers))
		for i, want := range []string{"", "GET /", "abc", "", ""} {
			res, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatalf("%s: answer %d of %q: %v", name, i, answers, err)
			}
			body, err := io.ReadAll(res.Body)
			if turn := res.Header.Get("X-Turn"); err != nil || string(body) != want || turn != string(rune('0'+i)) || res.Close != (i == 4) {
				t.Errorf("%s: answer %d: %v, %q, X-Turn %s, close %t", name, i, err, body, turn, res.Close)
			}
		}
		if rest, _ := io.ReadAll(in); len(rest) > 0 || len(told) != 5 {
			t.Errorf("%s: %d requests, and behind the last answer %q", name, len(told), rest)
		}
	}
}

func TestNothingFollowsARefusal(t *testing.T) {
	all, answers := seenOf(strings.NewReader(get + "\r\n" + get + "X : y\r\n\r\n" + get + "\r\n"))
	if len(all) != 2 || all[0].refused != nil || all[1].refused == nil || strings.Count(answers, "HTTP/1.1 ") != 2 {
		t.Errorf("seen was %+v, answered %q", all, answers)
	}
}

// A body is whole once all of it has come, and before any of it is read.
func TestWhole(t *testing.T) {
	for sends, want := range map[string]bool{
		post + "Content-Length: 2\r\n\r\nok":                            true,
		post + "Content-Length: 2\r\n\r\nok" + get + "\r\n":             true,
		post + "Content-Length: 3\r\n\r\nok":                            false,
		post + "Content-Length: 2\r\n\r\n":                              false,
		post + "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n": false,
	} {
		first := true
		serve(strings.NewReader(sends), func(_ *wire.Response, r *http.Request, _ *request.Error) {
			if !first {
				return
			}
			first = false
			body, ok := r.Body.(interface{ Whole() bool })
			if !ok || body.Whole() != want {
				t.Errorf("%q: %t, want %t", sends, !want, want)
			}
			if _, err := io.CopyN(io.Discard, r.Body, 1); err == nil && body.Whole() {
				t.Errorf("%q: whole without its first byte", sends)
			}
		})
	}
}

// FuzzServe holds two parsers against each other: whatever a handler sees, net/http would
// have seen as well, and where that ends is where the next request begins. No request is
// answered twice.
func FuzzServe(f *testing.F) {
	for _, s := range []string{
		get + "\r\n", get + "\r\n" + get + "\r\n",
		post + "Content-Length: 5\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
		post + "Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nGET /\r\n0\r\nX-Sum: 1\r\n\r\n" + get + "\r\n",
		post + "Trailer: X-Sum\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n",
		"GET /%41?%zz=1;2 HTTP/1.1\r\nHost: [::1]:443\r\nX-A: b\tc\r\nConnection: close\r\n\r\n",
		get + "Upgrade: websocket\r\n\r\n" + get + "\r\n", get + "Upgrade: h2c\r\nContent-Length: 1\r\n\r\nx",
		"POST / HTTP/1.1\r\nHost: a:b\r\nContent-Length: 0\r\nPragma: no-cache\r\n\r\n",
	} {
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, sends []byte, piecemeal bool) {
		r := io.Reader(bytes.NewReader(sends))
		if piecemeal {
			r = iotest.OneByteReader(r)
		}
		all, answers := seenOf(r)
		standard := bufio.NewReader(bytes.NewReader(sends))
		for _, s := range all {
			if s.refused != nil || s.failed != nil {
				break // and the last one
			}
			asStandard(t, standard, &s)
		}
		in := bufio.NewReader(strings.NewReader(answers))
		for n := 0; ; {
			res, err := http.ReadResponse(in, nil)
			if err != nil {
				if n != len(all) {
					t.Fatalf("%d requests and %d answers: %v, %q", len(all), n, err, answers)
				}
				return
			}
			if res.StatusCode != http.StatusContinue {
				n++
			}
		}
	})
}

func BenchmarkServe(b *testing.B) {
	sends := []byte(get + "Accept: application/json\r\nAccept-Encoding: gzip\r\nAuthorization: Bearer " +
		strings.Repeat("x", 400) + "\r\nUser-Agent: orders-client/1.4\r\n\r\n")
	body := make([]byte, 1024)
	s := deaf{newSent(&again{sends: sends, left: b.N})}
	b.ReportAllocs()
	below := wire.NewSocket(s)
	wire.NewServer(limits, slog.New(slog.DiscardHandler)).Serve(below, below, func(w *wire.Response, _ *http.Request, _ *request.Error) {
		w.UseHeader(http.Header{"Content-Type": {"application/octet-stream"}, "Content-Length": {"1024"}})
		_, _ = w.Write(body)
	})
	<-s.closed
}

// deaf is a client that forgets what it is told.
type deaf struct{ *sent }

func (deaf) Write(p []byte) (int, error) { return len(p), nil }

// again yields the same request again and again.
type again struct {
	sends []byte
	at    int
	left  int
}

func (a *again) Read(p []byte) (int, error) {
	if a.at == len(a.sends) {
		a.at = 0
		a.left--
	}
	if a.left <= 0 {
		return 0, io.EOF
	}
	n := copy(p, a.sends[a.at:])
	a.at += n
	return n, nil
}
