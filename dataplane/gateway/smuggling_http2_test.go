package gateway_test

import (
	"io"
	"slices"
	"strings"
	"testing"
)

// smuggled2 is what a client says over HTTP/2 and what an upstream of HTTP/1.1 sees
// of it.
type smuggled2 struct {
	class  string // as docs/strictness.md names it
	fields []string
	then   []string // frames behind the header; it ends the request when there are none
	saw    []string
	torn   string // or the upstream saw the beginning of this, and not its end
	answer string
	resets bool // or the stream is reset before it is answered
}

// usual2 are the pseudo fields of an honest request.
func usual2(method, path string) []string {
	return []string{":method: " + method, ":scheme: https", ":authority: " + host, ":path: " + path}
}

// get2 is an honest request with other fields.
func get2(fields ...string) []string { return append(usual2("GET", "/v1/orders"), fields...) }

func post2(fields ...string) []string { return append(usual2("POST", "/v1/orders"), fields...) }

// data is a body in one frame, which ends the request.
func data(body string) []string { return []string{frame(frameData, endStream, 1, body)} }

// trailed is a body with fields behind it.
func trailed(body string, fields ...string) []string {
	return []string{frame(frameData, 0, 1, body), frame(frameHeaders, endHeaders|endStream, 1, block(fields...))}
}

// pseudo changes one of the pseudo fields of an honest request.
func pseudo(field string) []string {
	fields := get2()
	for i, f := range fields {
		if name, _, _ := strings.Cut(f, ": "); strings.HasPrefix(field, name+": ") {
			fields[i] = field
		}
	}
	return fields
}

const (
	reset2 = "reset"
	bad2   = "400" // said before there is a decision
	read2  = "200 GET /v1/orders"
	told2  = "200 POST /v1/orders"
)

