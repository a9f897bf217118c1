package gateway_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/gateway"
	"github.com/sallyport/sallyport/internal/identity"
)

// listen is a Listener edge/NAME.
func listen(name, address, tls string) string {
	return fmt.Sprintf(`
---
apiVersion: sallyport/v1
kind: Listener
metadata: {namespace: edge, name: %s}
spec: {address: %q, tls: {%s}}
`, name, address, tls)
}

// handshake connects to an address and returns what the client sees, after the
// server has had its say about the client's certificate: it answers a request.
func handshake(t *testing.T, address string, cfg *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 30 * time.Second}, "tcp", address, cfg)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x.example\r\n\r\n"); err != nil {
		return tls.ConnectionState{}, err
	}
	_, err = conn.Read(make([]byte, 1))
	return conn.ConnectionState(), err
}

// until waits for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("never came: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

func statusOf(g *gateway.Gateway, name string) gateway.ListenerStatus {
	for _, l := range g.Listeners() {
		if l.Namespace+"/"+l.Name == "edge/"+name {
			return l
		}
	}
	return gateway.ListenerStatus{}
}

func TestListenerTLS(t *testing.T) {
	w := newWorld(t, options{})
	certificates := "certificates: [" + w.files("edge") + "]"
	w.apply(
		listen("none", "127.0.0.1:0", certificates) +
			listen("optional", "127.0.0.1:0", certificates+", clientCertificates: OPTIONAL") +
			listen("required", "127.0.0.1:0", certificates+", clientCertificates: REQUIRED") +
			listen("older", "127.0.0.1:0", certificates+`, minVersion: "1_2"`) +
			listen("mesh", "127.0.0.1:0", "workloadIdentity: true, clientCertificates: REQUIRED"))
	stranger, err := w.issuer.IssueServerCertificate([]string{"x.example"}, time.Hour)
	w.must(err)
	anybody := func() *tls.Config { return w.tls(host) }
	member := func() *tls.Config { return w.as(w.tls(host), "spiffe://prod.example/ns/shop/web") }
	foreign := func() *tls.Config {
		cfg := w.tls(host)
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &stranger, nil }
		return cfg
	}
	older := func() *tls.Config {
		cfg := w.tls(host)
		cfg.MaxVersion = tls.VersionTLS12
		return cfg
	}
	peer := func() *tls.Config {
		return identity.ClientConfig(w.identified("spiffe://prod.example/ns/shop/web"), identity.Only(self))
	}
	for _, c := range []struct {
		listener, client string
		cfg              *tls.Config
		ok               bool
	}{
		{"none", "anybody", anybody(), true},
		{"none", "member", member(), true},
		{"none", "foreign", foreign(), true}, // it is not asked
		{"none", "older", older(), false},
		{"optional", "anybody", anybody(), true},
		{"optional", "member", member(), true},
		{"optional", "foreign", foreign(), false},
		{"required", "anybody", anybody(), false},
		{"required", "member", member(), true},
		{"required", "foreign", foreign(), false},
		{"older", "older", older(), true},
		{"older", "anybody", anybody(), true},
		{"mesh", "peer", peer(), true},
		{"mesh", "anybody", anybody(), false},
	} {
		state, err := handshake(t, w.address("edge/"+c.listener), c.cfg)
		if (err == nil) != c.ok {
			t.Errorf("%s on %s: %v", c.client, c.listener, err)
		}
		if c.ok && c.client != "older" && state.Version != tls.VersionTLS13 {
			t.Errorf("%s on %s: version %x", c.client, c.listener, state.Version)
		}
	}
	until(t, "failed handshakes are counted", func() bool {
		return w.metric(`sallyport_handshake_failures_total{listener="edge/required"}`) == "2"
	})
}

