package upstream_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/upstream"
	"github.com/sallyport/sallyport/dataplane/upstream/dns"
	"github.com/sallyport/sallyport/dataplane/upstream/dns/dnstest"
)

// often is how often names are looked up here.
var often = upstream.Resolution{Every: 10 * time.Millisecond}

// resolving is a pool in service that asks names of endpoints of s.
func resolving(t *testing.T, s *dnstest.Server) *upstream.Pool {
	t.Helper()
	dial, err := s.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names, err := dns.New(dns.Config{Log: quiet(), Dial: dial})
	if err != nil {
		t.Fatal(err)
	}
	p, err := upstream.New(upstream.Config{Identity: anonymous(t), Log: quiet(), Names: names, Zone: "eu/a"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Sync(nil) })
	run(t, p.Run)
	return p
}

// drainsAt is drains at several addresses with one port.
func drainsAt(t *testing.T, hosts ...string) (all []*drained, port string) {
	t.Helper()
	for range 20 {
		var listeners []net.Listener
		port = "0"
		for _, host := range hosts {
			ln, err := net.Listen("tcp", net.JoinHostPort(host, port))
			if err != nil {
				break
			}
			listeners = append(listeners, ln)
			_, port, _ = net.SplitHostPort(ln.Addr().String())
		}
		if len(listeners) == len(hosts) {
			for _, ln := range listeners {
				all = append(all, drainsOn(t, ln))
			}
			return all, port
		}
		for _, ln := range listeners {
			_ = ln.Close()
		}
	}
	t.Fatal("there is no port that is free at all of the addresses")
	return nil, ""
}

// settle sends requests until those to as many endpoints as there are hosts went to them
// alone.
func settle(t *testing.T, u *upstream.Upstream, port string, hosts ...string) {
	t.Helper()
	want := map[string]bool{}
	for _, h := range hosts {
		want[net.JoinHostPort(h, port)] = true
	}
	got := map[string]bool{}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		clear(got)
		others := false
		for range 2 * len(hosts) {
			endpoint, answer := fetch(t.Context(), u)
			if answer != "all of it" && want[endpoint] {
				t.Fatalf("%s answered %q", endpoint, answer)
			}
			got[endpoint] = true
			others = others || !want[endpoint]
		}
		if len(got) == len(hosts) && !others {
			return
		}
	}
	t.Fatalf("requests go to %v, want %v", got, hosts)
}

// Each address of a name gets its share of requests. Those that come and go with the
// answers of DNS are drained as those of documents are, and all stay while it is away.
func TestAddressesOfAName(t *testing.T) {
	s := dnstest.New()
	s.Set("orders.example", 60, "127.0.0.1", "127.0.0.2")
	servers, port := drainsAt(t, "127.0.0.1", "127.0.0.2", "127.0.0.3")
	p := resolving(t, s)
	spec := plaintext("orders.example:" + port)
	spec.Resolution = often
	u := only(p, spec)
	settle(t, u, port, "127.0.0.1", "127.0.0.2")

	whole := hold(t, u, servers[1])
	s.Set("orders.example", 60, "127.0.0.1", "127.0.0.3")
	settle(t, u, port, "127.0.0.1", "127.0.0.3")
	close(servers[1].release)
	if got := <-whole; got != "all of it" {
		t.Errorf("what was under way got %q", got)
	}
	servers[1].closed(t, "its address is gone")
	servers[0].open(t, "it has stayed")

	for _, away := range []func(){func() { s.Break(true) }, func() { s.Break(false); s.Forget("orders.example") }} {
		away()
		asked := s.Asked("orders.example")
		for s.Asked("orders.example") == asked {
			settle(t, u, port, "127.0.0.1", "127.0.0.3")
		}
	}
	s.Set("orders.example", 60, "127.0.0.1")
	settle(t, u, port, "127.0.0.1")
	servers[2].closed(t, "its address is gone")

	// Another document, which looks names up at other times, changes nothing of that.
	spec.Resolution.Every = time.Minute
	u = only(p, spec)
	settle(t, u, port, "127.0.0.1")
	if n := servers[0].conns.Load(); n != 1 {
		t.Errorf("%d connections to the address that stayed, want 1", n)
	}
}