// http2Tricks are about what HTTP/2 lets a client say that HTTP/1.1 has another
// meaning for.
var http2Tricks = []smuggled2{
	{class: "honest", fields: get2(), saw: []string{seenGet}, answer: read2},

	{class: "pseudo fields twice, late, unknown or missing", fields: get2(":path: /v1/admin"), answer: reset2},
	{class: "pseudo fields twice, late, unknown or missing", fields: get2(":method: DELETE"), answer: reset2},
	{class: "pseudo fields twice, late, unknown or missing", fields: get2(":authority: evil.example"), answer: reset2},
	{class: "pseudo fields twice, late, unknown or missing", fields: get2(":scheme: http"), answer: reset2},
	{class: "pseudo fields twice, late, unknown or missing", fields: append([]string{"x-a: b"}, get2()...), answer: reset2},
	{class: "pseudo fields twice, late, unknown or missing", fields: get2(":status: 200"), answer: reset2},
	{class: "pseudo fields twice, late, unknown or missing", fields: get2(":user: root"), answer: reset2},
	{class: "pseudo fields twice, late, unknown or missing", fields: get2()[:3], answer: reset2},
	{class: "pseudo fields twice, late, unknown or missing", fields: get2()[1:], answer: reset2},
	{class: "pseudo fields twice, late, unknown or missing", fields: slices.Delete(get2(), 1, 2), answer: reset2},
	{class: "pseudo fields twice, late, unknown or missing", fields: slices.Delete(get2(), 2, 3), answer: "400 host_missing"},
	{class: "pseudo fields that are no words of a request line", fields: pseudo(":path: /v1/orders HTTP/1.1\r\nX-A: b"), answer: reset2},
	{class: "pseudo fields that are no words of a request line", fields: pseudo(":path: /v1/orders\x00"), answer: reset2},
	{class: "pseudo fields that are no words of a request line", fields: pseudo(":path: /v1/orders /v1/admin"), answer: "400 path_invalid_byte"},
	{class: "pseudo fields that are no words of a request line", fields: pseudo(":path: v1/orders"), answer: reset2},
	{class: "pseudo fields that are no words of a request line", fields: pseudo(":path: https://evil.example/v1/orders"), answer: "400 target_absolute_form"},
	{class: "pseudo fields that are no words of a request line", fields: pseudo(":path: //evil.example/v1/orders"), answer: "400 path_empty_segment"},
	{class: "pseudo fields that are no words of a request line", fields: pseudo(":path: /v1/orders%2f..%2fadmin"), answer: "400 path_ambiguous_escape"},
	{class: "pseudo fields that are no words of a request line", fields: pseudo(":method: GET /v1/admin HTTP/1.1"), answer: "400 method_invalid"},
	{class: "pseudo fields that are no words of a request line", fields: pseudo(":method: GET\r\nX-A"), answer: reset2},
	{class: "pseudo fields that are no words of a request line", fields: pseudo(":scheme: https://evil.example/?"), answer: reset2},
	{class: "pseudo fields that are no words of a request line", fields: pseudo(":authority: api.shop.example\r\nX-A: b"), answer: reset2},
	{class: "pseudo fields that are no words of a request line", fields: pseudo(":authority: user@api.shop.example"), answer: reset2},
	{class: "pseudo fields that are no words of a request line", fields: pseudo(":authority: api.shop.example/v1"), answer: "400 host_invalid"},

	{class: "host other than :authority", fields: get2("host: evil.example"), answer: "400 host_ambiguous"},
	{class: "host other than :authority", fields: get2("host: api.shop.example", "host: evil.example"), answer: "400 host_ambiguous"},
	{class: "host equal to :authority", fields: get2("host: api.shop.example"), saw: []string{seenGet}, answer: read2},

	{class: "names in upper case, or no tokens", fields: get2("X-A: b"), answer: reset2},
	{class: "names in upper case, or no tokens", fields: get2("x a: b"), answer: reset2},
	{class: "names in upper case, or no tokens", fields: get2("x:a: b"), answer: reset2},
	{class: "names in upper case, or no tokens", fields: get2("x\r\na: b"), answer: reset2},
	{class: "names in upper case, or no tokens", fields: get2("content-length\r\ntransfer-encoding: chunked"), answer: reset2},
	{class: "CR, LF and NUL in values", fields: get2("x-a: b\r\nx-user: root"), answer: reset2},
	{class: "CR, LF and NUL in values", fields: get2("x-a: b\nx-user: root"), answer: reset2},
	{class: "CR, LF and NUL in values", fields: get2("x-a: b\r"), answer: reset2},
	{class: "CR, LF and NUL in values", fields: get2("x-a: \x00"), answer: reset2},
	{class: "white space at the ends of values", fields: get2("x-a:  b"), answer: "400 header_invalid_value"},
	{class: "white space at the ends of values", fields: get2("x-a: b "), answer: "400 header_invalid_value"},

	{class: "fields of the connection", fields: get2("connection: keep-alive"), answer: bad2},
	{class: "fields of the connection", fields: get2("connection: x-a", "x-a: b"), answer: bad2},
	{class: "fields of the connection", fields: get2("keep-alive: timeout=5"), answer: bad2},
	{class: "fields of the connection", fields: get2("proxy-connection: keep-alive"), answer: bad2},
	{class: "fields of the connection", fields: get2("upgrade: h2c"), answer: bad2},
	{class: "fields of the connection", fields: post2("transfer-encoding: chunked"), then: data("0\r\n\r\n" + behind), answer: bad2},
	{class: "fields of the connection", fields: post2("transfer-encoding: identity", "content-length: 2"), then: data("ok"), answer: bad2},
	{class: "TE other than trailers", fields: get2("te: gzip"), answer: bad2},
	{class: "TE other than trailers", fields: get2("te: trailers, deflate"), answer: bad2},
	{class: "TE: trailers", fields: get2("te: trailers"), saw: []string{onward("GET /v1/orders", "Te: trailers")}, answer: read2},
	{class: "fields that only a gateway may say", fields: get2("x-forwarded-for: 6.6.6.6", "forwarded: for=6.6.6.6", "x_user: root", "x-original-url: /v1/admin", "sallyport-decision-id: mine"), saw: []string{seenGet}, answer: read2},

	{class: "content-length other than the body's", fields: post2("content-length: 3"), then: data("body"), torn: onward("POST /v1/orders", "Content-Length: 3"), answer: reset2},
	{class: "content-length other than the body's", fields: post2("content-length: 5"), then: data("body"), torn: onward("POST /v1/orders", "Content-Length: 5") + "body", answer: reset2},
	{class: "content-length without a body", fields: get2("content-length: 5"), saw: []string{seenGet}, answer: read2},
	{class: "content-length twice or malformed", fields: post2("content-length: 2", "content-length: 2"), then: data("ok"), answer: "400 header_duplicate"},
	{class: "content-length twice or malformed", fields: post2("content-length: 2", "content-length: 0"), then: data("ok"), answer: "400 header_duplicate"},
	{class: "content-length twice or malformed", fields: post2("content-length: +2"), then: data("ok"), answer: "400 length_invalid", resets: true},
	{class: "content-length twice or malformed", fields: post2("content-length: 0x2"), then: data("ok"), answer: "400 length_invalid", resets: true},
	{class: "content-length twice or malformed", fields: post2("content-length: 2\r\ntransfer-encoding: chunked"), then: data("ok"), answer: reset2},
	{class: "bodies as HTTP/1.1 frames them", fields: post2("content-length: 2"), then: data("ok"), saw: []string{seenTwo}, answer: told2},
	{class: "bodies as HTTP/1.1 frames them", fields: post2(), then: data("ok"), saw: []string{seenChunks + "2\r\nok\r\n0\r\n\r\n"}, answer: told2},
	{class: "bodies as HTTP/1.1 frames them", fields: post2(), saw: []string{onward("POST /v1/orders", "Content-Length: 0")}, answer: told2},
	{class: "bodies as HTTP/1.1 frames them", fields: post2(), then: data("0\r\n\r\n" + behind), saw: []string{seenChunks + "38\r\n0\r\n\r\n" + behind + "\r\n0\r\n\r\n"}, answer: told2},
	{class: "bodies as HTTP/1.1 frames them", fields: get2("content-length: 51"), then: data(behind), saw: []string{onward("GET /v1/orders", "Content-Length: 51") + behind}, answer: read2},

	{class: "trailers", fields: post2("trailer: x-sum, authorization"), then: trailed("ok", "x-sum: 7", "x-other: 8"),
		saw: []string{onward("POST /v1/orders", "Transfer-Encoding: chunked", "Trailer: X-Sum") + "2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n"}, answer: told2},
	{class: "trailers", fields: post2(), then: trailed("ok", "x-sum: 7"), saw: []string{seenChunks + "2\r\nok\r\n0\r\n\r\n"}, answer: told2},
	{class: "trailers malformed", fields: post2("trailer: authorization"), then: trailed("ok", "authorization: Bearer x"), torn: seenChunks + "2\r\nok\r\n", answer: reset2},
	{class: "trailers malformed", fields: post2(), then: trailed("ok", ":path: /v1/admin"), torn: seenChunks + "2\r\nok\r\n", answer: reset2},
	{class: "trailers malformed", fields: post2("trailer: x-sum"), then: trailed("ok", "x-sum: 7\r\nx-user: root"), torn: onward("POST /v1/orders", "Transfer-Encoding: chunked", "Trailer: X-Sum") + "2\r\nok\r\n", answer: reset2},

	{class: "cookies in pieces", fields: get2("cookie: a=b", "cookie: c=d"), saw: []string{onward("GET /v1/orders", "Cookie: a=b; c=d")}, answer: read2},
	{class: "CONNECT", fields: []string{":method: CONNECT", ":authority: api.shop.example:443"}, answer: "501 method_unsupported"},
	{class: "CONNECT", fields: append(usual2("CONNECT", "/v1/orders"), ":protocol: websocket"), answer: reset2},
	{class: "too much", fields: get2(slices.Repeat([]string{"x-a: b"}, 200)...), answer: "431 header_too_large"},
	{class: "too much", fields: pseudo(":path: /v1/" + strings.Repeat("x", 9<<10)), answer: "414 path_too_long"},
}

