package gateway_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// locating is a fleet with one route, whose Listener declares how addresses are
// known. Only 10.0.0.0/8 may ask.
func (w *world) locating(declared, upstream string) string {
	listener := strings.Replace(w.listener(), "spec: {", "spec: {clientIp: {"+declared+"}, ", 1)
	policy := strings.Replace(w.route("orders", host, upstream), "  methods: [GET, POST]\n",
		"  methods: [GET, POST]\n  when: cidr(\"10.0.0.0/8\").containsIP(signals.ip)\n", 1)
	return listener + w.login() + policy
}

// located is what became of a request that says where it comes from.
type located struct {
	says   string // ahead of TLS, or fields of the head
	status int    // 0: the connection is closed
	ip     string // recorded, and told the upstream
	source string
	why    string // recorded, when it is unknown
}

// told is the echo of X-Forwarded-For and its kin.
func told(rw http.ResponseWriter, r *http.Request) {
	for _, name := range []string{"Forwarded", "X-Real-Ip", "X-Forwarded-For"} {
		if values, ok := r.Header[name]; ok {
			_, _ = io.WriteString(rw, name+": "+strings.Join(values, " and ")+"\n")
		}
	}
}

// check compares what was answered and recorded.
func (w *world) check(c located, res *http.Response, body string) {
	w.t.Helper()
	d := w.records.of(w.t, "decision", res.Header.Get("Sallyport-Decision-Id"))
	if res.StatusCode != c.status || d.Allow != (c.status == 200) || d.ClientIP != c.ip || d.ClientIPSource != c.source ||
		d.ClientIPUnknown != c.why || d.PeerIP != "127.0.0.1" {
		w.t.Errorf("%.90q: %d %s, recorded %+v, want %+v", c.says, res.StatusCode, body, d, c)
	}
	if c.status == 200 && body != "X-Forwarded-For: "+c.ip+"\n" {
		w.t.Errorf("%.90q: the upstream was told %q", c.says, body)
	}
}