func TestCertificatesByName(t *testing.T) {
	w := newWorld(t, options{})
	w.certificate("first", "first.example")
	w.certificate("wild", "*.wild.example")
	w.certificate("exact", "exact.wild.example")
	w.apply(listen("public", "127.0.0.1:0", "certificates: ["+w.files("first")+","+w.files("wild")+","+w.files("exact")+"]"))
	for asked, want := range map[string]string{
		"first.example": "first.example", "exact.wild.example": "exact.wild.example", "EXACT.wild.example": "exact.wild.example",
		"other.wild.example": "*.wild.example", "a.other.wild.example": "first.example", "wild.example": "first.example",
		"unknown.example": "first.example", "": "first.example",
	} {
		cfg := w.tls(asked)
		cfg.InsecureSkipVerify = true
		state, err := handshake(t, w.address("edge/public"), cfg)
		if err != nil || state.PeerCertificates[0].DNSNames[0] != want {
			t.Errorf("%q: %v, got %v", asked, err, state.PeerCertificates)
		}
	}
}

// A certificate is renewed by replacing its files. Until both fit together, and
// while they are missing, the one before is presented.
func TestCertificateRenewal(t *testing.T) {
	w := newWorld(t, options{})
	w.apply(listen("public", "127.0.0.1:0", "certificates: ["+w.files("edge")+"]"))
	serial := func() string {
		state, err := handshake(t, w.address("edge/public"), w.tls(host))
		w.must(err)
		return state.PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	w.certificate("edge", host)
	until(t, "the renewed certificate", func() bool { return serial() != first })
	second := serial()

	w.must(os.WriteFile(filepath.Join(w.dir, "edge.crt"), []byte("torn"), 0o600))
	until(t, "the problem is told", func() bool { return strings.Contains(statusOf(w.gateway, "public").Error, "edge.crt") })
	broken := w.gateway.Listeners()[0].Address
	state, err := handshake(t, broken, w.tls(host))
	w.must(err)
	if got := state.PeerCertificates[0].SerialNumber.String(); got != second {
		t.Errorf("with a torn file %s is presented, want %s", got, second)
	}
	w.certificate("edge", host)
	until(t, "the problem is over", func() bool { return statusOf(w.gateway, "public").Error == "" && serial() != second })
}

// A listener whose certificate is missing lets nobody in, says so, and recovers.
func TestMissingCertificate(t *testing.T) {
	w := newWorld(t, options{})
	w.apply(w.listener() + listen("late", "127.0.0.1:0", "certificates: ["+w.files("late")+"]"))
	l := statusOf(w.gateway, "late")
	if !strings.Contains(l.Error, "late.crt") {
		t.Errorf("status is %+v", l)
	}
	if _, err := handshake(t, l.Address, w.tls(host)); err == nil {
		t.Error("there was a handshake without a certificate")
	}
	if _, err := handshake(t, w.address("edge/public"), w.tls(host)); err != nil {
		t.Errorf("the other listener: %v", err)
	}
	w.certificate("late", host)
	until(t, "the certificate is there", func() bool { return statusOf(w.gateway, "late").Error == "" })
	if _, err := handshake(t, l.Address, w.tls(host)); err != nil {
		t.Error(err)
	}
}

// A listener that cannot have its address does not keep the others from theirs,
// says why, and takes it as soon as it is free.
func TestAddressInUse(t *testing.T) {
	w := newWorld(t, options{})
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	address := taken.Addr().String()
	drained(w.gateway.Changed())
	w.apply(w.listener() + listen("taken", address, "certificates: ["+w.files("edge")+"]"))
	<-w.gateway.Changed()
	if l := statusOf(w.gateway, "taken"); l.Address != address || !strings.Contains(l.Error, "address already in use") {
		t.Errorf("status is %+v", l)
	}
	if got := w.metric(`sallyport_listener_up{listener="edge/taken"}`); got != "0" {
		t.Errorf("up is %q", got)
	}
	if _, err := handshake(t, w.address("edge/public"), w.tls(host)); err != nil {
		t.Errorf("the other listener: %v", err)
	}
	w.must(taken.Close())
	<-w.gateway.Changed()
	until(t, "the address is free", func() bool { return statusOf(w.gateway, "taken").Error == "" })
	if _, err := handshake(t, address, w.tls(host)); err != nil {
		t.Error(err)
	}
	if got := w.metric(`sallyport_listener_up{listener="edge/taken"}`); got != "1" {
		t.Errorf("up is %q", got)
	}
}

func drained(c <-chan struct{}) {
	select {
	case <-c:
	default:
	}
}

// What does not change about listeners is not touched: neither sockets nor
// connections.
func TestListenersAreKept(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(w.usual(plaintext(up.address())))
	address := w.address("edge/public")
	conns := map[string]bool{}
	c := w.client(false, w.tls(host))
	dial := c.Transport.(*http.Transport).DialContext
	c.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err == nil {
			conns[conn.LocalAddr().String()] = true
		}
		return conn, err
	}
	for range 3 {
		if res, body := w.ask(c, "GET", "/v1/orders", nil); res.StatusCode != 200 {
			t.Fatalf("%d %s", res.StatusCode, body)
		}
		w.apply(w.usual(plaintext(up.address())) + w.route("more", "more.example", plaintext(up.address())))
	}
	if got := w.address("edge/public"); got != address || len(conns) != 1 || up.conns.Load() != 1 {
		t.Errorf("address %s, was %s; %d connections here, %d there", got, address, len(conns), up.conns.Load())
	}
}

