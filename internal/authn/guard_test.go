package authn_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/authn"
)

func TestReachable(t *testing.T) {
	const no, own, yes = 0, 1, 2 // never, when private addresses are allowed, always
	for text, want := range map[string]int{
		"93.184.215.14": yes, "2606:2800:21f:cb07::1": yes, "100.63.255.255": yes, "100.128.0.0": yes,
		"172.15.255.255": yes, "172.32.0.1": yes, "168.63.129.17": yes,
		"127.0.0.1": own, "127.255.0.3": own, "::1": own, "10.0.0.1": own, "172.16.0.1": own, "192.168.1.1": own,
		"fd12::1": own, "100.64.0.1": own, "198.18.0.1": own, "fec0::1": own, "64:ff9b:1::1": own,
		"169.254.169.254": no, "169.254.0.1": no, "fe80::1": no, "fe80::1%eth0": no, "fd00:ec2::254": no, "fd20:ce::254": no,
		"168.63.129.16": no, "100.100.100.200": no, "192.0.0.192": no, "0.0.0.0": no, "0.1.2.3": no, "::": no,
		"255.255.255.255": no, "240.0.0.1": no, "224.0.0.1": no, "ff02::1": no, "2001::1": no,
		// The same again in IPv6.
		"::ffff:93.184.215.14": yes, "::ffff:127.0.0.1": own, "::ffff:10.0.0.1": own, "::ffff:169.254.169.254": no,
		"64:ff9b::5db8:d70e": yes, "64:ff9b::7f00:1": own, "64:ff9b::a00:1": own, "64:ff9b::a9fe:a9fe": no,
		"2002:5db8:d70e::1": yes, "2002:7f00:1::1": own, "2002:a9fe:a9fe::1": no,
		"::127.0.0.1": own, "::169.254.169.254": no,
	} {
		addr := netip.MustParseAddr(text)
		if got := authn.Reachable(addr, false); got != (want == yes) {
			t.Errorf("%s: reachable is %v", text, got)
		}
		if got := authn.Reachable(addr, true); got != (want != no) {
			t.Errorf("%s: reachable is %v where private addresses are allowed", text, got)
		}
	}
	if authn.Reachable(netip.Addr{}, true) {
		t.Error("no address is reachable")
	}
}

// An IdentityProvider leads to no neighbour of a proxy, however its URL is
// spelled, unless it says that it may; and to no cloud's metadata even then.
func TestGuard(t *testing.T) {
	for _, tc := range []struct {
		host    string
		private bool
		result  string
	}{
		{"127.0.0.1", false, "forbidden"},
		{"localhost", false, "forbidden"}, // a name is looked up first
		{"[::ffff:127.0.0.1]", false, "forbidden"},
		{"[::ffff:7f00:1]", false, "forbidden"},
		{"0.0.0.0", false, "forbidden"},
		{"0.0.0.0", true, "forbidden"},
		{"169.254.169.254", true, "forbidden"},
		{"[fd00:ec2::254]", true, "forbidden"},
		{"10.0.0.1", false, "forbidden"},
		// It got there: what stops it is a certificate that nobody vouches for.
		{"127.0.0.1", true, "unreachable"},
		{"localhost", true, "unreachable"},
	} {
		var c clock
		i := newIssuer("https://idp.example")
		var conns atomic.Int64
		server := httptest.NewUnstartedServer(i)
		server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				conns.Add(1)
			}
		}
		server.Config.ErrorLog = quietLog()
		server.StartTLS()
		_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
		p := i.provider("shop", "idp")
		p.JWKSURL, p.AllowPrivateAddresses = "https://"+tc.host+":"+port+"/jwks", tc.private
		g := newGateOf(t, i, p, authn.Config{Now: c.now, Wait: time.Minute, Refresh: time.Hour})
		expect(t, tc.host, g.ask(i.token("one", c.now(), nil)), "keys_unavailable")
		if g.metric(`sallyport_jwks_fetches_total{provider="shop/idp",result="`+tc.result+`"}`) == "" {
			t.Errorf("%s, private addresses allowed %v: fetch is not counted as %s", tc.host, tc.private, tc.result)
		}
		if came := conns.Load() > 0; came != (tc.result == "unreachable") {
			t.Errorf("%s, private addresses allowed %v: connected is %v", tc.host, tc.private, came)
		}
		server.Close()
	}
}

// A plain server on this machine is a provider's when it says so.
func TestLoopbackWithoutTLS(t *testing.T) {
	i := newIssuer("https://idp.example")
	server := httptest.NewServer(i)
	defer server.Close()
	for private, want := range map[bool]string{true: "alice", false: "keys_unavailable"} {
		var c clock
		p := i.provider("shop", "idp")
		p.JWKSURL, p.AllowPrivateAddresses = server.URL, private
		g := newGateOf(t, i, p, authn.Config{Now: c.now, Wait: time.Minute, Refresh: time.Hour})
		expect(t, "private addresses allowed: "+strings.ToUpper(want), g.ask(i.token("one", c.now(), nil)), want)
	}
}

// A proxy of the environment hides where it goes, so that it needs leave.
func TestProxyOfTheEnvironment(t *testing.T) {
	if authn.NewTransport(false).Proxy != nil {
		t.Error("a proxy would be asked where private addresses are not allowed")
	}
	if authn.NewTransport(true).Proxy == nil {
		t.Error("no proxy would be asked where private addresses are allowed")
	}
}
