package gateway_test

import (
	"slices"
	"strings"
	"testing"
)

// smuggled is what a client sends that somebody might read differently, what the
// upstream sees of it, a connection each, and what the client is told.
type smuggled struct {
	class   string // as docs/strictness.md names it
	sends   string
	saw     []string // to the byte; nothing when empty
	torn    string   // or the upstream saw the beginning of this, and not its end
	answers []string
	follows follows
	silent  bool // the client may be told nothing instead
}

// follows says whether the client's next request on the connection is answered.
type follows uint8

const (
	perhaps follows = iota
	always
	nothing
)

const (
	asked  = "GET /v1/orders HTTP/1.1\r\nHost: api.shop.example\r\n"
	posted = "POST /v1/orders HTTP/1.1\r\nHost: api.shop.example\r\n"
	chunks = posted + "Transfer-Encoding: chunked\r\n\r\n"
	behind = "GET /v1/behind HTTP/1.1\r\nHost: api.shop.example\r\n\r\n"
)

// never is what the upstream sees nothing of, and after which the connection ends.
func never(class, sends, answer string) smuggled {
	return smuggled{class: class, sends: sends, answers: []string{answer}, follows: nothing}
}

// denied is what the upstream sees nothing of, but the client may go on.
func denied(class, sends, answer string) smuggled {
	return smuggled{class: class, sends: sends, answers: []string{answer}}
}

// reads is what reaches the upstream as these requests, and is answered.
func reads(class, sends string, saw ...string) smuggled {
	c := smuggled{class: class, sends: sends, saw: saw, follows: always}
	for _, text := range saw {
		line, _, _ := strings.Cut(text, " HTTP/1.1\r\n")
		if strings.HasPrefix(line, "HEAD ") {
			line = ""
		}
		c.answers = append(c.answers, strings.TrimSpace("200 "+line))
	}
	return c
}

// torn is a request that turns out to be malformed when its beginning has been sent.
func torn(class, sends, saw, answer string) smuggled {
	return smuggled{class: class, sends: sends, torn: saw, answers: []string{answer}, follows: nothing}
}

// cut is torn where who reads the body may not learn why it ends.
func cut(class, sends, saw, answer string) smuggled {
	c := torn(class, sends, saw, answer)
	c.silent = true
	return c
}

func get1(target string) string { return "GET " + target + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }

var (
	seenGet    = onward("GET /v1/orders")
	seenBehind = onward("GET /v1/behind")
	seenChunks = onward("POST /v1/orders", "Transfer-Encoding: chunked")
	seenTwo    = onward("POST /v1/orders", "Content-Length: 2") + "ok"
)