// What a client says of its address in a header is believed as far as the listener
// declares, and never allows more than the truth would.
func TestForwardedAddresses(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	up.answerWith(told)
	const none = "entry 1 from the right: there is none"
	const bad = "entry 1 from the right: it is no address"
	for declared, cases := range map[string][]located{
		`direct: {}`: {
			{"X-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\nX-Real-Ip: 10.0.0.1\r\n", 403, "127.0.0.1", "direct", ""},
		},
		`forwarded: {header: X_FORWARDED_FOR, trustedHops: 1}`: {
			{"X-Forwarded-For: 10.0.0.1\r\n", 200, "10.0.0.1", "x_forwarded_for", ""},
			{"X-Forwarded-For: 10.0.0.1, 203.0.113.9\r\n", 403, "203.0.113.9", "x_forwarded_for", ""},
			{"X-Forwarded-For: 203.0.113.9, 10.0.0.1\r\nForwarded: for=203.0.113.9\r\nX-Real-Ip: 203.0.113.9\r\n", 200, "10.0.0.1", "x_forwarded_for", ""},
			{"X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 203.0.113.9\r\n", 403, "203.0.113.9", "x_forwarded_for", ""},
			{"x-forwarded-for: 203.0.113.9\r\nX-FORWARDED-FOR: 10.0.0.1:4711\r\n", 200, "10.0.0.1", "x_forwarded_for", ""},
			{"X-Forwarded-For: ::ffff:10.0.0.1\r\n", 200, "10.0.0.1", "x_forwarded_for", ""},
			{"X-Forwarded-For: ::ffff:203.0.113.9\r\n", 403, "203.0.113.9", "x_forwarded_for", ""},
			{"X-Forwarded-For: ::10.0.0.1\r\n", 403, "::a00:1", "x_forwarded_for", ""},
			{"X-Forwarded-For: ::ffff:10.0.0.1%eth0\r\n", 403, "", "x_forwarded_for", bad},
			{"X-Forwarded-For: 10.0.0.1%1\r\n", 403, "", "x_forwarded_for", bad},
			{"X-Forwarded-For: 012.0.0.1\r\n", 403, "", "x_forwarded_for", bad},
			{"X-Forwarded-For: 10.1\r\n", 403, "", "x_forwarded_for", bad},
			{"X-Forwarded-For: 167772161\r\n", 403, "", "x_forwarded_for", bad},
			{"X-Forwarded-For: 0x0a.0.0.1\r\n", 403, "", "x_forwarded_for", bad},
			{"X-Forwarded-For: 10.00.0.1\r\n", 403, "", "x_forwarded_for", bad},
			{"X-Forwarded-For: 10.0.1\r\n", 403, "", "x_forwarded_for", bad},
			{"X-Forwarded-For: 10.0.0.1.\r\n", 403, "", "x_forwarded_for", bad},
			{"X-Forwarded-For: 10.0.0.256\r\n", 403, "", "x_forwarded_for", bad},
			{"X-Forwarded-For: ::ffff:012.0.0.1\r\n", 403, "", "x_forwarded_for", bad},
			{"X-Forwarded-For: ::ffff:a00:1\r\n", 200, "10.0.0.1", "x_forwarded_for", ""},
			{"X-Forwarded-For: [::ffff:10.0.0.1]\r\n", 200, "10.0.0.1", "x_forwarded_for", ""},
			{"X-Forwarded-For: [::ffff:10.0.0.1%25eth0]:4711\r\n", 403, "", "x_forwarded_for", bad},
			{"X-Forwarded-For: [10.0.0.1]\r\n", 403, "", "x_forwarded_for", bad},
			{"X-Forwarded-For: 10.0.0.1:\r\n", 403, "", "x_forwarded_for", bad},
			{"X-Forwarded-For: 10.0.0.1 10.0.0.1\r\n", 403, "", "x_forwarded_for", bad},
			{"X-Forwarded-For: \"10.0.0.1\"\r\n", 403, "", "x_forwarded_for", bad},
			{"X-Forwarded-For: 10.0.0.1/8\r\n", 403, "", "x_forwarded_for", bad},
			{"X-Forwarded-For: 10.0.0.1,\r\n", 403, "", "x_forwarded_for", bad},
			{"X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For:\r\n", 403, "", "x_forwarded_for", bad},
			{"X-Forwarded-For: unknown\r\n", 403, "", "x_forwarded_for", bad},
			{"X_Forwarded_For: 10.0.0.1\r\n", 403, "", "x_forwarded_for", none},
			{"Forwarded: for=10.0.0.1\r\n", 403, "", "x_forwarded_for", none},
			{"", 403, "", "x_forwarded_for", none},
		},
		`forwarded: {header: X_FORWARDED_FOR, trustedCidrs: [127.0.0.0/8, 10.9.0.0/16]}`: {
			{"X-Forwarded-For: 203.0.113.9, 10.0.0.1, 10.9.0.1\r\n", 200, "10.0.0.1", "x_forwarded_for", ""},
			{"X-Forwarded-For: 10.0.0.1, 203.0.113.9, 10.9.0.1\r\n", 403, "203.0.113.9", "x_forwarded_for", ""},
			{"X-Forwarded-For: 10.0.0.1, 010.9.0.1\r\n", 403, "", "x_forwarded_for", bad},
			{"X-Forwarded-For: 10.9.0.1\r\n", 403, "", "x_forwarded_for", "entry 2 from the right: there is none"},
			{"", 403, "", "x_forwarded_for", none},
		},
		`forwarded: {header: X_FORWARDED_FOR, trustedCidrs: [192.0.2.0/24]}`: {
			{"X-Forwarded-For: 10.0.0.1\r\n", 403, "127.0.0.1", "direct", ""},
		},
		`forwarded: {header: FORWARDED, trustedHops: 1}`: {
			{"Forwarded: for=10.0.0.1;proto=https\r\n", 200, "10.0.0.1", "forwarded", ""},
			{"Forwarded: for=10.0.0.1, for=203.0.113.9\r\n", 403, "203.0.113.9", "forwarded", ""},
			{"Forwarded: for=\"x, for=10.0.0.1;host=\"a, for=203.0.113.9\"\r\n", 200, "10.0.0.1", "forwarded", ""},
			{"Forwarded: for=203.0.113.9;host=\"\\\", for=10.0.0.1\"\r\n", 403, "", "forwarded", "entry 1 from the right: it is not as RFC 7239 wants it"},
			{"Forwarded: for=10.0.0.1\r\nForwarded: for=203.0.113.9\r\n", 403, "203.0.113.9", "forwarded", ""},
			{"Forwarded: for=203.0.113.9\r\nforwarded: for=10.0.0.1\r\n", 200, "10.0.0.1", "forwarded", ""},
			{"Forwarded: for=10.0.0.1;host=\"\r\nForwarded: for=203.0.113.9\r\n", 403, "203.0.113.9", "forwarded", ""},
			{"Forwarded: for=203.0.113.9;host=\"\r\nForwarded: a\", for=10.0.0.1\r\n", 200, "10.0.0.1", "forwarded", ""}, // who is trusted has said that
			{"Forwarded: for=10.0.0.1;by=203.0.113.9, for=203.0.113.9;by=10.0.0.1\r\n", 403, "203.0.113.9", "forwarded", ""},
			{"Forwarded: for=\"[::ffff:10.0.0.1]:4711\"\r\n", 200, "10.0.0.1", "forwarded", ""},
			{"Forwarded: for=\"[::ffff:10.0.0.1%eth0]\"\r\n", 403, "", "forwarded", bad},
			{"Forwarded: for=012.0.0.1\r\n", 403, "", "forwarded", bad},
			{"Forwarded: for=10.1\r\n", 403, "", "forwarded", bad},
			{"Forwarded: for=0x0a000001\r\n", 403, "", "forwarded", bad},
			{"Forwarded: by=10.0.0.1\r\n", 403, "", "forwarded", "entry 1 from the right: it has no for"},
			{"Forwarded: for=_hidden\r\n", 403, "", "forwarded", "entry 1 from the right: who forwarded it does not say"},
			{"Forwarded: for=unknown\r\n", 403, "", "forwarded", "entry 1 from the right: who forwarded it does not know"},
			{"X-Forwarded-For: 10.0.0.1\r\n", 403, "", "forwarded", none},
		},
	} {
		w.apply(w.locating(declared, plaintext(up.address())))
		for _, c := range cases {
			res, body := w.raw(get + c.says + "\r\n")
			w.check(c, res, body)
		}
	}
}

