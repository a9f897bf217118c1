package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/identity"
)

// as presents cert and takes any server.
func as(cert tls.Certificate) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}}
}

func TestMutualTLS(t *testing.T) {
	is := newIssuer(t, domain, nil)
	server, client := identified(t, is, control), identified(t, is, proxy)
	stranger := identified(t, newIssuer(t, domain, nil), proxy) // same name, another authority
	strange, err := stranger.SVID()
	if err != nil {
		t.Fatal(err)
	}

	for name, c := range map[string]struct {
		server, client *tls.Config
		serverErr      error // ErrPeer or nil
		clientErr      error
	}{
		"the two that expect each other": {
			identity.ServerConfig(server, identity.Only(proxy)),
			identity.ClientConfig(client, identity.Only(control)), nil, nil,
		},
		"server refuses another ID": {
			identity.ServerConfig(server, identity.Only("spiffe://prod.example/sallyport/proxy/two")),
			identity.ClientConfig(client, identity.Only(control)), identity.ErrPeer, errAny,
		},
		"client refuses another ID": {
			identity.ServerConfig(server, identity.Only(proxy)),
			identity.ClientConfig(client, identity.Only("spiffe://prod.example/sallyport/other")), errAny, identity.ErrPeer,
		},
		"server without an authorizer": {
			identity.ServerConfig(server, nil),
			identity.ClientConfig(client, identity.Only(control)), identity.ErrPeer, errAny,
		},
		"client without an authorizer": {
			identity.ServerConfig(server, anyone),
			identity.ClientConfig(client, nil), errAny, identity.ErrPeer,
		},
		"client of another authority with the expected name": {
			identity.ServerConfig(server, anyone),
			as(*strange.Certificate), errAny, errAny,
		},
		"server of another authority with the expected name": {
			identity.ServerConfig(stranger, anyone),
			identity.ClientConfig(client, anyone), errAny, identity.ErrPeer,
		},
		"client without a certificate": {
			identity.ServerConfig(server, anyone),
			&tls.Config{InsecureSkipVerify: true}, errAny, errAny,
		},
		"client that knows TLS 1.2 only": {
			identity.ServerConfig(server, anyone),
			limit(identity.ClientConfig(client, anyone), tls.VersionTLS12), errAny, errAny,
		},
		"server that knows TLS 1.2 only": {
			limit(identity.ServerConfig(server, anyone), tls.VersionTLS12),
			identity.ClientConfig(client, anyone), errAny, errAny,
		},
	} {
		t.Run(name, func(t *testing.T) {
			out := connect(t, c.server, c.client)
			wantErr(t, "server", out.serverErr, c.serverErr)
			wantErr(t, "client", out.clientErr, c.clientErr)
			id, err := identity.PeerID(&out.server)
			if c.serverErr == nil && (id != proxy || err != nil) || c.serverErr != nil && err == nil {
				t.Errorf("PeerID = %q, %v", id, err)
			}
		})
	}
}

var errAny = errors.New("any error")

func wantErr(t *testing.T, side string, got, want error) {
	t.Helper()
	switch {
	case want == nil && got != nil, want != nil && got == nil:
		t.Errorf("%s: %v, want %v", side, got, want)
	case want != nil && !errors.Is(want, errAny) && !errors.Is(got, want):
		t.Errorf("%s: %v, want %v", side, got, want)
	}
}

func limit(cfg *tls.Config, version uint16) *tls.Config {
	cfg = cfg.Clone()
	cfg.MinVersion, cfg.MaxVersion = version, version
	if hook := cfg.GetConfigForClient; hook != nil {
		cfg.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			got, err := hook(h)
			got.MinVersion, got.MaxVersion = version, version
			return got, err
		}
	}
	return cfg
}

