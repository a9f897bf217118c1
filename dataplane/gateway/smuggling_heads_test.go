package gateway_test

import (
	"strings"
	"testing"
)

// headTricks are about what is asked for, of whom, and with which fields.
var headTricks = []smuggled{
	never("request line", "GET  /v1/orders HTTP/1.1\r\nHost: api.shop.example\r\n\r\n", "400 request_line"),
	never("request line", "GET /v1/orders HTTP/1.1 \r\nHost: api.shop.example\r\n\r\n", "400 request_line"),
	never("request line", "GET\t/v1/orders HTTP/1.1\r\nHost: api.shop.example\r\n\r\n", "400 request_line"),
	never("request line", "GET /v1/orders /v1/admin HTTP/1.1\r\nHost: api.shop.example\r\n\r\n", "400 request_line"),
	never("request line", " GET /v1/orders HTTP/1.1\r\nHost: api.shop.example\r\n\r\n", "400 request_line"),
	never("request line", "GET /v1/orders\x0bHTTP/1.1\r\nHost: api.shop.example\r\n\r\n", "400 request_line"),
	never("version", "GET /v1/orders\r\n\r\n", "400 request_line"), // HTTP/0.9
	never("version", "GET /v1/orders HTTP/1.0\r\nHost: api.shop.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "505 http_version"),
	never("version", "GET /v1/orders HTTP/1.2\r\nHost: api.shop.example\r\n\r\n", "505 http_version"),
	never("version", "GET /v1/orders HTTP/2.0\r\nHost: api.shop.example\r\n\r\n", "505 http_version"),
	never("version", "GET /v1/orders http/1.1\r\nHost: api.shop.example\r\n\r\n", "400 request_line"),
	never("version", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 http_version"),
	denied("method", "G(T /v1/orders HTTP/1.1\r\nHost: api.shop.example\r\n\r\n", "400 method_invalid"),
	denied("method", "get /v1/orders HTTP/1.1\r\nHost: api.shop.example\r\n\r\n", "501 method_unsupported"),
	denied("method", "TRACE /v1/orders HTTP/1.1\r\nHost: api.shop.example\r\n\r\n", "501 method_unsupported"),
	denied("CONNECT", "CONNECT api.shop.example:443 HTTP/1.1\r\nHost: api.shop.example\r\n\r\n", "501 method_unsupported"),
	denied("CONNECT", "CONNECT /v1/orders HTTP/1.1\r\nHost: api.shop.example\r\n\r\n", "501 method_unsupported"),
	reads("method override", asked+"X-HTTP-Method-Override: DELETE\r\nX-Method-Override: DELETE\r\nX-HTTP-Method: DELETE\r\n\r\n", seenGet),

	denied("absolute form", get1("http://evil.example/v1/orders"), "400 target_absolute_form"),
	denied("absolute form", get1("https://api.shop.example/v1/orders"), "400 target_absolute_form"),
	denied("absolute form", get1("HTTPS://api.shop.example:443/v1/orders"), "400 target_absolute_form"),
	denied("absolute form", get1("//evil.example/v1/orders"), "400 path_empty_segment"),
	denied("absolute form", get1("/\\evil.example/v1/orders"), "400 path_invalid_byte"),
	denied("authority and asterisk form", get1("api.shop.example:443"), "400 target_authority_form"),
	denied("authority and asterisk form", "OPTIONS * HTTP/1.1\r\nHost: api.shop.example\r\n\r\n", "400 target_asterisk_form"),
	denied("authority and asterisk form", get1("v1/orders"), "400 target_invalid"),
	denied("authority and asterisk form", get1("?x=1"), "400 target_invalid"),

	denied("several Hosts", asked+"Host: evil.example\r\n\r\n", "400 host_ambiguous"),
	denied("several Hosts", asked+"Host: api.shop.example\r\n\r\n", "400 host_ambiguous"),
	denied("several Hosts", asked+"host: evil.example\r\n\r\n", "400 host_ambiguous"),
	denied("Host missing or malformed", "GET /v1/orders HTTP/1.1\r\n\r\n", "400 host_missing"),
	denied("Host missing or malformed", "GET /v1/orders HTTP/1.1\r\nHost:\r\n\r\n", "400 host_missing"),
	denied("Host missing or malformed", "GET /v1/orders HTTP/1.1\r\nHost: api.shop.example, evil.example\r\n\r\n", "400 host_invalid"),
	denied("Host missing or malformed", "GET /v1/orders HTTP/1.1\r\nHost: evil.example@api.shop.example\r\n\r\n", "400 host_invalid"),
	denied("Host missing or malformed", "GET /v1/orders HTTP/1.1\r\nHost: api.shop.example/v1\r\n\r\n", "400 host_invalid"),
	denied("Host missing or malformed", "GET /v1/orders HTTP/1.1\r\nHost: api.shop.example\xff\r\n\r\n", "400 host_invalid"),
	denied("Host missing or malformed", "GET /v1/orders HTTP/1.1\r\nHost: api.shop.example.\r\n\r\n", "400 host_invalid"),
	denied("Host missing or malformed", "GET /v1/orders HTTP/1.1\r\nHost: api.shop.example:\r\n\r\n", "400 host_invalid"),
	denied("Host missing or malformed", "GET /v1/orders HTTP/1.1\r\nHost: api.shop.example:0443\r\n\r\n", "400 host_invalid"),
	denied("Host other than that of the handshake", "GET /v1/orders HTTP/1.1\r\nHost: evil.example\r\n\r\n", "421 misdirected_request"),
	reads("Host in one spelling", "GET /v1/orders HTTP/1.1\r\nHost: API.Shop.Example:443\r\n\r\n", seenGet),

	denied("escaped slash, backslash or semicolon", get1("/v1/orders%2f..%2fadmin"), "400 path_ambiguous_escape"),
	denied("escaped slash, backslash or semicolon", get1("/v1/orders%2Fadmin"), "400 path_ambiguous_escape"),
	denied("escaped slash, backslash or semicolon", get1("/v1/orders%5cadmin"), "400 path_ambiguous_escape"),
	denied("escaped slash, backslash or semicolon", get1("/v1/orders%3bx"), "400 path_ambiguous_escape"),
	denied("escapes of escapes", get1("/v1/orders%252e%252e"), "400 path_ambiguous_escape"),
	denied("escapes of escapes", get1("/v1/%25%32%66admin"), "400 path_ambiguous_escape"),
	denied("escapes of escapes", get1("/v1/%2500"), "400 path_ambiguous_escape"),
	denied("dots", get1("/v1/orders/../admin"), "400 path_dot_segment"),
	denied("dots", get1("/v1/./orders"), "400 path_dot_segment"),
	denied("dots", get1("/v1/orders/.."), "400 path_dot_segment"),
	denied("dots", get1("/v1/%2e%2E/admin"), "400 path_dot_segment"),
	denied("dots", get1("/v1/orders/..;x=1/admin"), "400 path_dot_segment"),
	denied("dots", get1("/../v1/orders"), "400 path_dot_segment"),
	reads("dots that are none", get1("/v1/.../..a/.b"), onward("GET /v1/.../..a/.b")),
	denied("empty segments", get1("/v1//orders"), "400 path_empty_segment"),
	denied("empty segments", get1("/v1/;x/orders"), "400 path_empty_segment"),
	denied("NUL and other control bytes in a path", get1("/v1/orders%00.json"), "400 path_control_byte"),
	denied("NUL and other control bytes in a path", get1("/v1/orders%0d%0aX-A:%20b"), "400 path_control_byte"),
	denied("NUL and other control bytes in a path", get1("/v1/orders%7f"), "400 path_control_byte"),
	never("NUL and other control bytes in a path", get1("/v1/orders\x00.json"), "400 request_line"),
	denied("backslash", get1("/v1\\orders"), "400 path_invalid_byte"),
	denied("backslash", get1("/v1/orders\\..\\admin"), "400 path_invalid_byte"),
	denied("overlong and broken UTF-8", get1("/v1/%c0%ae%c0%ae/admin"), "400 path_invalid_utf8"),
	denied("overlong and broken UTF-8", get1("/v1/orders%c0%af"), "400 path_invalid_utf8"),
	denied("overlong and broken UTF-8", get1("/v1/orders%e0%80%af"), "400 path_invalid_utf8"),
	denied("overlong and broken UTF-8", get1("/v1/%ed%a0%80"), "400 path_invalid_utf8"), // half of a surrogate
	denied("overlong and broken UTF-8", get1("/v1/%ff"), "400 path_invalid_utf8"),
	denied("bytes that must be escaped", get1("/v1/caf\xc3\xa9"), "400 path_invalid_byte"),
	denied("bytes that must be escaped", get1("/v1/<orders>"), "400 path_invalid_byte"),
	denied("bytes that must be escaped", get1("/v1/orders?q=\xe9"), "400 query_invalid_byte"),
	denied("escapes that are none", get1("/v1/orders%zz"), "400 path_invalid_escape"),
	denied("escapes that are none", get1("/v1/orders%2"), "400 path_invalid_escape"),
	denied("escapes that are none", get1("/v1/%u002e"), "400 path_invalid_escape"),
	denied("escapes that are none", get1("/v1/orders?q=%zz"), "400 query_invalid_escape"),
	denied("fragment", get1("/v1/orders#/../admin"), "400 target_fragment"),
	denied("fragment", get1("/v1/orders?x#y"), "400 target_fragment"),
	reads("escapes in one spelling", get1("/v1/caf%c3%a9/%41%7eb+c;v=1"), onward("GET /v1/caf%C3%A9/A~b%2Bc;v=1")),
	reads("escapes in one spelling", get1("/v1/a%20b%25c"), onward("GET /v1/a%20b%25c")),
	reads("query as it came", get1("/v1/orders?x=%2f..%2F&x=a+b;c&&=%00"), onward("GET /v1/orders?x=%2f..%2F&x=a+b;c&&=%00")),
	reads("query as it came", get1("/v1/orders?a?b/../c"), onward("GET /v1/orders?a?b/../c")),
	reads("query as it came", get1("/v1/orders?"), seenGet),

	reads("hop-by-hop fields", asked+"Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authenticate: x\r\n"+
		"Proxy-Authorization: x\r\nHTTP2-Settings: AAMAAABk\r\nTE: gzip\r\nTrailer: X-Sum\r\n\r\n", seenGet),
	reads("hop-by-hop fields", asked+"TE: gzip, trailers;q=0.5\r\n\r\n", seenGet),
	reads("hop-by-hop fields", asked+"TE: trailers\r\n\r\n", onward("GET /v1/orders", "Te: trailers")),
	reads("fields that Connection names", asked+"Connection: keep-alive, X-A, x-b,\r\nConnection: X-C\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\nX-D: 4\r\n\r\n", onward("GET /v1/orders", "X-D: 4")),
	reads("fields that Connection names", asked+"Connection: X-Forwarded-For, Sallyport-Decision-Id\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n", seenGet),
	reads("fields that Connection names", chunks[:len(chunks)-2]+"Connection: Transfer-Encoding\r\n\r\n0\r\n\r\n"+behind, seenChunks+"0\r\n\r\n", seenBehind),
	denied("what a Connection must not name", asked+"Connection: Authorization\r\nAuthorization: Bearer x\r\n\r\n", "400 connection_invalid"),
	denied("what a Connection must not name", asked+"Connection: Host\r\n\r\n", "400 connection_invalid"),
	denied("what a Connection must not name", posted+"Connection: Content-Length\r\nContent-Length: 2\r\n\r\nok", "400 connection_invalid"),
	denied("what a Connection must not name", asked+"Connection: X A\r\n\r\n", "400 connection_invalid"),
	reads("fields that only a gateway may say", asked+"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Port: 80\r\n"+
		"X-Forwarded-Prefix: /x\r\nForwarded: for=6.6.6.6\r\nX-Real-Ip: 6.6.6.6\r\nTrue-Client-Ip: 6.6.6.6\r\nX-Original-Url: /v1/admin\r\nX-Rewrite-Url: /v1/admin\r\n"+
		"X-Forwarded-Client-Cert: x\r\nX-User: root\r\nSallyport-Principal: root\r\nSallyport-Decision-Id: mine\r\nX-Host: evil.example\r\n\r\n", seenGet),
	reads("names that CGI confuses", asked+"X_User: root\r\nX.User: root\r\nContent_Length: 9\r\nTransfer_Encoding: chunked\r\n\r\n", seenGet),
	reads("names in one spelling", asked+"x-aBC: 1\r\nX-ABC: 2\r\n\r\n", onward("GET /v1/orders", "X-Abc: 1", "X-Abc: 2")),
	denied("credentials twice", asked+"Authorization: Bearer x\r\nauthorization: Bearer y\r\n\r\n", "400 header_duplicate"),

	denied("upgrades", asked+"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", "400 upgrade_unsupported"),
	denied("upgrades", asked+shake+"\r\n", "400 upgrade_unsupported"), // the route does not say that it has WebSockets
	never("upgrades", asked+"Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nok", "400 upgrade_unsupported"),
	never("upgrades", asked+shake+"\r\n"+behind, "400 early_data"),
	denied("expectations", posted+"Expect: 200-ok\r\nContent-Length: 2\r\n\r\nok", "417 expectation"),
	denied("expectations", posted+"Expect: 100-continue, x\r\nContent-Length: 2\r\n\r\nok", "417 expectation"),

	denied("too much", get1("/v1/"+strings.Repeat("x", 9<<10)), "414 path_too_long"),
	denied("too much", get1("/v1/orders?"+strings.Repeat("x", 17<<10)), "414 query_too_long"),
	never("too much", asked+strings.Repeat("X-A: b\r\n", 200)+"\r\n", "431 header_too_large"),
	denied("too much", asked+"X-A: "+strings.Repeat("b", 70<<10)+"\r\n\r\n", "431 header_too_large"),
	never("too much", asked+"X-A: "+strings.Repeat("b", 300<<10)+"\r\n\r\n", "431 header_too_large"),
}

// Everything that a client can say in a head is refused, or reaches the upstream in
// the one way that is written here, to the byte.
func TestSmugglingByHeads(t *testing.T) { smuggle(t, headTricks) }
