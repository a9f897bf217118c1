package request_test

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/pattern"
	"github.com/sallyport/sallyport/internal/request"
)

// change makes a request of the plain one that every case starts from.
type change func(*request.Raw)

func target(s string) change { return func(r *request.Raw) { r.Target = s } }
func host(s string) change   { return func(r *request.Raw) { r.Host = s } }
func method(s string) change { return func(r *request.Raw) { r.Method = s } }

func version(major, minor int) change {
	return func(r *request.Raw) { r.ProtoMajor, r.ProtoMinor = major, minor }
}

// field adds lines under a key that is not touched.
func field(name string, values ...string) change {
	return func(r *request.Raw) { r.Header[name] = values }
}

func both(changes ...change) change {
	return func(r *request.Raw) {
		for _, c := range changes {
			c(r)
		}
	}
}

// handshake is that of a WebSocket, but for what changes.
func handshake(changes ...change) change {
	plain := []change{
		field("Connection", "Upgrade"), field("Upgrade", "websocket"),
		field("Sec-Websocket-Version", "13"), field("Sec-Websocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
	}
	return both(append(plain, changes...)...)
}

func raw(c change) request.Raw {
	r := request.Raw{
		Method: "GET", Target: "/v1/orders/7?full=1", Host: "api.example",
		Header:     map[string][]string{"Accept": {"*/*"}},
		ProtoMajor: 1, ProtoMinor: 1,
	}
	c(&r)
	return r
}

func reason(err error) string {
	if err == nil {
		return ""
	}
	var refused *request.Error
	if !errors.As(err, &refused) {
		return "another error: " + err.Error()
	}
	return refused.Reason
}

// TestTricksAndTheirHonestSiblings holds every trick beside the nearest request
// that an honest client may send.
func TestTricksAndTheirHonestSiblings(t *testing.T) {
	long := strings.Repeat("a", request.MaxPathLength)
	lines := slices.Repeat([]string{"v"}, request.MaxHeaderFields)
	for _, c := range []struct {
		reason       string
		trick, plain change
	}{
		{request.ReasonVersion, version(1, 0), version(1, 1)},
		{request.ReasonVersion, version(0, 9), version(1, 1)},
		{request.ReasonVersion, version(1, 2), version(2, 0)},
		{request.ReasonVersion, version(3, 0), version(2, 0)},

		{request.ReasonMethodInvalid, method(""), method("GET")},
		{request.ReasonMethodInvalid, method("GE T"), method("PATCH")},
		{request.ReasonMethodInvalid, method("GET\r\n"), method("PUT")},
		{request.ReasonMethodInvalid, method(strings.Repeat("A", 33)), method("OPTIONS")},
		{request.ReasonMethodUnsupported, method("get"), method("GET")},
		{request.ReasonMethodUnsupported, method("CONNECT"), method("POST")},
		{request.ReasonMethodUnsupported, method("TRACE"), method("HEAD")},
		{request.ReasonMethodUnsupported, method("PRI"), method("DELETE")},

		{request.ReasonTargetAbsolute, target("http://admin.example/v1"), target("/http:/admin.example/v1")},
		{request.ReasonTargetAbsolute, target("HTTPS://api.example/"), target("/")},
		{request.ReasonTargetAuthority, target("api.example:443"), target("/api.example:443")},
		{request.ReasonTargetAsterisk, both(method("OPTIONS"), target("*")), both(method("OPTIONS"), target("/*"))},
		{request.ReasonTargetInvalid, target(""), target("/")},
		{request.ReasonTargetInvalid, target("v1/orders"), target("/v1/orders")},
		{request.ReasonTargetInvalid, both(version(2, 0), target("Service/Method")), both(version(2, 0), target("/Service/Method"))},
		{request.ReasonTargetInvalid, target("?a=1"), target("/?a=1")},
		{request.ReasonTargetFragment, target("/a#b"), target("/a%23b")},
		{request.ReasonTargetFragment, target("/a?b#c"), target("/a?b%23c")},

		{request.ReasonPathTooLong, target("/" + long), target("/" + long[1:])},
		{request.ReasonPathTooLong, target("/" + strings.Repeat("+", 4000)), target("/" + strings.Repeat("+", 2000))},
		{request.ReasonPathByte, target("/a b"), target("/a%20b")},
		{request.ReasonPathByte, target("/a\tb"), target("/ab")},
		{request.ReasonPathByte, target("/a\r\nX: y"), target("/a")},
		{request.ReasonPathByte, target("/a\x00"), target("/a0")},
		{request.ReasonPathByte, target("/a\x7f"), target("/a~")},
		{request.ReasonPathByte, target("/café"), target("/caf%C3%A9")},
		{request.ReasonPathByte, target(`/pub\..\admin`), target("/pub.admin")},
		{request.ReasonPathByte, target("/a|b"), target("/a%7Cb")},
		{request.ReasonPathByte, target("/{id}"), target("/%7Bid%7D")},
		{request.ReasonPathEscape, target("/%"), target("/%25")},
		{request.ReasonPathEscape, target("/%4"), target("/%41")},
		{request.ReasonPathEscape, target("/%zz"), target("/%25zz")},
		{request.ReasonPathEscape, target("/%u002e"), target("/u002e")},
		{request.ReasonPathControl, target("/admin%00.png"), target("/admin0.png")},
		{request.ReasonPathControl, target("/a%0d%0aHost:%20evil"), target("/a%20evil")},
		{request.ReasonPathControl, target("/a%7f"), target("/a%7e")},
		{request.ReasonPathAmbiguous, target("/pub%2f..%2fadmin"), target("/pub..admin")},
		{request.ReasonPathAmbiguous, target("/..%2fadmin"), target("/...%2fadmin")},
		{request.ReasonPathAmbiguous, target("/pub%2F.."), target("/pub%2F...")},
		{request.ReasonPathAmbiguous, target("/%2e%2e%2fadmin"), target("/%2e%2e%2dadmin")},
		{request.ReasonPathAmbiguous, target("/a%2F.%2Fb"), target("/a%2F.b")},
		{request.ReasonPathAmbiguous, target("/a%2F..;v=1%2Fb"), target("/a%2F..a;v=1%2Fb")},
		{request.ReasonPathAmbiguous, target("/a%2F;v=1"), target("/a%2Fb;v=1")},
		{request.ReasonPathAmbiguous, target("/%2Fetc"), target("/etc%2Fx")},
		{request.ReasonPathAmbiguous, target("/a%2F%2Fb"), target("/a%2Fc%2Fb")},
		{request.ReasonPathAmbiguous, target("/a%2F/b"), target("/a%2Fc/b")},
		{request.ReasonPathAmbiguous, target("/a%2F"), target("/a%2Fb/")},
		{request.ReasonPathAmbiguous, target("/a%2F%5Cb"), target("/a%2F%5Bb")},
		{request.ReasonPathControl, target("/a%2F%00"), target("/a%2F%200")},
		{request.ReasonPathUTF8, target("/a%2F%c0%af"), target("/a%2F%c3%af")},
		{request.ReasonPathUTF8, target("/%c3%2F%af"), target("/%c3%af%2Fa")},
		{request.ReasonPathAmbiguous, target("/a%5cb"), target("/a%5bb")},
		{request.ReasonPathAmbiguous, target("/..%3b/admin"), target("/..%3a/admin")},
		{request.ReasonPathAmbiguous, target("/%252e%252e/admin"), target("/%252d/admin")},
		{request.ReasonPathAmbiguous, target("/a%252Fb"), target("/a%252Ab")},
		{request.ReasonPathAmbiguous, target("/a%255c"), target("/a%255d")},
		{request.ReasonPathAmbiguous, target("/a%253bb"), target("/a%253ab")},
		{request.ReasonPathAmbiguous, target("/a%25252e"), target("/a%25%20")},
		{request.ReasonPathAmbiguous, target("/%25%32%65"), target("/%25%32%64")},
		{request.ReasonPathAmbiguous, target("/a%2500"), target("/a%2520")},
		{request.ReasonPathUTF8, target("/%c0%ae%c0%ae/admin"), target("/%c3%ae/admin")},
		{request.ReasonPathUTF8, target("/a%c0%afb"), target("/a%c3%afb")},
		{request.ReasonPathUTF8, target("/%ff"), target("/%c3%bf")},
		{request.ReasonPathUTF8, target("/%ed%a0%80"), target("/%ed%9f%bf")},
		{request.ReasonPathDots, target("/pub/../admin"), target("/pub/.../admin")},
		{request.ReasonPathDots, target("/./admin"), target("/.admin")},
		{request.ReasonPathDots, target("/pub/.."), target("/pub/..a")},
		{request.ReasonPathDots, target("/."), target("/.well-known")},
		{request.ReasonPathDots, target("/%2e%2E/admin"), target("/%2e%2Ewell/admin")},
		{request.ReasonPathDots, target("/pub/.%2e/admin"), target("/pub/a%2e/admin")},
		{request.ReasonPathDots, target("/pub/..;/admin"), target("/pub/a..;/admin")},
		{request.ReasonPathDots, target("/pub/.;v=1/admin"), target("/pub/a;v=1/admin")},
		{request.ReasonPathDots, target("/pub/%2e%2e;x/admin"), target("/pub;x/admin")},
		{request.ReasonPathEmpty, target("//admin"), target("/admin")},
		{request.ReasonPathEmpty, target("//evil.example/admin"), target("/evil.example/admin")},
		{request.ReasonPathEmpty, target("/pub//admin"), target("/pub/admin")},
		{request.ReasonPathEmpty, target("/pub//"), target("/pub/")},
		{request.ReasonPathEmpty, target("/pub/;/admin"), target("/pub/x;/admin")},
		{request.ReasonPathEmpty, target("/;x"), target("/")},

		{request.ReasonQueryTooLong, target("/?" + strings.Repeat("a", 16<<10+1)), target("/?" + strings.Repeat("a", 16<<10))},
		{request.ReasonQueryByte, target("/?a b"), target("/?a+b")},
		{request.ReasonQueryByte, target("/?a\r\nX: y"), target("/?a%0D%0AX:y")},
		{request.ReasonQueryByte, target("/?\x00"), target("/?%00")},
		{request.ReasonQueryByte, target("/?é"), target("/?%C3%A9")},
		{request.ReasonQueryEscape, target("/?a=%"), target("/?a=%25")},
		{request.ReasonQueryEscape, target("/?a=%4"), target("/?a=%41")},
		{request.ReasonQueryEscape, target("/?a=%zz"), target("/?a[]={}|../..//%2f?")},

		{request.ReasonHostMissing, host(""), host("a")},
		{request.ReasonHostInvalid, host("api.example."), host("api.example")},
		{request.ReasonHostInvalid, host("api..example"), host("api.x.example")},
		{request.ReasonHostInvalid, host(".example"), host("x.example")},
		{request.ReasonHostInvalid, host("user@api.example"), host("user.api.example")},
		{request.ReasonHostInvalid, host("api.example:"), host("api.example:1")},
		{request.ReasonHostInvalid, host("api.example:0"), host("api.example:80")},
		{request.ReasonHostInvalid, host("api.example:0443"), host("api.example:443")},
		{request.ReasonHostInvalid, host("api.example:65536"), host("api.example:65535")},
		{request.ReasonHostInvalid, host("api.example:80@evil"), host("api.example:80")},
		{request.ReasonHostInvalid, host("api.example:+80"), host("api.example:80")},
		{request.ReasonHostInvalid, host("api.example/x"), host("api.example")},
		{request.ReasonHostInvalid, host("api.example, evil"), host("api-example")},
		{request.ReasonHostInvalid, host("api example"), host("api_example")},
		{request.ReasonHostInvalid, host("*.example"), host("x.example")},
		{request.ReasonHostInvalid, host("caf\u00e9.example"), host("xn--caf-dma.example")},
		{request.ReasonHostInvalid, host("a%2eexample"), host("a.example")},
		{request.ReasonHostInvalid, host("-a.example"), host("a-b.example")},
		{request.ReasonHostInvalid, host("a-.example"), host("a-b.example")},
		{request.ReasonHostInvalid, host("127.1"), host("127.0.0.1")},
		{request.ReasonHostInvalid, host("0x7f000001"), host("x7f000001")},
		{request.ReasonHostInvalid, host("2130706433"), host("127.0.0.1:8443")},
		{request.ReasonHostInvalid, host("127.0.0.01"), host("127.0.0.1")},
		{request.ReasonHostInvalid, host("::1"), host("[::1]")},
		{request.ReasonHostInvalid, host("[::1"), host("[::1]:8443")},
		{request.ReasonHostInvalid, host("[::1]x"), host("[::1]")},
		{request.ReasonHostInvalid, host("[::1]:"), host("[::1]:1")},
		{request.ReasonHostInvalid, host("[::1%25eth0]"), host("[fe80::1]")},
		{request.ReasonHostInvalid, host("[127.0.0.1]"), host("[::ffff:127.0.0.1]")},
		{request.ReasonHostInvalid, host(strings.Repeat("a", 64)), host(strings.Repeat("a", 63))},
		{request.ReasonHostInvalid, host(strings.Repeat("a.", 127) + "a"), host(strings.Repeat("a.", 126) + "a")},
		{request.ReasonHostAmbiguous, field("Host", "evil.example"), field("Host", "api.example")},
		{request.ReasonHostAmbiguous, field("Host", "api.example", "api.example"), field("Host", "api.example")},

		{request.ReasonHeaderTooLarge, field("Lines", append(lines, "v")...), field("Lines", lines[1:]...)},
		{request.ReasonHeaderTooLarge, field("Big", strings.Repeat("a", 64<<10)), field("Big", strings.Repeat("a", 63<<10))},
		{request.ReasonHeaderName, field("", "v"), field("A", "v")},
		{request.ReasonHeaderName, field("Content-Length ", "1"), field("Content-Length", "1")},
		{request.ReasonHeaderName, field("A\r\nB", "v"), field("Ab", "v")},
		{request.ReasonHeaderName, field(":path", "/admin"), field("Path", "/admin")},
		{request.ReasonHeaderName, field("x-user", "v"), field("X-Usage", "v")},
		{request.ReasonHeaderName, field("X-FORWARDED-FOR", "v"), field("X-Forwarded-For", "v")},
		{request.ReasonHeaderName, field("Xé", "v"), field("Xe", "v")},
		{request.ReasonHeaderValue, field("A", "v\r\nB: w"), field("A", "v B: w")},
		{request.ReasonHeaderValue, field("A", "v\nw"), field("A", "v\tw")},
		{request.ReasonHeaderValue, field("A", "v\x00"), field("A", "v")},
		{request.ReasonHeaderValue, field("A", "v\x7f"), field("A", "v\u00e9")},
		{request.ReasonHeaderValue, field("A", " v"), field("A", "")},
		{request.ReasonHeaderValue, field("A", "v\t"), field("A", "v")},
		{request.ReasonHeaderValue, field("X_dropped", "v\x00"), field("X_dropped", "v")},
		{request.ReasonHeaderDuplicate, field("Authorization", "Bearer a", "Bearer b"), field("Authorization", "Bearer a")},
		{request.ReasonHeaderDuplicate, field("Content-Length", "1", "1"), field("Content-Length", "1")},
		{request.ReasonHeaderDuplicate, field("Content-Type", "a/b", "a/b"), field("Accept", "a/b", "a/c")},
		{request.ReasonHeaderDuplicate, field("Cookie", "a=1", "b=2"), field("Cookie", "a=1; b=2")},
		{request.ReasonHeaderDuplicate, field("X-Api-Key", "a", "b"), field("X-Api-Key", "a")},

		{request.ReasonLength, field("Content-Length", "+1"), field("Content-Length", "1")},
		{request.ReasonLength, field("Content-Length", "1, 1"), field("Content-Length", "11")},
		{request.ReasonLength, field("Content-Length", "-1"), field("Content-Length", "0")},
		{request.ReasonLength, field("Content-Length", "0x1"), field("Content-Length", "001")},
		{request.ReasonLength, field("Content-Length", ""), field("Content-Length", "0")},
		{request.ReasonLength, field("Content-Length", strings.Repeat("9", 19)), field("Content-Length", strings.Repeat("9", 18))},
		{
			request.ReasonLength,
			both(field("Content-Length", "5"), field("Transfer-Encoding", "chunked")),
			field("Transfer-Encoding", "chunked"),
		},
		{request.ReasonTransferEncoding, field("Transfer-Encoding", "Chunked"), field("Transfer-Encoding", "chunked")},
		{request.ReasonTransferEncoding, field("Transfer-Encoding", "gzip, chunked"), field("Transfer-Encoding", "chunked")},
		{request.ReasonTransferEncoding, field("Transfer-Encoding", "chunked", "identity"), field("Transfer-Encoding", "chunked")},
		{request.ReasonTransferEncoding, field("Transfer-Encoding", "xchunked"), field("Transfer-Encoding", "chunked")},
		{request.ReasonTransferEncoding, field("Transfer-Encoding", ""), field("Transfer-Encoding")},

		{request.ReasonUpgrade, both(field("Connection", "Upgrade, HTTP2-Settings"), field("Upgrade", "h2c")), field("Connection", "Upgrade")},
		{request.ReasonUpgrade, field("Upgrade", "h2c"), field("Connection", "HTTP2-Settings")},
		{request.ReasonUpgrade, handshake(field("Upgrade", "websocket, h2c")), handshake(field("Upgrade", "WebSocket"))},
		{request.ReasonUpgrade, handshake(field("Upgrade", "websocket", "websocket")), handshake(version(1, 1))},
		{request.ReasonUpgrade, handshake(field("Upgrade", "websocket/13")), handshake(version(1, 1))},
		{request.ReasonWebSocket, handshake(method("POST")), handshake(method("GET"))},
		{request.ReasonWebSocket, handshake(field("Connection", "keep-alive")), handshake(field("Connection", "keep-alive, upgrade"))},
		{request.ReasonWebSocket, handshake(field("Connection", "xupgrade")), handshake(field("Connection", "close", "Upgrade"))},
		{request.ReasonWebSocket, handshake(field("Connection", "Upgrade, Sec-Websocket-Key")), handshake(field("Connection", "Upgrade, X-Trace"))},
		{request.ReasonWebSocket, handshake(field("Content-Length", "1")), handshake(field("Content-Length", "0"))},
		{request.ReasonWebSocket, handshake(field("Transfer-Encoding", "chunked")), handshake(version(1, 1))},
		{request.ReasonWebSocket, handshake(field("Sec-Websocket-Version", "8")), handshake(field("Sec-Websocket-Version", "13"))},
		{request.ReasonWebSocket, handshake(field("Sec-Websocket-Version", "13, 8")), handshake(version(1, 1))},
		{request.ReasonWebSocket, handshake(field("Sec-Websocket-Version", "13", "13")), handshake(version(1, 1))},
		{request.ReasonWebSocket, handshake(field("Sec-Websocket-Key", "AAAAAAAAAAAAAAAAAAAAAA")), handshake(field("Sec-Websocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="))},
		{request.ReasonWebSocket, handshake(field("Sec-Websocket-Key", "AAAAAAAAAAAAAAAAAAAAAB==")), handshake(version(1, 1))},
		{request.ReasonWebSocket, handshake(field("Sec-Websocket-Key", "AAAAAAAAAAAAAAAAAAAAAAA=")), handshake(version(1, 1))},
		{request.ReasonWebSocket, handshake(field("Sec-Websocket-Key", strings.Repeat("AAAAAAAAAAAAAAAAAAAAAA==", 2))), handshake(version(1, 1))},
		{request.ReasonConnection, handshake(version(2, 0)), version(2, 0)},
		{request.ReasonConnection, field("Connection", "Authorization"), field("Connection", "X-Trace")},
		{request.ReasonConnection, field("Connection", "close, cookie"), field("Connection", "close, X-Trace")},
		{request.ReasonConnection, field("Connection", "hOST"), field("Connection", "Keep-Alive")},
		{request.ReasonConnection, field("Connection", "x trace"), field("Connection", "x-trace,, te")},
		{request.ReasonConnection, both(version(2, 0), field("Connection", "close")), both(version(2, 0), field("Te", "trailers"))},
		{request.ReasonConnection, both(version(2, 0), field("Transfer-Encoding", "chunked")), both(version(2, 0), field("Content-Length", "1"))},
		{request.ReasonConnection, both(version(2, 0), field("Upgrade", "h2c")), version(2, 0)},
		{request.ReasonExpectation, field("Expect", "200-ok"), field("Expect", "100-continue")},
		{request.ReasonExpectation, field("Expect", "100-continue", "x"), field("Expect", "100-Continue")},
	} {
		r := raw(c.trick)
		what := fmt.Sprintf("%s %.60q %q HTTP/%d.%d %.120v", r.Method, r.Target, r.Host, r.ProtoMajor, r.ProtoMinor, r.Header)
		got, err := request.Canonicalise(r)
		if reason(err) != c.reason {
			t.Errorf("%s: reason %q, want %q", what, reason(err), c.reason)
		}
		if got.Path != "" || got.Header != nil {
			t.Errorf("%s: refused, and yet a request: %v", what, got)
		}
		if _, err := request.Canonicalise(raw(c.plain)); err != nil {
			t.Errorf("the sibling of %s: %v", what, err)
		}
	}
}

func TestOneSpellingForEveryPath(t *testing.T) {
	for _, c := range []struct{ target, path, query string }{
		{"/", "/", ""},
		{"/?", "/", ""},
		{"/a?b=1?c", "/a", "b=1?c"},
		{"/%61%2Db%7e", "/a-b~", ""},
		{"/caf%c3%a9?x=%c3", "/caf%C3%A9", "x=%c3"},
		{"/v1/orders%3acancel", "/v1/orders:cancel", ""},
		{"/v1/orders:cancel", "/v1/orders:cancel", ""},
		{"/%24%26%27%28%29%2a%2c%3d%40%21", "/$&'()*,=@!", ""},
		{"/a+b", "/a%2Bb", ""},
		{"/a%2bb?a+b", "/a%2Bb", "a+b"},
		{"/%7B%7d%5b%22%20", "/%7B%7D%5B%22%20", ""},
		{"/100%25", "/100%25", ""},
		{"/a%2eb", "/a.b", ""},
		{"/m;v=1;w=%2e", "/m;v=1;w=.", ""},
		{"/group%2fname%2F%2e%41/x", "/group%2Fname%2F.A/x", ""},
	} {
		got, err := request.Canonicalise(raw(target(c.target)))
		if err != nil {
			t.Errorf("%s: %v", c.target, err)
		}
		if got.Path != c.path || got.RawQuery != c.query {
			t.Errorf("%s: path %q query %q, want %q and %q", c.target, got.Path, got.RawQuery, c.path, c.query)
		}
		if want := strings.TrimSuffix(c.path+"?"+c.query, "?"); got.Target != want {
			t.Errorf("%s: forwards %q, want %q", c.target, got.Target, want)
		}
	}
}

// Only a path whose segments hold slashes is another one for some servers.
func TestAmbiguity(t *testing.T) {
	for path, ambiguous := range map[string]bool{
		"/": false, "/a/b": false, "/a%252A": false, "/%252": false, "/a?b=%2F": false, "/a%2fb": true, "/a%2Fb": true, "/%61%2F%62/c": true,
	} {
		c, err := request.Canonicalise(raw(target(path)))
		if err != nil {
			t.Fatal(err)
		}
		err1 := c.Ambiguity()
		if (err1 != nil) != ambiguous || ambiguous && (err1.Reason != request.ReasonPathAmbiguous || err1.Status != http.StatusBadRequest) {
			t.Errorf("%s: %v", path, err1)
		}
	}
}

func TestOneSpellingForEveryHost(t *testing.T) {
	for sent, want := range map[string]string{
		"API.Example":      "api.example",
		"api.example:8443": "api.example",
		"10.0.0.1:80":      "10.0.0.1",
		"[0:0::1]:443":     "[::1]",
		"[FE80::A]":        "[fe80::a]",
	} {
		got, err := request.Canonicalise(raw(host(sent)))
		if err != nil || got.Host != want {
			t.Errorf("%s: host %q, %v, want %q", sent, got.Host, err, want)
		}
	}
}

func TestIsHost(t *testing.T) {
	for host, want := range map[string]bool{
		"api.example": true, "10.0.0.1": true, "[::1]": true,
		"": false, "API.example": false, "api.example:443": false, "api.example.": false, "[0::1]": false, "*": false, "*.example": false,
	} {
		if request.IsHost(host) != want {
			t.Errorf("%q is a canonical host: %v", host, !want)
		}
	}
}

func TestMatchesServerName(t *testing.T) {
	for _, c := range []struct {
		host, name string
		want       bool
	}{
		{"api.example", "api.example", true},
		{"api.example", "API.example", true},
		{"api.example", "admin.example", false},
		{"api.example", "", false},
		{"10.0.0.1", "", true},
		{"[::1]", "", true},
		{"10.0.0.1", "api.example", false},
		{"", "", false},
	} {
		if got := (request.Canonical{Host: c.host}).MatchesServerName(c.name); got != c.want {
			t.Errorf("host %q, server name %q: %v", c.host, c.name, got)
		}
	}
}

// TestRemovedFields: what is left is what may be forwarded.
func TestRemovedFields(t *testing.T) {
	gone := []string{
		"X_user", "X-User_id", "Content_length", "X!user", "X.user", "Sallyport-Assertion", "X-Sallyport-User",
		"Forwarded", "X-Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Client-Cert",
		"X-Real-Ip", "True-Client-Ip", "X-Original-Url", "X-Rewrite-Url", "X-Original-Host", "X-Http-Method-Override",
		"X-User", "X-User-Id", "Remote-User", "X-Remote-User", "X-Auth-Request-Email", "X-Webauth-User", "X-Spiffe-Id",
		"Client-Cert", "X-Ssl-Client-Cert", "Ssl-Client-Verify", "X-Envoy-Original-Path", "X-Amzn-Oidc-Identity", "Proxy",
		"X-Pomerium-Jwt-Assertion", "Cf-Access-Jwt-Assertion", "Teleport-Jwt-Assertion", "Tailscale-User-Login",
		"X-Goog-Iap-Jwt-Assertion", "X-Ms-Token-Aad-Id-Token", "X-Endpoint-Api-Userinfo", "X-Jwt-Assertion", "X-Authentik-Username",
		"X-Vouch-User", "X-Amzn-Mtls-Clientcert-Subject", "Impersonate-User", "Impersonate-Extra-Scopes", "Oidc-Claim-Sub",
		"Mellon-Name-Id", "Shib-Session-Id", "Sm-User", "Iv-User", "Oam-Remote-User", "Remote-Groups", "X-Auth-User", "X-Userinfo",
		"Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Http2-Settings", "Trailer", "Expect", "Connection",
		"Transfer-Encoding", "X-Named", "Host",
	}
	kept := []string{
		"Accept", "Authorization", "Dpop", "Cookie", "Content-Type", "Traceparent", "X-Usage", "X-User-Agent", "X-Api-Key", "Grpc-Timeout",
		"Sallyports", "X-Auth-Token", "X-Client-Version", "X-", "X-Jwts", "Im-A", "Smell", "Ivy", "X-Amz-Date",
	}
	r := raw(field("Connection", "close, x-named"))
	for _, name := range slices.Concat(gone, kept) {
		if r.Header[name] == nil {
			r.Header[name] = []string{"v"}
		}
	}
	r.Header["Expect"], r.Header["Transfer-Encoding"], r.Header["Host"] = []string{"100-continue"}, []string{"chunked"}, []string{r.Host}
	got, err := request.Canonicalise(r)
	if err != nil {
		t.Fatal(err)
	}
	if left := slices.Sorted(maps.Keys(got.Header)); !slices.Equal(left, slices.Sorted(slices.Values(kept))) {
		t.Errorf("left %q\nwant %q", left, kept)
	}
}

// TestEveryByteOfAValueIsChecked: wherever it stands, beside whatever.
func TestEveryByteOfAValueIsChecked(t *testing.T) {
	for b := range 256 {
		for _, filler := range []string{"a", "\xff", "\x20", "\t", "\x80"} {
			for at := 1; at < 24; at++ {
				value := "a" + strings.Repeat(filler, at-1) + string([]byte{byte(b)}) + strings.Repeat(filler, 24-at) + "z"
				_, err := request.Canonicalise(raw(field("A", value)))
				if allowed := b >= 0x20 && b != 0x7f || b == '\t'; allowed != (err == nil) {
					t.Fatalf("byte %#x at %d among %q: %v", b, at, filler, err)
				}
			}
		}
	}
}

// The wish for a WebSocket is spelled in one way, and stays what it is.
func TestHandshakeIsCanonical(t *testing.T) {
	r := raw(handshake(
		field("Connection", "keep-alive, uPGRADE", "X-Hop"), field("Upgrade", "WebSocket"), field("X-Hop", "1"),
		field("Content-Length", "0"), field("Sec-Websocket-Protocol", "chat"), field("Keep-Alive", "5"),
	))
	want := map[string][]string{
		"Accept": {"*/*"}, "Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {"chat"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
	}
	for range 2 {
		c, err := request.Canonicalise(r)
		if err != nil || !c.WebSocket || !maps.EqualFunc(c.Header, want, slices.Equal) {
			t.Errorf("%v, %t, %v\nwant %v", err, c.WebSocket, c.Header, want)
		}
	}
	if c, err := request.Canonicalise(raw(field("Connection", "upgrade"))); err != nil || c.WebSocket {
		t.Errorf("without Upgrade: %v, %t", err, c.WebSocket)
	}
}

func TestOnlyTrailersAreAnnounced(t *testing.T) {
	for _, c := range []struct {
		sent []string
		want []string
	}{
		{[]string{"trailers"}, []string{"trailers"}},
		{[]string{"gzip, Trailers"}, []string{"trailers"}},
		{[]string{"gzip", "trailers"}, []string{"trailers"}},
		{[]string{"gzip"}, nil},
		{[]string{"xtrailers"}, nil},
	} {
		got, err := request.Canonicalise(raw(both(field("Te", c.sent...), field("Connection", "TE"))))
		if err != nil || !slices.Equal(got.Header["Te"], c.want) {
			t.Errorf("TE %q becomes %q, %v", c.sent, got.Header["Te"], err)
		}
	}
}

func TestStatus(t *testing.T) {
	for _, c := range []struct {
		trick change
		want  int
	}{
		{target("//"), http.StatusBadRequest},
		{version(1, 0), http.StatusHTTPVersionNotSupported},
		{method("TRACE"), http.StatusNotImplemented},
		{target("/" + strings.Repeat("a", 9<<10)), http.StatusRequestURITooLong},
		{target("/?" + strings.Repeat("a", 17<<10)), http.StatusRequestURITooLong},
		{field("Big", strings.Repeat("a", 65<<10)), http.StatusRequestHeaderFieldsTooLarge},
		{field("Expect", "x"), http.StatusExpectationFailed},
	} {
		_, err := request.Canonicalise(raw(c.trick))
		var refused *request.Error
		if !errors.As(err, &refused) || refused.Status != c.want {
			t.Errorf("%v, want status %d", err, c.want)
		}
	}
}

func FuzzCanonicalise(f *testing.F) {
	for _, s := range []string{
		"/", "/a/b?c=d", "/%2e%2e/x", "/a%2fb", "/a%2F..%2Fb", "/%252f%2f", "/a+b;c", "/%25%32%65", "/%c3%a9", "//", "/..;/", "/%255c?%", "*", "http://a/",
	} {
		f.Add("GET", s, "api.example:443", "Te", "trailers, gzip", 1)
		f.Add("POST", s, "[::1]", "Connection", "close, x-a", 1)
		f.Add("PUT", s, "10.0.0.1", "Host", "10.0.0.1", 2)
	}
	f.Fuzz(func(t *testing.T, method, target, host, name, value string, major int) {
		r := request.Raw{
			Method: method, Target: target, Host: host, ProtoMajor: major, ProtoMinor: major & 1,
			Header: map[string][]string{name: {value}, "X-A": {"v"}, "Cookie": {"v"}},
		}
		once, err := request.Canonicalise(r)
		if err != nil {
			return
		}
		for _, never := range []string{"//", "/./", "/../", "/..;", "%2e", "%2E", "%2f", "/%2F", "%2F%2F", "%2F/", "%2F./", "%2F../", "/..%2F", "/.%2F", "%2F.%2F", "%2F..%2F", "%2F..;", "%5C", "%5c", "%00", " ", "\\", "+", "?", "#"} {
			if strings.Contains(once.Path, never) {
				t.Errorf("path %q of target %q holds %q", once.Path, target, never)
			}
		}
		if decoded, err := url.PathUnescape(once.Path); err != nil || (once.Ambiguity() == nil) != (strings.Count(decoded, "/") == strings.Count(once.Path, "/")) {
			t.Errorf("path %q of target %q has more segments, decoded: %v, %v", once.Path, target, err, once.Ambiguity())
		}
		twice, err := request.Canonicalise(request.Raw{
			Method: once.Method, Target: once.Target, Host: once.Host, ProtoMajor: major, ProtoMinor: major & 1,
			Header: maps.Clone(once.Header),
		})
		if err != nil {
			t.Fatalf("the canonical form %q is refused: %v", once.Target, err)
		}
		if twice.Target != once.Target || twice.Path != once.Path || twice.RawQuery != once.RawQuery || twice.Host != once.Host ||
			twice.WebSocket != once.WebSocket || !maps.EqualFunc(twice.Header, once.Header, slices.Equal) {
			t.Errorf("not idempotent: %v, then %v", once, twice)
		}
	})
}

// FuzzTemplatesSpellLikeRequests holds the two definitions of the canonical
// spelling together: a literal path template is accepted exactly when some
// request has that path.
func FuzzTemplatesSpellLikeRequests(f *testing.F) {
	for _, s := range []string{"/", "/a/b/", "/caf%C3%A9", "/%2E", "/%2B", "/+", "/a;b", "/;", "/..;", "/%3B", "/%252e", "/%2525", "/%7E", "/%c3", "/|", "/%7C"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > pattern.MaxPathLength || strings.Count(s, "/") > pattern.MaxPathSegments || strings.ContainsAny(s, "*{}?") {
			return
		}
		p, templateErr := pattern.ParsePath(s)
		c, err := request.Canonicalise(raw(target(s)))
		if spelled := err == nil && c.Path == s && c.Ambiguity() == nil; spelled != (templateErr == nil) {
			t.Errorf("%q: as a template %v, as a target %q, %v", s, templateErr, c.Path, err)
		}
		if templateErr == nil && !p.Match(c.Path) {
			t.Errorf("%q does not match itself", s)
		}
	})
}