// A listener that asks for more than before does not go on with those who
// never gave it.
func TestListenerIsTightened(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	spec := func(clients string) string {
		return listen("public", "127.0.0.1:0", "certificates: ["+w.files("edge")+"], clientCertificates: "+clients) +
			w.login() + w.route("orders", host, plaintext(up.address()))
	}
	w.apply(spec("OPTIONAL"))
	address := w.address("edge/public")
	for _, http2 := range []bool{false, true} {
		w.apply(spec("OPTIONAL"))
		c := w.client(http2, w.tls(host))
		if res, body := w.ask(c, "GET", "/v1/orders", nil); res.StatusCode != 200 {
			t.Fatalf("%d %s", res.StatusCode, body)
		}
		w.apply(spec("REQUIRED"))
		until(t, "the old connection is closed", func() bool {
			r := w.request(t.Context(), "GET", nil)
			res, err := c.Do(r)
			if err != nil {
				return true
			}
			_ = w.read(res)
			return false
		})
	}
	if got := w.address("edge/public"); got != address {
		t.Errorf("address %s, was %s", got, address)
	}
}

// Requests that are under way when their listener goes may end.
func TestDrain(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		w := newWorld(t, options{drain: 20 * time.Second})
		came, release := make(chan struct{}), make(chan struct{})
		up := newEcho(t)
		up.answerWith(func(rw http.ResponseWriter, _ *http.Request) {
			close(came)
			<-release
			_, _ = io.WriteString(rw, "in the end")
		})
		w.apply(w.usual(plaintext(up.address())))
		address := w.address("edge/public")
		c := w.client(http2, w.tls(host))
		answer := make(chan string)
		go func() {
			_, body := w.ask(c, "GET", "/v1/orders", nil)
			answer <- body
		}()
		<-came
		w.apply(w.login() + w.route("orders", host, plaintext(up.address())))
		if len(w.gateway.Listeners()) != 0 {
			t.Errorf("listeners are %+v", w.gateway.Listeners())
		}
		if conn, err := net.Dial("tcp", address); err == nil {
			_ = conn.Close()
			t.Error("the socket is open when Apply has returned")
		}
		close(release)
		if got := <-answer; got != "in the end" {
			t.Errorf("HTTP/2 %t: got %q", http2, got)
		}
		until(t, "the connection is closed", func() bool {
			_, err := c.Do(w.request(t.Context(), "GET", nil))
			return err != nil
		})
		w.stop()
	}
}

// The end does not wait for ever.
func TestDrainIsBounded(t *testing.T) {
	w := newWorld(t, options{drain: 50 * time.Millisecond})
	up := newEcho(t)
	up.answerWith(func(rw http.ResponseWriter, r *http.Request) {
		flush(rw)
		<-r.Context().Done()
	})
	w.apply(w.usual(plaintext(up.address())))
	res, err := w.client(true, w.tls(host)).Do(w.request(t.Context(), "GET", nil))
	w.must(err)
	defer res.Body.Close()
	w.stop()
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("an answer that was cut off seems to be whole")
	}
}
