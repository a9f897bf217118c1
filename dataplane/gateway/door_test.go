package gateway_test

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// doored is a gateway, whose clock stands still, with a listener of which more is said.
func doored(t *testing.T, said string) *world {
	w, up := newWorld(t, options{}), newEcho(t)
	w.stopClock()
	w.apply(strings.Replace(w.usual(plaintext(up.address())), `minVersion: "1_2"}}`, `minVersion: "1_2"}, `+said+`}`, 1))
	return w
}

// knock connects from an address, which the PROXY protocol says if it is given, and
// returns the connection, nil when it was turned away.
func (w *world) knock(from string) *tls.Conn {
	w.t.Helper()
	return w.knockFor(from)
}

// knockFor is knock for a protocol.
func (w *world) knockFor(from string, protocols ...string) *tls.Conn {
	w.t.Helper()
	raw, err := net.Dial("tcp", w.address("edge/public"))
	w.must(err)
	w.must(raw.SetDeadline(time.Now().Add(10 * time.Second)))
	if from != "" {
		family, to := "TCP4", "127.0.0.1"
		if strings.Contains(from, ":") {
			family, to = "TCP6", "::1"
		}
		_, err = io.WriteString(raw, "PROXY "+family+" "+from+" "+to+" 4711 443\r\n")
		w.must(err)
	}
	cfg := w.tls(host)
	cfg.NextProtos = protocols
	conn := tls.Client(raw, cfg)
	if conn.Handshake() != nil {
		_ = raw.Close()
		return nil
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// A listener takes so many connections, of all and of each client, and of a client so
// many in a second. One that is closed makes room.
func TestConnectionLimits(t *testing.T) {
	const behind = "clientIp: {proxyProtocol: {trustedCidrs: [127.0.0.0/8]}}, "
	for _, c := range []struct {
		name, said string
		from       string // one after the other; "*" is an address without a header
		want       string // y for each that was let in, n for others
		metric     string
	}{
		{"of all", "clientIp: {direct: {}}, connections: {total: 2}", "* * * *", "yynn", "total"},
		{"of all, from everywhere", behind + "connections: {total: 2}", "192.0.2.1 192.0.2.2 192.0.2.3", "yyn", "total"},
		{"of each", behind + "connections: {perAddress: 2}", "192.0.2.1 192.0.2.1 192.0.2.1 192.0.2.2 192.0.2.1", "yynyn", "address"},
		{"of each network of IPv6", behind + "connections: {perAddress: 2}", "2001:db8::1 2001:db8::2 2001:db8::3 2001:db8:0:1::1", "yyny", "address"},
		{"new in a second", behind + "connections: {newPerSecond: 3}", "192.0.2.1 192.0.2.1 192.0.2.1 192.0.2.1 192.0.2.2", "yyyny", "rate"},
		{"of each at loopback", "clientIp: {direct: {}}, connections: {perAddress: 1}", "* *", "yn", "address"},
		{"nobody has said whose they are", "connections: {perAddress: 1}", "* * *", "yyy", ""},
		{"behind one that forwards", "clientIp: {forwarded: {header: X_FORWARDED_FOR, trustedHops: 1}}, connections: {perAddress: 1}", "* * *", "yyy", ""},
		{"behind those that forward", "clientIp: {forwarded: {header: X_FORWARDED_FOR, trustedCidrs: [127.0.0.0/8]}}, connections: {perAddress: 1}", "* * *", "yyy", ""},
		{"beside those that forward", "clientIp: {forwarded: {header: X_FORWARDED_FOR, trustedCidrs: [192.0.2.0/24]}}, connections: {perAddress: 1}", "* *", "yn", "address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := doored(t, c.said)
			got := ""
			for from := range strings.FieldsSeq(c.from) {
				if w.knock(strings.TrimPrefix(from, "*")) != nil {
					got += "y"
				} else {
					got += "n"
				}
			}
			if got != c.want {
				t.Errorf("from %s: got %s, want %s", c.from, got, c.want)
			}
			series := `sallyport_connections_refused_total{limit="` + c.metric + `",listener="edge/public"}`
			if n := itoa(strings.Count(c.want, "n")); c.metric != "" && w.metric(series) != n {
				t.Errorf("%s is %q, want %s", series, w.metric(series), n)
			}
		})
	}
}

// Who leaves makes room, and the second passes.
func TestConnectionLimitsGiveWay(t *testing.T) {
	w := doored(t, "clientIp: {proxyProtocol: {trustedCidrs: [127.0.0.0/8]}}, connections: {total: 3, perAddress: 1, newPerSecond: 2}")
	again := func(from string) bool {
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); <-time.After(5 * time.Millisecond) {
			w.pass(time.Second)
			if w.knock(from) != nil {
				return true
			}
		}
		return false
	}
	first := w.knock("192.0.2.1")
	if first == nil || w.knock("192.0.2.1") != nil {
		t.Fatal("not one, but none or two")
	}
	w.must(first.Close())
	if !again("192.0.2.1") {
		t.Error("one that has left still counts for its address")
	}
	b, c := w.knock("192.0.2.2"), w.knock("192.0.2.3")
	if b == nil || c == nil || w.knock("192.0.2.4") != nil {
		t.Fatal("not three, but fewer or more")
	}
	w.must(b.Close())
	if !again("192.0.2.4") {
		t.Error("one that has left still counts")
	}
}
