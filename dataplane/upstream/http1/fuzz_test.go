package http1_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"reflect"
	"testing"
	"testing/iotest"
	"time"

	"github.com/sallyport/sallyport/dataplane/upstream/http1"
)

// said is a connection over which an endpoint says what a reader yields, whatever it
// is asked.
type said struct {
	net.Conn // none: what is not overridden panics
	io.Reader
}

func (s said) Read(p []byte) (int, error)       { return s.Reader.Read(p) }
func (s said) Write(p []byte) (int, error)      { return len(p), nil }
func (s said) SetReadDeadline(time.Time) error  { return nil }
func (s said) SetWriteDeadline(time.Time) error { return nil }
func (s said) Close() error                     { return nil }

// FuzzAnswer holds two parsers against each other: an answer that ours lets through
// is one that net/http reads in the same way, however it arrives, and a connection
// that is kept is one on which nothing is left to read.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		hello, chunked + "5;a=b\r\nhello\r\n0\r\nX-A: b\r\n\r\n", ok + "\r\nhello", hello + "x",
		"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
		ok + "Trailer: X-A\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
		ok + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", ok + "X-A: b\r\n c\r\n\r\n", "HTTP/1.1 200 OK\n\n",
	} {
		for _, method := range []string{"GET", "HEAD"} {
			f.Add([]byte(seed), method == "HEAD")
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, head bool) {
		method := map[bool]string{false: "GET", true: "HEAD"}[head]
		got, kept, err := read(t, bytes.NewReader(text), method)
		slow, _, slowErr := read(t, iotest.OneByteReader(bytes.NewReader(text)), method)
		if (err == nil) != (slowErr == nil) || !reflect.DeepEqual(got, slow) {
			t.Fatalf("%q\n%v %v\none byte at a time\n%v %v", text, got, err, slow, slowErr)
		}
		if err != nil {
			return
		}
		want, rest, err := theirs(text, method)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%q\n got %v\nwant %v %v", text, got, want, err)
		}
		if kept && rest > 0 {
			t.Fatalf("%q: %d bytes are left on a connection that is kept", text, rest)
		}
	})
}

// read returns what our parser makes of an answer.
func read(t *testing.T, from io.Reader, method string) (a *answer, kept bool, err error) {
	t.Helper()
	p, err := http1.NewPool(limits, nil)
	must(t, err)
	defer p.Close()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://a.example/", nil)
	must(t, err)
	socket := http1.NewSocket(said{Reader: from})
	c := p.New(socket, socket)
	a, err = ask(roundTrip(func(r *http.Request) (*http.Response, error) { return c.RoundTrip(r, traced(r)) }), r)
	if err != nil {
		return nil, false, err
	}
	if a.Code == http.StatusSwitchingProtocols {
		return nil, false, io.EOF // what follows is no HTTP
	}
	delete(a.Header, "Connection")
	a.Interim = nil
	return a, p.Idle() > 0, nil
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// theirs returns what net/http makes of the same, and how much it leaves.
func theirs(text []byte, method string) (*answer, int, error) {
	from := bytes.NewReader(text)
	in := bufio.NewReader(from)
	for {
		res, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			return nil, 0, err
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil {
			return nil, 0, err
		}
		if res.StatusCode < 200 && res.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		delete(res.Header, "Connection")
		return &answer{
			Status: res.Status, Code: res.StatusCode, Proto: res.Proto, Header: res.Header,
			Length: res.ContentLength, Coding: res.TransferEncoding, Body: string(body), Trailer: res.Trailer,
		}, from.Len() + in.Buffered(), nil
	}
}