// A listener that declares nothing goes by the connection, whatever is said.
func TestUndeclaredAddress(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	up.answerWith(told)
	w.apply(w.usual(plaintext(up.address())))
	res, body := w.raw(get + "X-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\n\r\n")
	w.check(located{status: 200, ip: "127.0.0.1", source: "undeclared"}, res, body)
}

// The header of the PROXY protocol, in version 2: command, family, and the rest.
func version2(command, family byte, rest string) string {
	return "\r\n\r\n\x00\r\nQUIT\n" + string([]byte{0x20 | command, family, byte(len(rest) >> 8), byte(len(rest))}) + rest
}

const (
	from10  = "\x0a\x00\x00\x01\x7f\x00\x00\x01\x12\x34\x01\xbb"
	from203 = "\xcb\x00\x71\x09\x7f\x00\x00\x01\x12\x34\x01\xbb"
)

// What stands ahead of TLS is believed when it comes from where it is declared to,
// and ends the connection otherwise.
func TestProxyProtocol(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	up.answerWith(told)
	const silent = "a proxy in front sent no header of the PROXY protocol"
	const sourceless = "the header of the PROXY protocol has no source"
	mapped := strings.Repeat("\x00", 10) + "\xff\xff\x0a\x00\x00\x01" + strings.Repeat("\x00", 16) + "\x12\x34\x01\xbb"
	malformed := []located{
		{says: "PROXY TCP4 010.0.0.1 127.0.0.1 1 2\r\n"}, {says: "PROXY TCP4 10.1 127.0.0.1 1 2\r\n"},
		{says: "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n"}, {says: "PROXY TCP4 10.0.0.1 127.0.0.1 1 2\n"},
		{says: "PROXY TCP4 10.0.0.1 127.0.0.1 1 99999\r\n"}, {says: "PROXY TCP4 10.0.0.1 127.0.0.1 1 2 3\r\n"},
		{says: "PROXY TCP4 ::1 ::1 1 2\r\n"}, {says: "PROXY " + strings.Repeat("x", 200) + "\r\n"},
		{says: version2(1, 0x11, from10[:8])}, {says: version2(1, 0x12, from10)}, {says: version2(1, 0x31, strings.Repeat("\x00", 216))},
		{says: version2(1, 0x00, "")}, {says: version2(1, 0x00, from10)}, {says: version2(2, 0x11, from10)}, {says: version2(1, 0x13, from10)}, {says: version2(1, 0x11, from10+strings.Repeat("\x00", 5000))},
		// Cut short, so that the handshake is taken for the rest, or long enough to take some of it.
		{says: "PROXY TCP4 10.0.0.1 127.0.0.1 1"}, {says: "PROXY TCP4 10.0.0.1 127.0.0.1 1 2\r"}, {says: version2(1, 0x11, from10)[:12]},
		{says: version2(1, 0x11, from10)[:20]}, {says: version2(1, 0x11, from10+"\x04\x00\x20abc")[:28]}, {says: strings.Replace(version2(1, 0x11, from10), "\x00\x0c", "\x00\x40", 1)},
		{says: "PROXY TCP4 10.0.0.1\r\n"}, {says: "PROXY TCP4 0x0a.0.0.1 127.0.0.1 1 2\r\n"}, {says: "PROXY TCP4 167772161 127.0.0.1 1 2\r\n"},
		{says: "proxy TCP4 10.0.0.1 127.0.0.1 1 2\r\n"}, {says: " PROXY TCP4 10.0.0.1 127.0.0.1 1 2\r\n"}, {says: "PROXY TCP4 ::ffff:10.0.0.1 127.0.0.1 1 2\r\n"},
		{says: version2(1, 0x11, from10) + version2(1, 0x11, from10)}, {says: "PROXY UNKNOWN\r\n" + version2(1, 0x11, from10)},
		{says: "GET / HTTP/1.1\r\n\r\n"}, {says: "PROXY TCP4 10.0.0.1 127.0.0.1 1 2\r\nPROXY TCP4 10.0.0.1 127.0.0.1 1 2\r\n"},
	}
	good := []located{
		{"PROXY TCP4 10.0.0.1 127.0.0.1 4711 443\r\n", 200, "10.0.0.1", "proxy_protocol", ""},
		{"PROXY TCP4 203.0.113.9 127.0.0.1 4711 443\r\n", 403, "203.0.113.9", "proxy_protocol", ""},
		{"PROXY TCP6 2001:db8::9 ::1 4711 443\r\n", 403, "2001:db8::9", "proxy_protocol", ""},
		{"PROXY TCP4 0.0.0.0 127.0.0.1 4711 443\r\n", 403, "", "proxy_protocol", sourceless},
		{"PROXY TCP6 ::ffff:10.0.0.1 ::1 4711 443\r\n", 200, "10.0.0.1", "proxy_protocol", ""},
		{"PROXY UNKNOWN\r\n", 403, "", "proxy_protocol", sourceless},
		{"PROXY UNKNOWN 10.0.0.1 127.0.0.1 4711 443\r\n", 403, "", "proxy_protocol", sourceless},
		{version2(0, 0x11, from10+"\x04\x00\x03abc"), 403, "127.0.0.1", "direct", ""},
		{version2(1, 0x11, from10), 200, "10.0.0.1", "proxy_protocol", ""},
		{version2(1, 0x11, from203), 403, "203.0.113.9", "proxy_protocol", ""},
		{version2(1, 0x21, mapped), 200, "10.0.0.1", "proxy_protocol", ""},
		{version2(1, 0x11, from10+"\x04\x00\x03abc"), 200, "10.0.0.1", "proxy_protocol", ""}, // TLV
		{version2(0, 0x11, from10), 403, "127.0.0.1", "direct", ""},                          // LOCAL
		{version2(0, 0x00, ""), 403, "127.0.0.1", "direct", ""},
	}
	for _, c := range []struct {
		declared string
		cases    []located
	}{
		{`proxyProtocol: {trustedCidrs: [127.0.0.0/8]}`, append(append([]located{{"", 403, "", "proxy_protocol", silent}}, good...), malformed...)},
		{`proxyProtocol: {trustedCidrs: [127.0.0.0/8], required: true}`, append(append([]located{{}}, good...), malformed...)},
		{`proxyProtocol: {trustedCidrs: [192.0.2.0/24]}`, []located{{"", 403, "127.0.0.1", "direct", ""}, {says: good[0].says}, {says: good[5].says}}},
		{`proxyProtocol: {trustedCidrs: [192.0.2.0/24], required: true}`, []located{{}, {says: good[0].says}}},
	} {
		w.apply(w.locating(c.declared, plaintext(up.address())))
		for _, l := range c.cases {
			res, body := w.announcing(l.says)
			switch {
			case (res == nil) != (l.status == 0):
				t.Errorf("%s: %.60q was closed: %t", c.declared, l.says, res == nil)
			case res != nil:
				w.check(l, res, body)
			}
		}
	}
	if got := w.metric(`sallyport_proxy_protocol_refusals_total{listener="edge/public"}`); got != "57" {
		t.Errorf("%s connections were counted", got)
	}
	// Where nobody speaks it, it is no handshake.
	w.apply(w.locating(`direct: {}`, plaintext(up.address())))
	if res, body := w.announcing(good[0].says); res != nil {
		t.Errorf("undeclared: %d %s", res.StatusCode, body)
	}
}

