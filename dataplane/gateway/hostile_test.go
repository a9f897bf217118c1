package gateway_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

const (
	get = "GET /v1/orders/7 HTTP/1.1\r\nHost: api.shop.example\r\nAuthorization: Bearer TOKEN\r\n"
	// shake is what makes a request the handshake of a WebSocket.
	shake = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

	post = "POST /v1/orders HTTP/1.1\r\nHost: api.shop.example\r\nAuthorization: Bearer TOKEN\r\n"
)

func line1(first string) string {
	return first + "\r\nHost: api.shop.example\r\nAuthorization: Bearer TOKEN\r\n\r\n"
}

// Every trick is refused before an upstream sees anything of it, and recorded;
// its nearest honest sibling is let through.
func TestTricks(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.usual(plaintext(up.address())))
	for _, c := range []struct {
		sends  string
		status int
		reason string // empty for what is let through
	}{
		{get + "\r\n", 200, ""},
		{line1("GET /v1/orders/caf%c3%a9 HTTP/1.1"), 200, ""},

		// Paths that two servers read in two ways.
		{line1("GET /v1/orders%2f..%2fadmin HTTP/1.1"), 400, "path_ambiguous_escape"},
		{line1("GET /v1/orders/..%2fadmin HTTP/1.1"), 400, "path_ambiguous_escape"},
		{line1("GET /v1/orders/../admin HTTP/1.1"), 400, "path_dot_segment"},
		{line1("GET /v1/orders/%2e%2e/admin HTTP/1.1"), 400, "path_dot_segment"},
		{line1("GET /v1/orders/..;/admin HTTP/1.1"), 400, "path_dot_segment"},
		{line1("GET /v1//orders HTTP/1.1"), 400, "path_empty_segment"},
		{line1("GET //v1/orders HTTP/1.1"), 400, "path_empty_segment"},
		{line1("GET /v1/orders%00 HTTP/1.1"), 400, "path_control_byte"},
		{line1("GET /v1/orders%252e%252e HTTP/1.1"), 400, "path_ambiguous_escape"},
		{line1("GET /v1/orders%zz HTTP/1.1"), 400, "path_invalid_escape"},
		{line1("GET /v1/orders\\..\\admin HTTP/1.1"), 400, "path_invalid_byte"},
		{line1("GET /v1/orders#x HTTP/1.1"), 400, "target_fragment"},

		// Who is meant.
		{line1("GET http://api.shop.example/v1/orders HTTP/1.1"), 400, "target_absolute_form"},
		{line1("GET http://evil.example/v1/orders HTTP/1.1"), 400, "target_absolute_form"},
		{line1("CONNECT api.shop.example:443 HTTP/1.1"), 501, "method_unsupported"},
		{line1("CONNECT /v1/orders HTTP/1.1"), 501, "method_unsupported"},
		{line1("TRACE /v1/orders HTTP/1.1"), 501, "method_unsupported"},
		{line1("OPTIONS * HTTP/1.1"), 400, "target_asterisk_form"},
		{get + "Host: evil.example\r\n\r\n", 400, "host_ambiguous"},
		{"GET /v1/orders HTTP/1.1\r\nHost: api.shop.example:443\r\nAuthorization: Bearer TOKEN\r\n\r\n", 200, ""},
		{"GET /v1/orders HTTP/1.1\r\nHost: other.example\r\nAuthorization: Bearer TOKEN\r\n\r\n", 421, "misdirected_request"},
		{"GET /v1/orders HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer TOKEN\r\n\r\n", 421, "misdirected_request"},
		{"GET /v1/orders HTTP/1.1\r\nHost: api.shop.example.\r\nAuthorization: Bearer TOKEN\r\n\r\n", 400, "host_invalid"},
		{"GET /v1/orders HTTP/1.1\r\nAuthorization: Bearer TOKEN\r\n\r\n", 400, "host_missing"},

		// Lines and versions.
		{strings.ReplaceAll(get+"\r\n", "\r\n", "\n"), 400, "line_ending"},
		{get + "X-A: b\n\r\n", 400, "line_ending"},
		{get + "X-A: b\r\n c\r\n\r\n", 400, "header_folded"},
		{get + "X-A : b\r\n\r\n", 400, "header_invalid_name"},
		{get + "X-A: b\x00\r\n\r\n", 400, "header_invalid_value"},
		{"GET /v1/orders HTTP/1.0\r\nHost: api.shop.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 505, "http_version"},
		{"GET /v1/orders HTTP/1.0\r\n\r\n", 505, "http_version"},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "http_version"},
		{"nonsense\r\n\r\n", 400, "request_line"},

		// Where a body ends.
		{post + "Content-Length: 2\r\n\r\nok", 200, ""},
		{post + "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, ""},
		{post + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "length_invalid"},
		{post + "Content-Length: 2\r\nContent-Length: 3\r\n\r\nok!", 400, "header_duplicate"},
		{post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400, "transfer_encoding"},
		{post + "Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding\r\n\r\n0\r\n\r\n", 200, ""},

		// What changes the protocol, or somebody else's request.
		{get + "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", 400, "upgrade_unsupported"},
		{get + "Upgrade: h2c\r\n\r\n", 400, "upgrade_unsupported"},
		{get + "Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 400, "websocket_invalid"},
		{get + shake + "\r\n", 400, "upgrade_unsupported"},
		{post + shake + "\r\n", 400, "websocket_invalid"},
		{post + shake + "Content-Length: 2\r\n\r\nok", 400, "upgrade_unsupported"},
		{post + shake + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "upgrade_unsupported"},
		{get + shake + "\r\n" + get + "\r\n", 400, "early_data"},
		{get + "Connection: Authorization\r\n\r\n", 400, "connection_invalid"},
		{get + "Connection: close, X-A\r\nX-A: b\r\n\r\n", 200, ""},
		{get + "Expect: 200-maybe\r\n\r\n", 417, "expectation"},
		{get + "Authorization: Bearer x\r\n\r\n", 400, "header_duplicate"},

		// How much.
		{get + strings.Repeat("X-A: b\r\n", 200) + "\r\n", 431, "header_too_large"},
		{get + "X-A: " + strings.Repeat("b", 70<<10) + "\r\n\r\n", 431, "header_too_large"},
		{get + "X-A: " + strings.Repeat("b", 300<<10) + "\r\n\r\n", 431, "header_too_large"},
		{line1("GET /v1/" + strings.Repeat("x", 9<<10) + " HTTP/1.1"), 414, "path_too_long"},
		{line1("GET /v1/?" + strings.Repeat("x", 17<<10) + " HTTP/1.1"), 414, "query_too_long"},
	} {
		before := up.requests.Load()
		res, body := w.raw(c.sends)
		seen := up.requests.Load() - before
		d := w.records.of(t, "decision", res.Header.Get("Sallyport-Decision-Id"))
		switch {
		case c.reason == "":
			if res.StatusCode != c.status || seen != 1 || !d.Allow {
				t.Errorf("%.90q: %d %s, seen %d", c.sends, res.StatusCode, body, seen)
			}
		case res.StatusCode != c.status || w.problem(body).Reason != c.reason || seen != 0 || d.Allow || d.Reason != c.reason:
			t.Errorf("%.90q: %d %s, seen %d, recorded %+v, want %d %s", c.sends, res.StatusCode, body, seen, d, c.status, c.reason)
		}
		if strings.Contains(d.Path, "?") {
			t.Errorf("%.90q: a query was recorded: %q", c.sends, d.Path)
		}
	}
}

// What hides behind a request is not a request.
func TestSmuggling(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.usual(plaintext(up.address())))
	const hidden = "GET /v1/admin HTTP/1.1\r\nHost: api.shop.example\r\nAuthorization: Bearer TOKEN\r\n\r\n"
	for _, c := range []struct {
		name, sends string
		upstream    int64 // requests that it sees
		answers     int
	}{
		{"behind a wish for another protocol", get + shake + "\r\n" + hidden, 0, 1},
		{"pipelined", get + "\r\n" + get + "\r\n", 2, 2},
		{"behind a length and chunks", post + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, 0, 1},
		{"behind chunks and a length", post + "Transfer-Encoding: chunked\r\nContent-Length: 400\r\n\r\n0\r\n\r\n" + hidden, 0, 1},
		{"behind a folded encoding", post + "Content-Length: 3\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + hidden, 0, 1},
		{"behind a refused head", get + "X : y\r\n\r\n" + hidden, 0, 1},
		{"behind a denied body", strings.Replace(post, "TOKEN", "x", 1) + "Content-Length: " + "400\r\n\r\n" + hidden, 0, 1},
		{"in a body", post + "Content-Length: " + itoa(len(hidden)-len("TOKEN")+len(w.tokens.sign(nil))) + "\r\n\r\n" + hidden, 1, 1},
		{"in the size of a chunk", post + "Transfer-Encoding: chunked\r\n\r\n2\nok\r\n0\r\n\r\n" + hidden, 1, 1},
	} {
		before := up.requests.Load()
		answers := w.all(c.sends, c.answers)
		if got := up.requests.Load() - before; got > c.upstream {
			t.Errorf("%s: the upstream saw %d requests, want %d; answered was %s", c.name, got, c.upstream, answers)
		}
		if got := strings.Count(answers, "Sallyport-Revision: 1\r\n"); got != c.answers {
			t.Errorf("%s: %d answers, want %d: %s", c.name, got, c.answers, answers)
		}
		if strings.Contains(answers, "GET /v1/admin api.shop.example") {
			t.Errorf("%s: the hidden request was answered", c.name)
		}
	}
}

// all returns whatever comes back, until nothing does for a while after so many answers.
func (w *world) all(sends string, answers int) string {
	w.t.Helper()
	conn := w.dial("http/1.1")
	defer conn.Close()
	w.send(conn, sends)
	var got strings.Builder
	for p := make([]byte, 4096); ; {
		wait := 300 * time.Millisecond
		if strings.Count(got.String(), "Sallyport-Revision: ") < answers {
			wait = 20 * time.Second
		}
		w.must(conn.SetReadDeadline(time.Now().Add(wait)))
		n, err := conn.Read(p)
		got.Write(p[:n])
		if err != nil {
			return got.String()
		}
	}
}

// A body that turns out to be malformed on its way is the client's fault, and
// the upstream does not get a whole request.
func TestMalformedBody(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	whole := make(chan error, 1)
	up.answerWith(func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		whole <- err
	})
	w.apply(w.usual(plaintext(up.address())))
	res, body := w.raw(post + "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n")
	if res.StatusCode != 400 || w.problem(body).Reason != "chunk_invalid" {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	if err := <-whole; err == nil {
		t.Error("the upstream got a whole body")
	}
	o := w.records.of(t, "outcome", res.Header.Get("Sallyport-Decision-Id"))
	if o.Reason != "chunk_invalid" || o.Status != 400 || o.Received != 2 {
		t.Errorf("recorded was %+v", o)
	}
}

// What was decided on is what is forwarded, to the byte; what a client says
// about itself in a gateway's words is not.
func TestForwardedHead(t *testing.T) {
	w := newWorld(t, options{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	defer ln.Close()
	heads := make(chan string, 1)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			head, lines := "", bufio.NewReader(conn)
			for line := ""; line != "\r\n"; head += line {
				if line, err = lines.ReadString('\n'); err != nil {
					break
				}
			}
			heads <- head
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			_ = conn.Close()
		}
	}()
	w.apply(w.usual(plaintext(ln.Addr().String())))
	res, body := w.raw("GET /v1/caf%c3%a9/a+b/%7euser;v=1/%41?x=%2f..%2f&y=a+b;c HTTP/1.1\r\n" +
		"Host: API.shop.example:443\r\nAuthorization: Bearer TOKEN\r\nAccept: */*\r\nX-Kept: yes\r\n" +
		"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: http\r\nForwarded: for=6.6.6.6\r\n" +
		"X-Real-Ip: 6.6.6.6\r\nX-User: root\r\nX_User: root\r\nX-Original-Url: /admin\r\nX-Rewrite-Url: /admin\r\n" +
		"X-Forwarded-Client-Cert: x\r\nSallyport-Decision-Id: mine\r\nSallyport-Principal: root\r\nX-Http-Method-Override: DELETE\r\n" +
		"Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTe: gzip\r\nProxy-Authorization: x\r\nX-Request-Id: client-7\r\n\r\n")
	if res.StatusCode != 200 {
		t.Fatalf("%d %s", res.StatusCode, body)
	}
	head := <-heads
	got := map[string]string{}
	for i, line := range strings.Split(strings.TrimSuffix(head, "\r\n\r\n"), "\r\n") {
		if i == 0 {
			if want := "GET /v1/caf%C3%A9/a%2Bb/~user;v=1/A?x=%2f..%2f&y=a+b;c HTTP/1.1"; line != want {
				t.Errorf("forwarded was %q, want %q", line, want)
			}
			continue
		}
		name, value, _ := strings.Cut(line, ": ")
		if _, twice := got[name]; twice {
			t.Errorf("%s was forwarded twice", name)
		}
		got[name] = value
	}
	want := map[string]string{
		"Host": "api.shop.example", "Accept": "*/*", "X-Kept": "yes", "X-Request-Id": "client-7",
		"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "api.shop.example", "X-Forwarded-Proto": "https",
		"Sallyport-Decision-Id": res.Header.Get("Sallyport-Decision-Id"),
	}
	for name, value := range got {
		if name == "Authorization" && strings.HasPrefix(value, "Bearer ") {
			continue
		}
		if want[name] != value {
			t.Errorf("forwarded was %s: %s", name, value)
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("not forwarded was %v", want)
	}
	d := w.records.of(t, "decision", res.Header.Get("Sallyport-Decision-Id"))
	if d.Path != "/v1/caf%C3%A9/a%2Bb/~user;v=1/A" || d.Host != host || d.ClientIP != "127.0.0.1" || d.TLS != "1.3" || d.SNI != host ||
		d.Listener != "edge/public" || d.Route != "shop/orders" || d.Policy != "shop/orders-allow" || d.Method != "GET" ||
		d.Principal == nil || d.Principal.ID != "alice" || d.Principal.Kind != "user" || d.Principal.Provider != "shop/login" || d.Protocol != "HTTP/1.1" {
		t.Errorf("recorded was %+v", d)
	}
	if all := w.records.all(); strings.Contains(all, "Bearer") || strings.Contains(all, "x=%2f") {
		t.Errorf("credentials or queries are recorded:\n%s", all)
	}
}

// An upstream's answer says nothing about its connection, speaks in nobody
// else's name, and is not added to.
func TestForwardedAnswer(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	up.answerWith(func(rw http.ResponseWriter, _ *http.Request) {
		h := rw.Header()
		h.Set("X-Kept", "yes")
		h.Set("Connection", "X-Hop")
		h.Set("X-Hop", "1")
		h.Set("Keep-Alive", "timeout=5")
		h.Set("Alt-Svc", `h2="evil.example:443"`)
		h.Set("Sallyport-Decision-Id", "theirs")
		h.Set("Sallyport-Revision", "theirs")
		h["Content-Type"] = nil
		h["Date"] = nil
		rw.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(rw, "<html>")
	})
	w.apply(w.usual(plaintext(up.address())))
	for _, http2 := range []bool{false, true} {
		res, body := w.ask(w.client(http2, w.tls(host)), "GET", "/v1/orders", nil)
		if res.StatusCode != http.StatusTeapot || body != "<html>" || res.Header.Get("X-Kept") != "yes" || res.ContentLength != 6 {
			t.Errorf("%d %q %v", res.StatusCode, body, res.Header)
		}
		for _, name := range []string{"X-Hop", "Keep-Alive", "Alt-Svc", "Content-Type", "Date", "Connection"} {
			if got, ok := res.Header[name]; ok {
				t.Errorf("HTTP/2 %t: %s: %s", http2, name, got)
			}
		}
		if id := res.Header.Values("Sallyport-Decision-Id"); len(id) != 1 || id[0] == "theirs" {
			t.Errorf("decision %q", id)
		}
		if revision := res.Header.Values("Sallyport-Revision"); len(revision) != 1 || revision[0] != "1" {
			t.Errorf("revision %q", revision)
		}
	}
}

// A client that agreed on HTTP/2 and speaks HTTP/1.1 is past the checks of
// HTTP/1.1, and gets nowhere.
func TestProtocolConfusion(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.usual(plaintext(up.address())))
	conn := w.dial("h2")
	defer conn.Close()
	w.send(conn, get+"\r\n")
	answer, _ := io.ReadAll(conn)
	if len(answer) != 0 || up.requests.Load() != 0 {
		t.Errorf("answered was %q, after %d requests", answer, up.requests.Load())
	}
}

// Who is refused can go on sending for a while, so that the answer is not lost, and what it
// sends is not looked at: not even whether it is TLS.
func TestWhoIsRefusedIsHeardOut(t *testing.T) {
	w := newWorld(t, options{})
	w.apply(w.usual(plaintext(newEcho(t).address())))
	conn := w.dial("http/1.1")
	defer conn.Close()
	answered := time.Now()
	w.send(conn, "GET / HTTP/1.1\n\n")
	_, err := conn.NetConn().Write(make([]byte, 100<<10))
	w.must(err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	w.must(err)
	if got := w.read(res); res.StatusCode != http.StatusBadRequest || w.problem(got).Reason != "line_ending" {
		t.Errorf("%d %s", res.StatusCode, got)
	}
	_, _ = io.Copy(io.Discard, conn.NetConn()) // it may be reset in the end
	if took := time.Since(answered); took < 400*time.Millisecond {
		t.Errorf("the connection was closed after %s", took)
	}
}