func TestNoIdentityNoHandshake(t *testing.T) {
	is := newIssuer(t, domain, nil)
	whole, empty := identified(t, is, proxy), source(t, socket(t), identity.Config{})

	if identity.ServerConfig(empty, anyone).ClientCAs == nil || identity.ListenerConfig(empty, nil).ClientCAs == nil {
		t.Error("without bundles the system's roots would vouch for clients")
	}
	out := connect(t, identity.ServerConfig(empty, anyone), identity.ClientConfig(whole, anyone))
	wantErr(t, "server without an SVID", out.serverErr, identity.ErrNoIdentity)

	out = connect(t, identity.ServerConfig(whole, anyone), identity.ClientConfig(empty, anyone))
	wantErr(t, "client without an SVID", out.clientErr, identity.ErrNoIdentity)

	// A server that asks for no certificate does not hide that we have none.
	cert, err := is.Issue(control, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	open := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
	out = connect(t, open, identity.ClientConfig(empty, anyone))
	wantErr(t, "client without an SVID", out.clientErr, identity.ErrNoIdentity)
}

// What a trusted authority signs is still no SVID when it breaks a rule, and an
// authority speaks for its own trust domain only.
func TestLeafRules(t *testing.T) {
	const web = "spiffe://other.example/web"
	is := newIssuer(t, domain, nil)
	src := identified(t, is, control)
	foreign := newRogue(t)
	if err := is.Federate("other.example", foreign.cert); err != nil {
		t.Fatal(err)
	}
	until(t, src, func() bool { return len(src.Bundles()) == 2 })

	for name, c := range map[string]struct {
		leaf tls.Certificate
		want identity.ID
	}{
		"faultless":        {foreign.leaf(t, nil, web), web},
		"other names kept": {foreign.leaf(t, func(c *x509.Certificate) { c.DNSNames = []string{"control.prod.example"} }, web), web},

		"two URI names":                {foreign.leaf(t, nil, web, "spiffe://other.example/db"), ""},
		"the same URI name twice":      {foreign.leaf(t, nil, web, web), ""},
		"a second URI that is no ID":   {foreign.leaf(t, nil, web, "https://other.example"), ""},
		"no URI name, an ID as CN":     {foreign.leaf(t, func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: web} }), ""},
		"no URI name, a DNS name":      {foreign.leaf(t, func(c *x509.Certificate) { c.DNSNames = []string{"web"} }), ""},
		"an ID without path":           {foreign.leaf(t, nil, "spiffe://other.example"), ""},
		"an ID with an escape":         {foreign.leaf(t, nil, "spiffe://other.example/a%2fb"), ""},
		"another scheme":               {foreign.leaf(t, nil, "https://other.example/web"), ""},
		"a name in our trust domain":   {foreign.leaf(t, nil, string(proxy)), ""},
		"a name in a third domain":     {foreign.leaf(t, nil, "spiffe://third.example/web"), ""},
		"a leaf that is an authority":  {foreign.leaf(t, authority, web), ""},
		"a leaf that may sign":         {foreign.leaf(t, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }, web), ""},
		"a leaf that may sign lists":   {foreign.leaf(t, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }, web), ""},
		"a leaf that may not sign":     {foreign.leaf(t, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }, web), ""},
		"expired":                      {foreign.leaf(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }, web), ""},
		"not valid yet":                {foreign.leaf(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Second) }, web), ""},
		"the authority's own":          {tls.Certificate{Certificate: [][]byte{foreign.cert.Raw}, PrivateKey: foreign.key}, ""},
		"signed by nobody we know":     {newRogue(t).leaf(t, nil, web), ""},
		"for servers' eyes only (EKU)": {foreign.leaf(t, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }, web), ""},
	} {
		t.Run(name, func(t *testing.T) {
			for side, cfg := range map[string]*tls.Config{
				"ServerConfig":   identity.ServerConfig(src, anyone),
				"ListenerConfig": identity.ListenerConfig(src, nil),
			} {
				out := connect(t, cfg, as(c.leaf))
				id, err := identity.PeerID(&out.server)
				if id != c.want || (err == nil) != (c.want != "") || (out.serverErr == nil) != (c.want != "") {
					t.Errorf("%s: PeerID = %q, %v; handshake: %v", side, id, err, out.serverErr)
				}
			}
		})
	}
	for name, leaf := range map[string]tls.Certificate{
		"two URI names":               foreign.leaf(t, nil, web, "spiffe://other.example/db"),
		"a name in our trust domain":  foreign.leaf(t, nil, string(proxy)),
		"a leaf that is an authority": foreign.leaf(t, authority, web),
		"expired":                     foreign.leaf(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }, web),
	} {
		out := connect(t, &tls.Config{Certificates: []tls.Certificate{leaf}}, identity.ClientConfig(src, anyone))
		wantErr(t, "server with "+name, out.clientErr, identity.ErrPeer)
	}
}

func authority(c *x509.Certificate) { c.IsCA = true }

// resuming is a client that resumes whatever a server lets it.
func resuming(src *identity.Source) *tls.Config {
	cfg := identity.ClientConfig(src, anyone)
	cfg.MinVersion = tls.VersionTLS12
	cfg.ServerName = "server"
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	return cfg
}