// An endpoint is verified by its name, whatever address that has.
func TestAddressesAreVerifiedByName(t *testing.T) {
	a := serve(t, "a", &tls.Config{})
	_, port, _ := net.SplitHostPort(a.address())
	s := dnstest.New()
	s.Set("example.com", 60, "127.0.0.1") // the certificate's
	s.Set("other.example", 60, "127.0.0.1")
	p := resolving(t, s)
	specs := func(host string) upstream.Spec {
		return upstream.Spec{
			Namespace: "shop", Name: "orders", Endpoints: []string{host + ":" + port}, Resolution: often,
			TLS: &upstream.TLS{CAFile: caFile(t, a)},
		}
	}
	u := only(p, specs("example.com"))
	got := ""
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && !strings.HasPrefix(got, "a "); {
		got = send(t, u, "")
	}
	if got != "a HTTP/2.0 /v1/orders%20?a=b;c " {
		t.Errorf("by its name: %q", got)
	}
	u = only(p, specs("other.example"))
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && got != "upstream_unverified"; {
		got = send(t, u, "")
	}
	if got != "upstream_unverified" {
		t.Errorf("by a name that it does not have: %q", got)
	}
}

// A name that nobody has looked up yet is looked up by the first request, and localhost by
// each that connects.
func TestNamesAtFirst(t *testing.T) {
	a := serve(t, "a", nil)
	_, port, _ := net.SplitHostPort(a.address())
	u := only(newPool(t, anonymous(t), nil), plaintext("nobody.invalid:"+port))
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if endpoint, got := fetch(soon, u); endpoint != "nobody.invalid:"+port || got != "upstream_unreachable" {
		t.Errorf("%s got %q", endpoint, got)
	}
	s := dnstest.New()
	u = only(resolving(t, s), plaintext("localhost:"+port))
	if got := send(t, u, ""); got != "a"+sent || u.Endpoints()[0] != "localhost:"+port {
		t.Errorf("%s: got %q", u.Endpoints(), got)
	}
}

// Plaintext does not leave the machine, whatever DNS says.
func TestPlaintextStays(t *testing.T) {
	s := dnstest.New()
	s.Set("orders.example", 60, "192.0.2.1", "127.0.0.1")
	servers, port := drainsAt(t, "127.0.0.1")
	spec := plaintext("orders.example:" + port)
	spec.Resolution = often
	settle(t, only(resolving(t, s), spec), port, servers[0].Listener.Addr().(*net.TCPAddr).IP.String())

	_, err := only(newPool(t, anonymous(t), nil), plaintext("192.0.2.1:80")).Send(get(t.Context()), &upstream.Call{})
	var e *upstream.Error
	if !errors.As(err, &e) || e.Reason != upstream.Unreachable || !strings.Contains(err.Error(), "is not on this machine") {
		t.Errorf("got %v", err)
	}
}

// Names that have more addresses together than an upstream has room for share it.
func TestManyAddresses(t *testing.T) {
	s := dnstest.New()
	spec := plaintext()
	spec.Resolution = often
	for i := range 8 {
		host := string(rune('a'+i)) + ".example"
		addresses := make([]string, 60)
		for j := range addresses {
			addresses[j] = net.IPv4(127, 1, byte(i), byte(j+1)).String()
		}
		s.Set(host, 60, addresses...)
		spec.Endpoints = append(spec.Endpoints, host+":1")
	}
	u := only(resolving(t, s), spec)
	got := 0
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && got != 256; {
		got = len(u.Endpoints())
	}
	if got != 256 {
		t.Fatalf("%d endpoints, want 256", got)
	}
	of := map[string]int{}
	for _, address := range u.Endpoints() {
		of[strings.Split(address, ".")[2]]++
	}
	for i, n := range of {
		if n != 32 {
			t.Errorf("%d addresses of name %s, want 32", n, i)
		}
	}
}

// Requests go to endpoints of our zone, whichever addresses these have, and to others when
// it has none.
func TestZonesOfEndpoints(t *testing.T) {
	s := dnstest.New()
	s.Set("a.example", 60, "127.0.0.1", "127.0.0.2")
	s.Set("b.example", 60, "127.0.0.3")
	servers, port := drainsAt(t, "127.0.0.1", "127.0.0.2", "127.0.0.3")
	spec := plaintext("a.example:"+port, "b.example:"+port)
	spec.Resolution = often
	spec.Zones = map[string]string{"a.example:" + port: "eu/a", "b.example:" + port: "eu/b"}
	p := resolving(t, s)
	u := only(p, spec)
	settle(t, u, port, "127.0.0.1", "127.0.0.2")
	s.Set("a.example", 60, "127.0.0.2")
	settle(t, u, port, "127.0.0.2")
	servers[1].Close()
	settle(t, u, port, "127.0.0.3")
	spec.Zones = map[string]string{"b.example:" + port: "eu/a"}
	settle(t, only(p, spec), port, "127.0.0.3")
	spec.Zones = nil
	s.Set("a.example", 60, "127.0.0.1")
	settle(t, only(p, spec), port, "127.0.0.1", "127.0.0.3")
}