// say2 sends a request over a connection of its own, and another one on the same
// when it has ended. It returns how the first was answered, and whether the other
// was.
func (w *world) say2(c *smuggled2) (answer string, stepped bool) {
	w.t.Helper()
	conn := w.begin()
	defer conn.Close()
	flags := byte(endHeaders)
	if len(c.then) == 0 {
		flags |= endStream
	}
	_, err := io.WriteString(conn, frame(frameHeaders, flags, 1, block(c.fields...))+strings.Join(c.then, ""))
	w.must(err)
	answer = w.ending(conn, 1)
	_, _ = io.WriteString(conn, frame(frameHeaders, endHeaders|endStream, 3, block(usual2("GET", "/v1/in-step")...))) // it may be closed
	return answer, w.ending(conn, 3) == "200 GET /v1/in-step"
}

// ending says how a stream ended: with what an upstream said, with the reason of a
// refusal, or how else.
func (w *world) ending(conn io.Reader, of uint32) string {
	w.t.Helper()
	var body strings.Builder
	for {
		kind, flags, stream, payload, err := next(conn)
		switch {
		case err != nil || kind == frameGoAway && payload[7] != 0 || kind == frameReset && stream == of:
			return reset2
		case stream != of:
			continue
		case kind == frameData:
			body.WriteString(payload)
		}
		if flags&endStream == 0 || kind != frameData && kind != frameHeaders {
			continue
		}
		switch text := body.String(); {
		case strings.HasPrefix(text, "{"):
			p := w.problem(text)
			return itoa(p.Status) + " " + p.Reason
		case strings.HasPrefix(text, "GET ") || strings.HasPrefix(text, "POST "):
			return "200 " + text
		}
		return bad2
	}
}

// Everything that a client can say over HTTP/2 is refused, or reaches an upstream of
// HTTP/1.1 in the one way that is written here, to the byte.
func TestSmugglingByHTTP2(t *testing.T) {
	w := newWorld(t, options{})
	up := newSpy(t)
	w.apply(w.everybody(plaintext(up.ln.Addr().String())))
	for _, c := range http2Tricks {
		answer, stepped := w.say2(&c)
		saw := w.sawOf(up, len(c.saw), stepped)
		if answer != c.answer && !(c.resets && answer == reset2) || !stepped && answer != reset2 {
			t.Errorf("%s: %.120q: %s, want %s; the next is answered: %t", c.class, c.fields, answer, c.answer, stepped)
		}
		switch {
		case c.torn == "" && !slices.Equal(saw, c.saw):
			t.Errorf("%s: %.120q: the upstream saw\n%q, want\n%q", c.class, c.fields, saw, c.saw)
		case c.torn != "" && (len(saw) > 1 || len(saw) == 1 && !strings.HasPrefix(c.torn, saw[0])):
			t.Errorf("%s: %.120q: the upstream saw\n%q, want less than\n%q", c.class, c.fields, saw, c.torn)
		}
	}
}