// framingTricks are about where a message ends.
var framingTricks = []smuggled{
	never("Content-Length with Transfer-Encoding", posted+"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX"+behind, "400 length_invalid"),
	never("Content-Length with Transfer-Encoding", posted+"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n"+behind, "400 length_invalid"),
	never("Content-Length with Transfer-Encoding", posted+"Content-Length: 5\r\ntransfer-ENCODING: CHUNKED\r\n\r\n0\r\n\r\n", "400 length_invalid"),
	never("Content-Length with Transfer-Encoding", posted+"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+behind, "400 length_invalid"),
	never("Content-Length with Transfer-Encoding", asked+"Content-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: Content-Length\r\n\r\n0\r\n\r\n", "400 length_invalid"),

	never("Content-Length twice", posted+"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok", "400 header_duplicate"),
	never("Content-Length twice", posted+"Content-Length: 2\r\nContent-Length: 0\r\n\r\n"+behind, "400 header_duplicate"),
	never("Content-Length twice", posted+"Content-Length: 0\r\ncontent-length: 64\r\n\r\n"+behind, "400 header_duplicate"),
	never("Content-Length malformed", posted+"Content-Length: 2, 2\r\n\r\nok", "400 length_invalid"),
	never("Content-Length malformed", posted+"Content-Length: +2\r\n\r\nok", "400 length_invalid"),
	never("Content-Length malformed", posted+"Content-Length: -2\r\n\r\nok", "400 length_invalid"),
	never("Content-Length malformed", posted+"Content-Length: 0x2\r\n\r\nok", "400 length_invalid"),
	never("Content-Length malformed", posted+"Content-Length: 2 0\r\n\r\nok", "400 length_invalid"),
	never("Content-Length malformed", posted+"Content-Length: 2_0\r\n\r\nok", "400 length_invalid"),
	never("Content-Length malformed", posted+"Content-Length: 2.0\r\n\r\nok", "400 length_invalid"),
	never("Content-Length malformed", posted+"Content-Length: \xef\xbc\x92\r\n\r\nok", "400 length_invalid"), // a full-width 2
	never("Content-Length malformed", posted+"Content-Length:\r\n\r\nok", "400 length_invalid"),
	never("Content-Length malformed", posted+"Content-Length: 18446744073709551618\r\n\r\nok", "400 length_invalid"),
	reads("Content-Length in one reading", posted+"Content-Length: 2\r\n\r\nok", seenTwo),
	reads("Content-Length in one reading", posted+"content-length:\t002 \r\n\r\nok"+behind, seenTwo, seenBehind),
	reads("Content-Length in one reading", posted+"Content-Length: 51\r\n\r\n"+behind, onward("POST /v1/orders", "Content-Length: 51")+behind),

	never("Transfer-Encoding other than chunked", posted+"Transfer-Encoding: identity\r\n\r\n"+behind, "400 transfer_encoding"),
	never("Transfer-Encoding other than chunked", posted+"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "400 transfer_encoding"),
	never("Transfer-Encoding other than chunked", posted+"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", "400 transfer_encoding"),
	never("Transfer-Encoding other than chunked", posted+"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "400 transfer_encoding"),
	never("Transfer-Encoding other than chunked", posted+"Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", "400 transfer_encoding"),
	never("Transfer-Encoding other than chunked", posted+"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", "400 transfer_encoding"),
	never("Transfer-Encoding other than chunked", posted+"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", "400 transfer_encoding"),
	never("Transfer-Encoding other than chunked", posted+"Transfer-Encoding: \r\n\r\n0\r\n\r\n", "400 transfer_encoding"),
	never("Transfer-Encoding other than chunked", posted+"Transfer-Encoding: chunked\xa0\r\n\r\n0\r\n\r\n", "400 transfer_encoding"),
	never("Transfer-Encoding other than chunked", posted+"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", "400 header_invalid_value"),
	never("Transfer-Encoding twice", posted+"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 transfer_encoding"),
	never("Transfer-Encoding twice", posted+"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", "400 transfer_encoding"),

	never("obsolete folding", asked+"X-A: b\r\n c\r\n\r\n", "400 header_folded"),
	never("obsolete folding", asked+"X-A: b\r\n\tTransfer-Encoding: chunked\r\n\r\n", "400 header_folded"),
	never("obsolete folding", posted+"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", "400 transfer_encoding"),
	never("obsolete folding", "GET /v1/orders HTTP/1.1\r\n Host: api.shop.example\r\n\r\n", "400 header_folded"),
	never("obsolete folding", "GET /v1/orders HTTP/1.1\r\nHost:\r\n api.shop.example\r\n\r\n", "400 header_folded"),
	never("obsolete folding", asked+"X-A: b\r\n \r\n\r\n", "400 header_folded"),

	never("bare CR", asked+"X-A: b\rX-B: c\r\n\r\n", "400 line_ending"),
	never("bare CR", asked+"X-A: b\r\r\n\r\n", "400 line_ending"),
	never("bare CR", asked+"\rX-A: b\r\n\r\n", "400 header_invalid_name"),
	never("bare CR", posted+"Content-Length: 2\r\rTransfer-Encoding: chunked\r\n\r\nok", "400 line_ending"),
	never("bare CR", "GET /v1/orders\r HTTP/1.1\r\nHost: api.shop.example\r\n\r\n", "400 request_line"),
	never("bare CR", "GET /v1/orders HTTP/1.1\rHost: api.shop.example\r\n\r\n", "400 request_line"),
	never("bare LF", strings.ReplaceAll(asked, "\r\n", "\n")+"\n", "400 line_ending"),
	never("bare LF", asked+"X-A: b\nX-B: c\r\n\r\n", "400 line_ending"),
	never("bare LF", asked+"X-A: b\n\r\n", "400 line_ending"),
	never("bare LF", asked+"\n"+behind, "400 line_ending"),
	never("bare LF", "GET /v1/orders HTTP/1.1\nHost: api.shop.example\r\n\r\n", "400 line_ending"),
	never("empty lines before a request", "\r\n"+asked+"\r\n", "400 request_line"),
	never("empty lines before a request", "\n"+asked+"\r\n", "400 line_ending"),

	never("space before the colon", posted+"Content-Length : 2\r\n\r\nok", "400 header_invalid_name"),
	never("space before the colon", posted+"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", "400 header_invalid_name"),
	never("space before the colon", "GET /v1/orders HTTP/1.1\r\nHost : api.shop.example\r\n\r\n", "400 header_invalid_name"),
	never("name that is no token", asked+"X-A\r\n\r\n", "400 header_invalid_name"),
	never("name that is no token", asked+": b\r\n\r\n", "400 header_invalid_name"),
	never("name that is no token", asked+"X(A): b\r\n\r\n", "400 header_invalid_name"),
	never("name that is no token", posted+"Transfer-Encoding\x00: chunked\r\n\r\n0\r\n\r\n", "400 header_invalid_name"),
	never("name that is no token", posted+"\xefTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 header_invalid_name"),
	never("control byte in a value", asked+"X-A: b\x00c\r\n\r\n", "400 header_invalid_value"),
	never("control byte in a value", asked+"X-A: b\x08\r\n\r\n", "400 header_invalid_value"),
	never("control byte in a value", asked+"X-A: \x7f\r\n\r\n", "400 header_invalid_value"),
	reads("white space around a value", asked+"X-A:b\r\nX-B: \t c\td \t\r\nX-C:\r\nX-D: \r\n\r\n", onward("GET /v1/orders", "X-A: b", "X-B: c\td", "X-C: ", "X-D: ")),
	reads("bytes of a value beyond ASCII", asked+"X-A: caf\xe9 \xc3\xa9\r\n\r\n", onward("GET /v1/orders", "X-A: caf\xe9 \xc3\xa9")),

	reads("chunks in one reading", chunks+"2\r\nok\r\n0\r\n\r\n", seenChunks+"2\r\nok\r\n0\r\n\r\n"),
	reads("chunks in one reading", chunks+"0\r\n\r\n"+behind, seenChunks+"0\r\n\r\n", seenBehind),
	reads("chunks in one reading", chunks+"0000A\r\n0123456789\r\n00\r\n\r\n"+behind, seenChunks+"a\r\n0123456789\r\n0\r\n\r\n", seenBehind),
	reads("chunk extensions", chunks+"2;a=b;c=\"d\";e\r\nok\r\n0;last\r\n\r\n"+behind, seenChunks+"2\r\nok\r\n0\r\n\r\n", seenBehind),
	torn("chunk size malformed", chunks+"0x2\r\nok\r\n0\r\n\r\n"+behind, seenChunks, "400 chunk_invalid"),
	torn("chunk size malformed", chunks+"+2\r\nok\r\n0\r\n\r\n"+behind, seenChunks, "400 chunk_invalid"),
	torn("chunk size malformed", chunks+"-1\r\nok\r\n0\r\n\r\n"+behind, seenChunks, "400 chunk_invalid"),
	torn("chunk size malformed", chunks+"2 \r\nok\r\n0\r\n\r\n"+behind, seenChunks, "400 chunk_invalid"),
	torn("chunk size malformed", chunks+" 2\r\nok\r\n0\r\n\r\n"+behind, seenChunks, "400 chunk_invalid"),
	torn("chunk size malformed", chunks+"\r\nok\r\n0\r\n\r\n"+behind, seenChunks, "400 chunk_invalid"),
	torn("chunk size malformed", chunks+"2_0\r\nok\r\n0\r\n\r\n"+behind, seenChunks, "400 chunk_invalid"),
	torn("chunk size malformed", chunks+"g\r\nok\r\n0\r\n\r\n"+behind, seenChunks, "400 chunk_invalid"),
	torn("chunk size malformed", chunks+"10000000000000002\r\nok\r\n0\r\n\r\n"+behind, seenChunks, "400 chunk_invalid"),
	torn("chunk size malformed", chunks+"ffffffffffffffff\r\nok\r\n0\r\n\r\n"+behind, seenChunks, "400 chunk_invalid"),
	torn("chunk size malformed", chunks+"2\r\nokay\r\n0\r\n\r\n"+behind, seenChunks+"2\r\nok\r\n", "400 chunk_invalid"),
	torn("chunk size malformed", chunks+"3\r\nok\r\n0\r\n\r\n"+behind, seenChunks+"3\r\nok\r\r\n", "400 chunk_invalid"),
	torn("chunk extension malformed", chunks+"2;a\rb\r\nok\r\n0\r\n\r\n"+behind, seenChunks, "400 chunk_invalid"),
	torn("chunk extension malformed", chunks+"2;a\x00b\r\nok\r\n0\r\n\r\n"+behind, seenChunks, "400 chunk_invalid"),
	torn("chunk extension malformed", chunks+"2;"+strings.Repeat("a", 300)+"\r\nok\r\n0\r\n\r\n"+behind, seenChunks, "400 chunk_invalid"),
	torn("chunk lines that end in LF", chunks+"2\nok\r\n0\r\n\r\n"+behind, seenChunks, "400 line_ending"),
	torn("chunk lines that end in LF", chunks+"2;\nxx\r\n4c\r\n0\r\n\r\n"+behind, seenChunks, "400 line_ending"),
	torn("chunk lines that end in LF", chunks+"2\r\nok\n0\r\n\r\n"+behind, seenChunks+"2\r\nok\r\n", "400 chunk_invalid"),
	torn("chunk lines that end in LF", chunks+"2\r\nok\r0\r\n\r\n"+behind, seenChunks+"2\r\nok\r\n", "400 chunk_invalid"),

	reads("trailers", posted+"Trailer: X-Sum, Authorization, Host\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\nAuthorization: Bearer x\r\nHost: evil.example\r\n\r\n",
		onward("POST /v1/orders", "Transfer-Encoding: chunked", "Trailer: X-Sum")+"2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n"),
	reads("trailers", chunks+"2\r\nok\r\n0\r\nX-Forwarded-For: 6.6.6.6\r\nX-Other: 1\r\n\r\n", seenChunks+"2\r\nok\r\n0\r\n\r\n"),
	never("framing announced as a trailer", posted+"Trailer: Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 9\r\n\r\n", "400 trailer_invalid"),
	cut("trailer malformed", chunks+"2\r\nok\r\n0\r\nX-Sum : 7\r\n\r\n"+behind, seenChunks+"2\r\nok\r\n", "400 trailer_invalid"),
	cut("trailer malformed", chunks+"2\r\nok\r\n0\r\nX-Sum: 7\r\n 8\r\n\r\n"+behind, seenChunks+"2\r\nok\r\n", "400 trailer_invalid"),
	cut("trailer malformed", chunks+"2\r\nok\r\n0\r\nX-Sum: 7\n\r\n"+behind, seenChunks+"2\r\nok\r\n", "400 trailer_invalid"),

	reads("requests behind one another", asked+"\r\n"+behind, seenGet, seenBehind),
	reads("a body where none is usual", asked+"Content-Length: 2\r\n\r\nok"+behind, onward("GET /v1/orders", "Content-Length: 2")+"ok", seenBehind),
	reads("a body where none is usual", asked+"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"+behind, onward("GET /v1/orders", "Transfer-Encoding: chunked")+"2\r\nok\r\n0\r\n\r\n", seenBehind),
	reads("a body where none is usual", "HEAD /v1/orders HTTP/1.1\r\nHost: api.shop.example\r\nContent-Length: 2\r\n\r\nok", onward("HEAD /v1/orders", "Content-Length: 2")+"ok"),
}

// Everything that a client can say of where its messages end is refused, or reaches
// the upstream in the one way that is written here, to the byte.
func TestSmugglingByFraming(t *testing.T) { smuggle(t, framingTricks) }

func smuggle(t *testing.T, all []smuggled) {
	t.Helper()
	w := newWorld(t, options{})
	up := newSpy(t)
	w.apply(w.everybody(plaintext(up.ln.Addr().String())))
	for _, c := range all {
		answers, stepped := w.say(c.sends)
		saw := w.sawOf(up, len(c.saw), stepped)
		if !slices.Equal(answers, c.answers) && !(c.silent && len(answers) == 0) {
			t.Errorf("%s: %.120q: answered %q, want %q", c.class, c.sends, answers, c.answers)
		}
		if c.follows == always && !stepped || c.follows == nothing && stepped {
			t.Errorf("%s: %.120q: the next request is answered: %t", c.class, c.sends, stepped)
		}
		switch {
		case c.torn == "" && !slices.Equal(saw, c.saw):
			t.Errorf("%s: %.120q: the upstream saw\n%q, want\n%q", c.class, c.sends, saw, c.saw)
		case c.torn != "" && (len(saw) > 1 || len(saw) == 1 && !strings.HasPrefix(c.torn, saw[0])):
			t.Errorf("%s: %.120q: the upstream saw\n%q, want less than\n%q", c.class, c.sends, saw, c.torn)
		}
	}
	if rest := up.saw(0); len(rest) > 0 {
		t.Errorf("the upstream saw %q of nobody", rest)
	}
}

// sawOf returns what the upstream saw of a client whose requests were n, if they were
// good, and which was then in step or not.
func (w *world) sawOf(up *spy, n int, stepped bool) []string {
	w.t.Helper()
	// The upstream takes connections in their order: what comes behind all of the
	// client's tells that there are no more of them.
	if !stepped {
		if answers, ok := w.say(inStep); !ok {
			w.t.Fatalf("nobody else is answered any more: %q", answers)
		}
	}
	step := onward("GET /v1/in-step")
	return slices.DeleteFunc(up.saw(n+1), func(s string) bool { return s == step || s == "" })
}