func BenchmarkCanonicalise(b *testing.B) {
	browser := map[string][]string{
		"Accept":             {"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"},
		"Accept-Encoding":    {"gzip, deflate, br, zstd"},
		"Accept-Language":    {"de-DE,de;q=0.9,en-US;q=0.8,en;q=0.7"},
		"Authorization":      {"Bearer " + strings.Repeat("x", 400)},
		"Cache-Control":      {"no-cache"},
		"Content-Length":     {"1024"},
		"Content-Type":       {"application/json"},
		"Origin":             {"https://shop.example"},
		"Referer":            {"https://shop.example/orders"},
		"Sec-Fetch-Mode":     {"cors"},
		"Traceparent":        {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
		"User-Agent":         {"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"},
		"X-Requested-With":   {"fetch"},
		"X-Idempotency-Hint": {"none"},
	}
	api := map[string][]string{
		"Accept":          {"application/json"},
		"Accept-Encoding": {"gzip"},
		"Authorization":   {"Bearer " + strings.Repeat("x", 400)},
		"User-Agent":      {"orders-client/1.4"},
	}
	for name, c := range map[string]struct {
		target string
		header map[string][]string
	}{
		"browser": {"/v1/orders/0190f7c2-7d43-7b1c-9d1e-2f6a3c4b5d6e?expand=items&limit=20", browser},
		"api":     {"/v1/orders/0190f7c2-7d43-7b1c-9d1e-2f6a3c4b5d6e?expand=items&limit=20", api},
		"escaped": {"/v1/orders/caf%c3%a9?expand=items", api},
	} {
		b.Run(name, func(b *testing.B) {
			r := request.Raw{Method: "POST", Target: c.target, Host: "api.shop.example", Header: c.header, ProtoMajor: 1, ProtoMinor: 1}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := request.Canonicalise(r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestCleanTrailer(t *testing.T) {
	trailer := map[string][]string{
		"X-Checksum": {"7"}, "Expires": {"0", "1"}, "X-Amz-Checksum-Crc32": {"a"}, // may come behind a body
		"Authorization": {"Bearer x"}, "Content-Length": {"1"}, "Transfer-Encoding": {"chunked"}, "Host": {"a"},
		"X-Forwarded-For": {"127.0.0.1"}, "Sallyport-Decision-Id": {"1"}, "X_user": {"a"}, "x-lower": {"a"},
		"Content-Type": {"text/html"}, "If-Match": {"*"}, "Cache-Control": {"no-store"}, "X-Broken": {"a\nb"}, "X-Empty": nil,
		"Cookie": {"a=b"}, "Te": {"trailers"}, "Trailer": {"X"},
	}
	var got []string
	for name := range request.CleanTrailer(trailer) {
		got = append(got, name)
	}
	slices.Sort(got)
	if want := []string{"Expires", "X-Amz-Checksum-Crc32", "X-Checksum"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