// announcing says something ahead of TLS, and sends a request that a header cannot
// mislead. It returns nothing if the connection is closed.
func (w *world) announcing(says string) (*http.Response, string) {
	w.t.Helper()
	raw, err := net.Dial("tcp", w.address("edge/public"))
	w.must(err)
	defer raw.Close()
	w.must(raw.SetDeadline(time.Now().Add(10 * time.Second)))
	_, err = io.WriteString(raw, says)
	w.must(err)
	cfg := w.tls(host)
	cfg.NextProtos = []string{"http/1.1"}
	conn := tls.Client(raw, cfg)
	if conn.Handshake() != nil {
		return nil, ""
	}
	w.send(conn, get+"X-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	w.must(err)
	return res, w.read(res)
}

// Whoever says nothing keeps nobody waiting, and does not stay when the gateway
// ends.
func TestSilenceAheadOfTLS(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	up.answerWith(told)
	w.apply(w.locating(`proxyProtocol: {trustedCidrs: [127.0.0.0/8]}`, plaintext(up.address())))
	var silent []net.Conn
	for _, begins := range []string{"", "P", "PROXY", "\r\n\r\n\x00\r\nQU", version2(1, 0x11, from10)[:20]} {
		conn, err := net.Dial("tcp", w.address("edge/public"))
		w.must(err)
		t.Cleanup(func() { _ = conn.Close() })
		_, err = io.WriteString(conn, begins)
		w.must(err)
		silent = append(silent, conn)
	}
	res, body := w.announcing("PROXY TCP4 10.0.0.1 127.0.0.1 4711 443\r\n")
	if res == nil || res.StatusCode != 200 {
		t.Fatalf("behind silent connections: %v %s", res, body)
	}
	w.stop()
	for i, conn := range silent {
		w.must(conn.SetReadDeadline(time.Now().Add(5 * time.Second)))
		if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil || isTimeout(err) {
			t.Errorf("silent connection %d is still open: %v", i, err)
		}
	}
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error) //nolint:errorlint // it is the connection's own
	return ok && e.Timeout()
}
