package gateway_test

import (
	"bufio"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// hostile is what an upstream sends, and what a client of HTTP/1.1 gets of it.
type hostile struct {
	class  string // as docs/strictness.md names it
	sends  string
	closes bool   // the upstream closes the connection behind it
	told   string // to the byte; malformed when empty
	whole  string // or this: a body that was there at once may go on with its length
	torn   bool   // what is told has no end, and may be less
}

// back is the head of an answer as the client has to see it.
func back(line string, fields ...string) string {
	fields = append(fields, "Connection: close", "Sallyport-Decision-Id: ID", "Sallyport-Revision: 1")
	return inOrder(line + "\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\n")
}

const (
	ok200     = "HTTP/1.1 200 OK\r\n"
	okTwo     = ok200 + "Content-Length: 2\r\n\r\nhi"
	okChunked = ok200 + "Transfer-Encoding: chunked\r\n\r\n"
	poison    = ok200 + "Content-Length: 6\r\n\r\npoison"
)

var (
	backTwo    = back("HTTP/1.1 200 OK", "Content-Length: 2") + "hi"
	backChunks = back("HTTP/1.1 200 OK", "Transfer-Encoding: chunked")
)

// malformed is what a client gets nothing of.
func malformed(class string, sends ...string) (all []hostile) {
	for _, s := range sends {
		all = append(all, hostile{class: class, sends: s})
	}
	return all
}

// broken is what turns out to be malformed when the client has got a part of it.
func broken(class, told string, sends ...string) (all []hostile) {
	for _, s := range sends {
		all = append(all, hostile{class: class, sends: s, told: told, torn: true})
	}
	return all
}

var hostileAnswers = slices.Concat(
	malformed("Content-Length with Transfer-Encoding",
		ok200+"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
		ok200+"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n"+poison),
	malformed("Content-Length twice or malformed",
		ok200+"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi", ok200+"Content-Length: 2\r\nContent-Length: 0\r\n\r\nhi", ok200+"Content-Length: 2, 2\r\n\r\nhi",
		ok200+"Content-Length: +2\r\n\r\nhi", ok200+"Content-Length: -2\r\n\r\nhi", ok200+"Content-Length: 0x2\r\n\r\nhi", ok200+"Content-Length:\r\n\r\nhi"),
	malformed("Transfer-Encoding other than chunked",
		ok200+"Transfer-Encoding: gzip\r\n\r\nhi", ok200+"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", ok200+"Transfer-Encoding: identity\r\n\r\nhi",
		ok200+"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
	malformed("obsolete folding", ok200+"X-A: b\r\n c\r\nContent-Length: 2\r\n\r\nhi", ok200+" X-A: b\r\nContent-Length: 2\r\n\r\nhi", ok200+"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
	malformed("bare CR", ok200+"X-A: b\rSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200 OK\rX-A: b\r\nContent-Length: 2\r\n\r\nhi"),
	malformed("bare LF", "HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", ok200+"X-A: b\nSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\nhi", ok200+"Content-Length: 2\r\n\nhi\r\n\r\n"),
	malformed("space before the colon", ok200+"Content-Length : 2\r\n\r\nhi", ok200+"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n"),
	malformed("name that is no token", ok200+"X-A\r\nContent-Length: 2\r\n\r\nhi", ok200+": b\r\nContent-Length: 2\r\n\r\nhi", ok200+"X\x00A: b\r\nContent-Length: 2\r\n\r\nhi", ok200+"X A: b\r\nContent-Length: 2\r\n\r\nhi"),
	malformed("control byte in a value", ok200+"X-A: b\x00c\r\nContent-Length: 2\r\n\r\nhi", ok200+"X-A: \x0bb\r\nContent-Length: 2\r\n\r\nhi"),
	malformed("status line",
		"hello\r\n\r\n", "\r\n"+okTwo, "http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
		"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 +20 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nhi",
		"HTTP/1.1 099 No\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200 O\x00K\r\nContent-Length: 2\r\n\r\nhi"),
	malformed("a body where there is none", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
	malformed("framing announced as a trailer", ok200+"Trailer: Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 9\r\n\r\n"),
	malformed("too much", ok200+strings.Repeat("X-A: b\r\n", 300)+"Content-Length: 2\r\n\r\nhi", ok200+"X-A: "+strings.Repeat("b", 128<<10)+"\r\n\r\n",
		strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 100)+okTwo),

	broken("chunk size malformed", backChunks,
		okChunked+"0x2\r\nhi\r\n0\r\n\r\n", okChunked+"+2\r\nhi\r\n0\r\n\r\n", okChunked+"-2\r\nhi\r\n0\r\n\r\n", okChunked+"2 \r\nhi\r\n0\r\n\r\n", okChunked+" 2\r\nhi\r\n0\r\n\r\n",
		okChunked+"\r\nhi\r\n0\r\n\r\n", okChunked+"g\r\nhi\r\n0\r\n\r\n", okChunked+"ffffffffffffffffff\r\nhi\r\n0\r\n\r\n", okChunked+"10000000000000002\r\nhi\r\n0\r\n\r\n"),
	broken("chunk size malformed", backChunks+"2\r\nhi\r\n", okChunked+"2\r\nhi!\r\n0\r\n\r\n"+poison, okChunked+"2\r\nhi\r\nzz\r\n"),
	broken("chunk extension malformed", backChunks, okChunked+"2;a\rb\r\nhi\r\n0\r\n\r\n", okChunked+"2;"+strings.Repeat("a", 300)+"\r\nhi\r\n0\r\n\r\n"),
	broken("chunk lines that end in LF", backChunks+"2\r\nhi\r\n", okChunked+"2\nhi\r\n0\r\n\r\n", okChunked+"2\r\nhi\n0\r\n\r\n"),
	broken("trailer malformed", backChunks+"2\r\nhi\r\n", okChunked+"2\r\nhi\r\n0\r\nX-A: b\n\r\n", okChunked+"2\r\nhi\r\n0\r\nX-A: b\r\n c\r\n\r\n", okChunked+"2\r\nhi\r\n0\r\nContent-Length: 2\r\n\r\n"),

	[]hostile{
		{class: "answers in one reading", sends: okTwo, told: backTwo},
		{class: "answers in one reading", sends: ok200 + "x-a: b\r\nX-A:\tc \t\r\nX-B:\r\ncontent-length: 002\r\n\r\nhi", told: back("HTTP/1.1 200 OK", "Content-Length: 2", "X-A: b", "X-A: c", "X-B: ") + "hi"},
		{class: "answers in one reading", sends: okChunked + "00002\r\nhi\r\n000\r\n\r\n", told: backChunks + "2\r\nhi\r\n0\r\n\r\n", whole: backTwo},
		{class: "answers in one reading", sends: "HTTP/1.1 200 Whatever it is\r\nContent-Length: 2\r\n\r\nhi", told: backTwo},
		{class: "answers in one reading", sends: "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", told: backTwo},
		{class: "answers up to the end of the connection", sends: ok200 + "\r\nhi", closes: true, told: backChunks + "2\r\nhi\r\n0\r\n\r\n", whole: backTwo},
		{class: "answers up to the end of the connection", sends: "HTTP/1.0 200 OK\r\n\r\nhi", closes: true, told: backChunks + "2\r\nhi\r\n0\r\n\r\n", whole: backTwo},
		{class: "answers that end too early", sends: ok200 + "Content-Length: 3\r\n\r\nhi", closes: true, told: back("HTTP/1.1 200 OK", "Content-Length: 3") + "hi", torn: true},
		{class: "answers that end too early", sends: okChunked + "2\r\nhi\r\n", closes: true, told: backChunks + "2\r\nhi\r\n", torn: true},
		{class: "chunk extensions", sends: okChunked + "2;a=b;c=\"d\"\r\nhi\r\n0;e\r\n\r\n", told: backChunks + "2\r\nhi\r\n0\r\n\r\n", whole: backTwo},
		{class: "bytes behind an answer", sends: okTwo + poison, told: backTwo},
		{class: "bytes behind an answer", sends: okChunked + "2\r\nhi\r\n0\r\n\r\n" + poison, told: backChunks + "2\r\nhi\r\n0\r\n\r\n", whole: backTwo},
		{class: "bytes behind an answer", sends: "HTTP/1.1 304 Not Modified\r\n\r\nhi" + poison, told: back("HTTP/1.1 304 Not Modified")},
		{class: "bytes behind an answer", sends: "HTTP/1.1 204 No Content\r\n\r\n" + poison, told: back("HTTP/1.1 204 No Content")},
		{class: "hop-by-hop fields", sends: ok200 + "Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: x\r\nProxy-Connection: close\r\nUpgrade: h2c\r\nTE: trailers\r\nContent-Length: 2\r\n\r\nhi", told: backTwo},
		{class: "fields that only a gateway may say", sends: ok200 + "Sallyport-Decision-Id: theirs\r\nSallyport-Revision: 9\r\nAlt-Svc: h3=\":443\"\r\nServer: x/1.0\r\nX-Powered-By: y\r\nContent-Length: 2\r\n\r\nhi", told: backTwo},
		{class: "trailers", sends: ok200 + "Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\nSet-Cookie: a=b\r\n\r\n", told: back("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "Trailer: X-Sum") + "2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n"},
		{class: "interim answers", sends: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X-A\r\nX-A: b\r\n\r\n" + okTwo, told: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + backTwo},
		{class: "another protocol", sends: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + poison, told: "502 upstream_switched"},
	},
)

// Whatever an upstream sends is refused, cut off, or reaches the client in the one
// way that is written here, to the byte; and whoever asks next gets their own answer.
func TestSmugglingByAnswers(t *testing.T) {
	w := newWorld(t, options{})
	up := newSpy(t)
	var sends string
	var closes bool
	up.answer = func(line string) (string, bool) {
		if line != "GET /v1/orders HTTP/1.1" {
			return named(line)
		}
		return sends, closes
	}
	w.apply(w.everybody(plaintext(up.ln.Addr().String())))
	over2 := w.client(true, w.tls(host))
	for _, c := range hostileAnswers {
		sends, closes = c.sends, c.closes
		want := c.told
		if want == "" {
			want = "502 upstream_malformed"
		}
		if got := w.told1(); got != want && (c.whole == "" || got != c.whole) && !(c.torn && (strings.HasPrefix(want, got) || got == "502 upstream_malformed")) {
			t.Errorf("%s: %.120q: the client got\n%q, want\n%q", c.class, c.sends, got, want)
		}
		if answers, stepped := w.say(inStep); !stepped || len(answers) > 0 {
			t.Errorf("%s: %.120q: who asks next gets %q", c.class, c.sends, answers)
		}
		w.sameOver2(over2, &c, want)
	}
}

// told1 returns all that comes back for a request that is the last of its connection.
func (w *world) told1() string {
	w.t.Helper()
	conn := w.dial("http/1.1")
	defer conn.Close()
	w.send(conn, asked+"Connection: close\r\n\r\n")
	b, _ := io.ReadAll(conn) // it may be cut
	text := string(b)
	if !strings.Contains(text, "application/problem+json") {
		return inOrder(text)
	}
	in := bufio.NewReader(strings.NewReader(text))
	for {
		res, err := http.ReadResponse(in, nil)
		w.must(err)
		if res.StatusCode >= 200 {
			return w.answered(res)
		}
	}
}

// sameOver2 says when a client of HTTP/2 is told anything else than one of HTTP/1.1.
func (w *world) sameOver2(over *http.Client, c *hostile, told string) {
	w.t.Helper()
	res, err := over.Get("https://" + host + "/v1/orders")
	if err != nil {
		if !c.torn {
			w.t.Errorf("%s: %.120q: over HTTP/2 %v", c.class, c.sends, err)
		}
		return
	}
	defer res.Body.Close()
	if !strings.HasPrefix(told, "HTTP/1.1 ") {
		if got := w.answered(res); got != told {
			w.t.Errorf("%s: %.120q: over HTTP/2 %s, want %s", c.class, c.sends, got, told)
		}
		return
	}
	for strings.HasPrefix(told, "HTTP/1.1 1") {
		_, told, _ = strings.Cut(told, "\r\n\r\n")
	}
	want, err := http.ReadResponse(bufio.NewReader(strings.NewReader(told)), nil)
	w.must(err)
	defer want.Body.Close()
	body, cut := io.ReadAll(res.Body)
	wanted, _ := io.ReadAll(want.Body) // that of HTTP/1.1 may be torn
	if c.torn && (cut != nil || res.StatusCode == http.StatusBadGateway) {
		return
	}
	if cut != nil || c.torn || res.StatusCode != want.StatusCode || string(body) != string(wanted) || !sameFields(res.Header, want.Header) || !sameFields(res.Trailer, want.Trailer) {
		w.t.Errorf("%s: %.120q: over HTTP/2 %v %s %v %q %v", c.class, c.sends, cut, res.Status, res.Header, body, res.Trailer)
	}
}

// sameFields compares what is not the connection's business.
func sameFields(a, b http.Header) bool {
	ours := []string{"Sallyport-Decision-Id", "Connection", "Transfer-Encoding", "Trailer", "Content-Length"}
	own := func(h http.Header) (text []string) {
		for name, values := range h {
			if !slices.Contains(ours, name) {
				text = append(text, name+": "+strings.Join(values, "\n"))
			}
		}
		slices.Sort(text)
		return text
	}
	return slices.Equal(own(a), own(b))
}
