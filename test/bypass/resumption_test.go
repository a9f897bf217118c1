package bypass_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/url"
	"testing"
)

// door is a listener of the first proxy, and a client of it that resumes TLS
// sessions where it is let.
type door struct {
	*world
	at      *url.URL
	version uint16
	client  *tls.Certificate
	tickets tls.ClientSessionCache
}

// open makes a connection, and says whether it was resumed.
func (d *door) open(t *testing.T) (conn *tls.Conn, resumed bool) {
	t.Helper()
	conn, err := d.dialAt(t, d.at, d.client, func(c *tls.Config) {
		c.MaxVersion, c.ClientSessionCache = d.version, d.tickets
	})
	if err != nil {
		return nil, false
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, conn.ConnectionState().DidResume
}

// over is the outcome of a request over a connection that is open.
func (d *door) over(t *testing.T, conn *tls.Conn, r request) string {
	t.Helper()
	if conn == nil {
		return "no connection"
	}
	a, err := d.send(conn, r)
	if err != nil {
		return "no connection"
	}
	return a.outcome(t)
}

// cut has somebody ask before and after they are revoked: over the connection that
// they have, over one that was made by the same session before that, and over one
// after. resumes says whether sessions are resumed here at all.
func (d *door) cut(t *testing.T, resumes bool, who, other request, revocation string) (tried int) {
	t.Helper()
	var conns []*tls.Conn
	opens := func() {
		t.Helper()
		conn, resumed := d.open(t)
		if want := resumes && len(conns) > 0; resumed != want {
			t.Fatalf("connection %d was resumed: %t, want %t", len(conns), resumed, want)
		}
		conns = append(conns, conn)
	}
	for range 2 {
		opens()
		if got := d.over(t, conns[len(conns)-1], who); got != "200" {
			t.Fatalf("before the revocation, connection %d: %s", len(conns)-1, got)
		}
	}
	d.revoke(t, revocation)
	opens()
	for i, when := range []string{"the first connection", "one by its session, before the revocation", "one by that session, after it"} {
		if got := d.over(t, conns[i], who); got != "401 revoked" {
			t.Errorf("%s, %s: %s, want 401 revoked", revocation, when, got)
		}
		if got := d.over(t, conns[i], other); got != "200" {
			t.Errorf("%s, %s, somebody else: %s", revocation, when, got)
		}
	}
	return len(conns)
}

// TLS sessions that were begun before a revocation take nobody past it. Where a
// certificate is asked for none is resumed; where none is, what is resumed says
// nothing of who is calling.
func (w *world) resumedAfterRevocation(t *testing.T) {
	bare, asking := w.url(request{}), w.url(request{})
	bare.Host, asking.Host = "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t)
	w.listens(t, "bare", bare, "")
	w.listens(t, "asking", asking, "clientCertificates: OPTIONAL")
	shops, svids := newAuthority(t), w.partner(t)
	w.apply(t, fmt.Sprintf(tillResources, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: shops.cert.Raw})))
	tried := 0
	for name, version := range map[string]uint16{"1-2": tls.VersionTLS12, "1-3": tls.VersionTLS13} {
		tickets := tls.NewLRUClientSessionCache(8)
		door := func(at *url.URL, client *tls.Certificate) *door { return &door{w, at, version, client, tickets} }
		one, other := bearer(w.idp.token(object{"jti": name})), bearer(w.idp.token(nil))
		till, dns := request{path: "/till/7"}, "till-"+name+".shops.example"
		id := "spiffe://partner.example/ns/shop/till-" + name
		svid := svids.leaf(named(id))
		shop := shops.leaf(func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{dns} })

		tried += door(bare, nil).cut(t, true, one, other, fmt.Sprintf("token: {issuer: %q, id: %q}", w.idp.issuer, name))
		tried += door(asking, svid).cut(t, false, till, other, fmt.Sprintf("spiffeId: %q", id))
		tried += door(asking, shop).cut(t, false, till, other, fmt.Sprintf("subject: {issuer: \"https://pki.example/shops\", id: %q}", dns))
	}
	t.Logf("%d tricks, each beside its honest sibling", tried)
}

// A session of a listener that asked for no certificate is none where one is asked
// for: neither at another listener, nor at the same one later.
func (w *world) resumedElsewhere(t *testing.T) {
	bare, asking := w.url(request{}), w.url(request{})
	bare.Host, asking.Host = "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t)
	w.listens(t, "plain", bare, "")
	w.listens(t, "strict", asking, "clientCertificates: REQUIRED")
	certificate, workload := w.partner(t).leaf(nil), request{path: "/workload/7"}
	versions := []uint16{tls.VersionTLS12, tls.VersionTLS13}
	var at []*door
	for _, version := range versions {
		d := &door{w, bare, version, nil, tls.NewLRUClientSessionCache(8)}
		for i := range 2 {
			conn, resumed := d.open(t)
			if got := d.over(t, conn, bearer(w.idp.token(nil))); got != "200" || resumed != (i > 0) {
				t.Fatalf("connection %d: %s, resumed %t", i, got, resumed)
			}
		}
		at = append(at, d)
	}
	tried := 0
	try := func(what string, d door) {
		t.Helper()
		tried++
		conn, resumed := d.open(t)
		if got := d.over(t, conn, bearer(w.idp.token(nil))); got != "no connection" || resumed {
			t.Errorf("%s: %s, resumed %t", what, got, resumed)
		}
		d.client = certificate
		conn, resumed = d.open(t)
		if got := d.over(t, conn, workload); got != "200" || resumed {
			t.Errorf("the honest sibling of %q: %s, resumed %t", what, got, resumed)
		}
	}
	for _, d := range at {
		try("at another listener", door{w, asking, d.version, nil, d.tickets})
	}
	w.listens(t, "plain", bare, "clientCertificates: REQUIRED")
	for _, d := range at {
		try("at the same one, which asks for a certificate now", *d)
	}
	t.Logf("%d tricks, each beside its honest sibling", tried)
}

func (w *world) listens(t *testing.T, name string, at *url.URL, more string) {
	t.Helper()
	w.apply(t, fmt.Sprintf(listenerResource, name, w.proxy.Environment, at.Host, w.Path("proxy-tls.pem"), w.Path("proxy-tls-key.pem"), more))
}

const listenerResource = `apiVersion: sallyport/v1
kind: Listener
metadata: {namespace: bypass, name: %[1]s}
spec:
  environments: [%[2]s]
  address: %[3]q
  tls:
    certificates: [{certificateFile: %[4]q, privateKeyFile: %[5]q}]
    minVersion: "1_2"
    %[6]s
`

const tillResources = `apiVersion: sallyport/v1
kind: IdentityProvider
metadata: {namespace: bypass, name: shops}
spec: {issuer: "https://pki.example/shops", x509: {ca: %[1]q, subject: SAN_DNS}}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: bypass, name: till}
spec:
  hosts: [localhost, 127.0.0.1]
  paths: [/till/**]
  upstream: echo
  authentication: {identityProviders: [shops], clientCertificates: true}
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: bypass, name: till}
spec:
  routes: {names: [till]}
  effect: ALLOW
  principals:
    - {spiffe: "spiffe://partner.example/ns/shop/*"}
    - {subject: till-1-2.shops.example, identityProvider: shops}
    - {subject: till-1-3.shops.example, identityProvider: shops}
`