func TestSessionsAreNotResumed(t *testing.T) {
	is := newIssuer(t, domain, nil)
	server, client := identified(t, is, control), identified(t, is, proxy)
	for name, cfg := range map[string]*tls.Config{
		"ServerConfig":                 identity.ServerConfig(server, anyone),
		"ListenerConfig":               identity.ListenerConfig(server, nil),
		"ListenerConfig, TLS 1.2 only": limit(identity.ListenerConfig(server, nil), tls.VersionTLS12),
	} {
		t.Run(name, func(t *testing.T) {
			again := resuming(client)
			for range 2 {
				out := connect(t, cfg, again)
				wantErr(t, "server", out.serverErr, nil)
				if out.server.DidResume {
					t.Error("a session was resumed")
				}
			}
		})
	}
}

// A resumed session skips VerifyPeerCertificate, where go-spiffe authorizes. Even
// with tickets switched on behind our back it must not skip what we check.
func TestAuthorizationIsOfTheMoment(t *testing.T) {
	is := newIssuer(t, domain, nil)
	foreign := newRogue(t)
	server := identified(t, is, control)
	trust := func(n int, roots ...*x509.Certificate) {
		if err := is.Federate("other.example", roots...); err != nil {
			t.Fatal(err)
		}
		until(t, server, func() bool { return len(server.Bundles()) == n })
	}
	for name, tickets := range map[string]bool{"as we serve": false, "with tickets": true} {
		t.Run(name, func(t *testing.T) {
			trust(2, foreign.cert)
			var revoked atomic.Bool
			cfg := identity.ServerConfig(server, func(identity.ID) error {
				if revoked.Load() {
					return errors.New("revoked")
				}
				return nil
			})
			cfg.SessionTicketsDisabled = !tickets
			client := as(foreign.leaf(t, nil, "spiffe://other.example/web"))
			client.ServerName = "server"
			client.ClientSessionCache = tls.NewLRUClientSessionCache(1)

			wantErr(t, "first", connect(t, cfg, client).serverErr, nil)
			out := connect(t, cfg, client)
			if id, err := identity.PeerID(&out.server); id != "spiffe://other.example/web" || err != nil {
				t.Fatalf("second: PeerID = %q, %v", id, err)
			}
			if out.server.DidResume != tickets {
				t.Fatalf("resumed: %v; the test shows nothing", out.server.DidResume)
			}
			wantErr(t, "looked at again", identity.Recheck(server, &out.server, func(identity.ID) error { return nil }), nil)
			revoked.Store(true)
			wantErr(t, "revoked", connect(t, cfg, client).serverErr, identity.ErrPeer)
			revoked.Store(false)
			trust(1)
			wantErr(t, "no longer trusted", connect(t, cfg, client).serverErr, errAny)
			wantErr(t, "looked at again", identity.Recheck(server, &out.server, func(identity.ID) error { return nil }), identity.ErrPeer)
		})
	}
}

func TestListenerForStrangers(t *testing.T) {
	var c clock
	is := newIssuer(t, domain, nil)
	path := socket(t)
	stop := serve(t, is, control, path)
	src := source(t, path, identity.Config{Now: c.now})
	ready(t, src)
	web, err := is.IssueServerCertificate([]string{"localhost"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(is.ServerCAPEM())
	cfg := identity.ListenerConfig(src, func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &web, nil })
	caller, err := is.Issue(proxy, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}

	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			plain := &tls.Config{RootCAs: roots, MaxVersion: version}
			out := connect(t, cfg, plain)
			wantErr(t, "no certificate: server", out.serverErr, nil)
			wantErr(t, "no certificate: client", out.clientErr, nil)
			if out.server.Version != version {
				t.Errorf("spoke %s", tls.VersionName(out.server.Version))
			}
			if id, err := identity.PeerID(&out.server); id != "" || !errors.Is(err, identity.ErrNoCertificate) {
				t.Errorf("no certificate: PeerID = %q, %v", id, err)
			}

			known := plain.Clone()
			known.Certificates = []tls.Certificate{caller}
			out = connect(t, cfg, known)
			wantErr(t, "SVID", out.clientErr, nil)
			if id, err := identity.PeerID(&out.server); id != proxy || err != nil {
				t.Errorf("SVID: PeerID = %q, %v", id, err)
			}

			// Not left out by the client because we name our authorities to it.
			unknown := plain.Clone()
			stranger := newRogue(t).leaf(t, nil, string(proxy))
			unknown.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &stranger, nil }
			out = connect(t, cfg, unknown)
			wantErr(t, "unknown authority: server", out.serverErr, errAny)
			wantErr(t, "unknown authority: client", out.clientErr, errAny)
		})
	}
	for name, old := range map[string]*tls.Config{
		"TLS 1.1": {RootCAs: roots, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10},
		"CBC": {RootCAs: roots, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA,
		}},
	} {
		wantErr(t, name, connect(t, cfg, old).serverErr, errAny)
	}
	h2 := &tls.Config{RootCAs: roots, NextProtos: []string{"h2"}}
	if got := connect(t, cfg, h2).server.NegotiatedProtocol; got != "h2" {
		t.Errorf("agreed on %q, want HTTP/2", got)
	}

	// Our own SVID has expired: callers are verified all the same.
	stop()
	c.advance(2 * time.Hour)
	if src.Ready() {
		t.Fatal("the SVID did not expire; the test shows nothing")
	}
	web, err = is.IssueServerCertificate([]string{"localhost"}, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	out := connect(t, cfg, &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{caller}})
	if id, err := identity.PeerID(&out.server); id != proxy || err != nil {
		t.Errorf("after expiry: PeerID = %q, %v, handshake: %v", id, err, out.serverErr)
	}
}

