package e2e_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// attack is what a client does to a proxy over each of its connections.
type attack struct {
	name   string
	http2  bool
	begins func() string
	// floods is said behind that, so many times, with as much time between. Its argument
	// counts from zero.
	floods func(n int) string
	times  int
	every  time.Duration
	deaf   bool // reads nothing
	atOnce int  // connections

	// These are what the proxy does about it.
	answers string // of HTTP/1.1, by status; nothing when empty
	outlast bool   // it leaves the connection for longer than the test takes
}

// attacks are all of them.
var attacks = []attack{
	{name: "slowloris", begins: said("GET / HTTP/1.1\r\n"), floods: always("X-A: b\r\n"), times: 100, every: time.Second, atOnce: 200},
	{name: "slow_read", begins: said("GET /attack/large HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"), deaf: true, atOnce: 200, outlast: true},
	{name: "slow_read_http2", http2: true, begins: manyLarge, deaf: true, atOnce: 10, outlast: true},
	{name: "closed_windows", http2: true, begins: manyClosed, atOnce: 10, outlast: true},
	{name: "rapid_resets", http2: true, begins: said(hello()), floods: requestAndReset, times: 100_000, atOnce: 8},
	{name: "settings", http2: true, begins: said(hello()), floods: always(frames((*http2.Framer).WriteSettings)), times: 100_000, atOnce: 8},
	{name: "pings", http2: true, begins: said(hello()), floods: always(pinged()), times: 100_000, atOnce: 8},
	{name: "empty_data", http2: true, begins: said(hello() + opened(false)), floods: always(dataOf(1, nil)), times: 100_000, atOnce: 8},
	{name: "continuations", http2: true, begins: said(hello() + opened(true)), floods: always(continued()), times: 100_000, atOnce: 8},
	{name: "header_bomb", begins: said("GET / HTTP/1.1\r\n"), floods: always("X-A: " + strings.Repeat("b", 1000) + "\r\n"), times: 10_000, atOnce: 8, answers: "431"},
	{name: "header_bomb_http2", http2: true, begins: said(hello() + bombed()), floods: always(pointed()), times: 1000, atOnce: 8},
	{name: "chunk_extensions", begins: said(chunked + "1"), floods: always(strings.Repeat(";a=b", 100)), times: 10_000, atOnce: 8, answers: "400"},
	{name: "extended_chunks", begins: said(chunked), floods: always("1;a=" + strings.Repeat("b", 200) + "\r\nx\r\n"), times: 1_000_000, atOnce: 8, answers: "400"},
	{name: "gzip_bomb", begins: sync.OnceValue(bomb), atOnce: 8, answers: "415"},
}

func said(s string) func() string      { return func() string { return s } }
func always(s string) func(int) string { return func(int) string { return s } }

const chunked = "POST /attack/small HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"

// bomb is a request for a route that compares bodies, whose body is a thousandth of
// what it becomes.
func bomb() string {
	var body bytes.Buffer
	z := gzip.NewWriter(&body)
	_, _ = z.Write(make([]byte, 64*mib)) // a buffer takes all
	_ = z.Close()
	return "POST /attack/checked HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n" +
		fmt.Sprintf("Content-Length: %d\r\n\r\n", body.Len()) + body.String()
}

// frames are frames of HTTP/2 as they are sent.
func frames[T any](write func(*http2.Framer, ...T) error, args ...T) string {
	var b bytes.Buffer
	if err := write(http2.NewFramer(&b, nil), args...); err != nil {
		panic(err)
	}
	return b.String()
}

// framed is frames for whoever writes several.
func framed(write func(*http2.Framer) error) string {
	return frames(func(f *http2.Framer, _ ...struct{}) error {
		f.AllowIllegalWrites = true
		return write(f)
	})
}

// mostWindow is the largest window (RFC 9113, section 6.9.1).
const mostWindow = 1<<31 - 1

// hello begins a connection whose answers may be as long as they like.
func hello() string { return helloWith(mostWindow) }

// helloWith begins one whose answers may be so long each.
func helloWith(window uint32) string {
	return http2.ClientPreface + framed(func(f *http2.Framer) error {
		return errors.Join(
			f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}),
			f.WriteSettingsAck(),
			f.WriteWindowUpdate(0, mostWindow-65535),
		)
	})
}

// head is a block of fields that each stand for themselves.
func head(method, path string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	e.SetMaxDynamicTableSize(0)
	for _, f := range [][2]string{{":method", method}, {":scheme", "https"}, {":authority", "127.0.0.1"}, {":path", path}} {
		_ = e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true}) // a buffer takes all
	}
	return b.Bytes()
}

func request(stream uint32, path string) string {
	return framed(func(f *http2.Framer) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: head("GET", path), EndHeaders: true, EndStream: true})
	})
}

// opened is the beginning of a request that does not end, or of a head that does not.
func opened(withinHead bool) string {
	return framed(func(f *http2.Framer) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head("POST", "/attack/small"), EndHeaders: !withinHead})
	})
}

// manyLarge asks for a lot, a hundred times at once.
func manyLarge() string { return hello() + larges() }

// manyClosed does so, and will have no more than the heads of the answers.
func manyClosed() string { return helloWith(0) + larges() }

func larges() (all string) {
	for n := range uint32(100) {
		all += request(2*n+1, "/attack/large")
	}
	return all
}

func requestAndReset(n int) string {
	stream := uint32(2*n + 1)
	return request(stream, "/attack/small") + framed(func(f *http2.Framer) error { return f.WriteRSTStream(stream, http2.ErrCodeCancel) })
}

func pinged() string {
	return framed(func(f *http2.Framer) error { return f.WritePing(false, [8]byte{}) })
}

func dataOf(stream uint32, data []byte) string {
	return framed(func(f *http2.Framer) error { return f.WriteData(stream, false, data) })
}

func continued() string {
	return framed(func(f *http2.Framer) error { return f.WriteContinuation(1, false, nil) })
}

// bombed begins a head with a large field that is remembered.
func bombed() string {
	var b bytes.Buffer
	b.Write(head("GET", "/attack/small"))
	_ = hpack.NewEncoder(&b).WriteField(hpack.HeaderField{Name: "x-a", Value: strings.Repeat("b", 4000)}) // a buffer takes all
	return framed(func(f *http2.Framer) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b.Bytes()})
	})
}

// pointed is that field, 16,384 times, a byte each.
func pointed() string {
	const newest = 0x80 | 62 // RFC 7541, sections 2.3.3 and 6.1
	return framed(func(f *http2.Framer) error {
		return f.WriteContinuation(1, false, bytes.Repeat([]byte{newest}, 16<<10))
	})
}