// PeerID believes the handshake, so it must notice when there was none that verified.
func TestPeerIDWithoutProof(t *testing.T) {
	is := newIssuer(t, domain, nil)
	cert, err := is.Issue(proxy, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	other, err := is.Issue(control, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	peer := []*x509.Certificate{cert.Leaf}
	proven := func(leaf *x509.Certificate) *tls.ConnectionState {
		chain := []*x509.Certificate{leaf}
		return &tls.ConnectionState{
			HandshakeComplete: true, PeerCertificates: chain, VerifiedChains: [][]*x509.Certificate{chain},
		}
	}
	r := newRogue(t)
	for name, c := range map[string]struct {
		state *tls.ConnectionState
		want  error
	}{
		"no TLS":         {nil, identity.ErrNoCertificate},
		"no certificate": {&tls.ConnectionState{HandshakeComplete: true}, identity.ErrNoCertificate},
		"no chain":       {&tls.ConnectionState{HandshakeComplete: true, PeerCertificates: peer}, identity.ErrPeer},
		"empty chain": {&tls.ConnectionState{
			HandshakeComplete: true, PeerCertificates: peer, VerifiedChains: [][]*x509.Certificate{{}},
		}, identity.ErrPeer},
		"somebody else's chain": {&tls.ConnectionState{
			HandshakeComplete: true, PeerCertificates: peer, VerifiedChains: [][]*x509.Certificate{{other.Leaf}},
		}, identity.ErrPeer},
		"handshake not complete": {&tls.ConnectionState{
			PeerCertificates: peer, VerifiedChains: [][]*x509.Certificate{peer},
		}, identity.ErrPeer},
		"an authority": {proven(r.leaf(t, authority, string(proxy)).Leaf), identity.ErrPeer},
		"may sign": {proven(r.leaf(t, func(c *x509.Certificate) {
			c.KeyUsage |= x509.KeyUsageCertSign
		}, string(proxy)).Leaf), identity.ErrPeer},
		"not valid yet": {proven(r.leaf(t, func(c *x509.Certificate) {
			c.NotBefore = time.Now().Add(30 * time.Second)
		}, string(proxy)).Leaf), identity.ErrPeer},
		"two names": {proven(r.leaf(t, nil, string(proxy), string(control)).Leaf), identity.ErrPeer},
		"no path":   {proven(r.leaf(t, nil, "spiffe://prod.example").Leaf), identity.ErrPeer},
		"proof":     {proven(cert.Leaf), nil},
	} {
		id, err := identity.PeerID(c.state)
		if !errors.Is(err, c.want) || (c.want == nil) != (id == proxy) {
			t.Errorf("%s: PeerID = %q, %v", name, id, err)
		}
	}
}

// A connection that outlives its certificate has no name any more.
func TestPeerIDExpires(t *testing.T) {
	past := func() time.Time { return time.Now().Add(-2 * time.Hour) }
	path := socket(t)
	is := newIssuer(t, domain, past)
	serve(t, is, control, path)
	src := source(t, path, identity.Config{Now: past})
	ready(t, src)
	cert, err := is.Issue(proxy, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	out := connect(t, identity.ServerConfig(src, anyone), as(cert))
	wantErr(t, "the handshake, then", out.serverErr, nil)
	if id, err := identity.PeerID(&out.server); !errors.Is(err, identity.ErrPeer) {
		t.Errorf("PeerID, now = %q, %v", id, err)
	}
}
