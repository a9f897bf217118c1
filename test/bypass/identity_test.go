package bypass_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/identity"
)

const (
	partner = identity.TrustDomain("partner.example")
	billing = "spiffe://partner.example/ns/shop/billing"
)

// authority is one of another trust domain, that signs whatever it is asked.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, key: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "partner"}, URIs: uris("spiffe://partner.example"),
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key))
	a.cert = must(x509.ParseCertificate(der))
	return a
}

func uris(texts ...string) (all []*url.URL) {
	for _, text := range texts {
		all = append(all, must(url.Parse(text)))
	}
	return all
}

// leaf makes an X.509-SVID of billing, with changes.
func (a *authority) leaf(change func(*x509.Certificate)) *tls.Certificate {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), URIs: uris(billing),
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if change != nil {
		change(template)
	}
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func named(texts ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.URIs = uris(texts...) }
}

// federate has the proxies trust a partner's authority.
func (w *world) partner(t *testing.T) *authority {
	t.Helper()
	a := newAuthority(t)
	if err := w.Federate(partner, a.cert); err != nil {
		t.Fatal(err)
	}
	honest := request{path: "/workload/7", client: a.leaf(nil)}
	for end := time.Now().Add(10 * time.Second); w.outcome(t, honest) != "200"; {
		if time.Now().After(end) {
			t.Fatal("the partner is not trusted")
		}
	}
	return a
}

// certificates are tricks with who a client certificate says it is.
func (w *world) certificates(t *testing.T) []trick {
	a, stranger := w.partner(t), newAuthority(t)
	good := request{path: "/workload/7", client: a.leaf(nil)}
	shows := func(name, want string, change func(*x509.Certificate)) trick {
		return trick{name, request{path: "/workload/7", client: a.leaf(change)}, want, good}
	}
	const refused = "no connection"
	return []trick{
		{"none", request{path: "/workload/7"}, "401 credentials_missing", good},
		{"of an authority that nobody trusts", request{path: "/workload/7", client: stranger.leaf(nil)}, refused, good},
		{"in a header", request{path: "/workload/7", header: []string{"X-Forwarded-Client-Cert: URI=" + billing, "Client-Cert: :" + b64(a.cert.Raw) + ":"}}, "401 credentials_missing", good},
		shows("the ID in a second URI", refused, named("https://partner.example", billing)),
		shows("two IDs", refused, named("spiffe://partner.example/ns/shop/web", billing)),
		shows("the ID in the common name", refused, func(c *x509.Certificate) { c.URIs, c.Subject.CommonName = nil, billing }),
		shows("the ID as a DNS name", refused, func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"partner.example"} }),
		shows("an ID of the fleet's own trust domain", refused, named("spiffe://demo.example/ns/shop/billing")),
		shows("an ID of a trust domain that nobody knows", refused, named("spiffe://other.example/ns/shop/billing")),
		shows("an ID with a percent-encoded letter", refused, named("spiffe://partner.example/ns/shop/%62illing")),
		shows("an ID with an encoded slash", refused, named("spiffe://partner.example/ns/shop%2fbilling")),
		shows("an ID in upper case", "403 no_matching_policy", named("spiffe://partner.example/ns/shop/BILLING")),
		shows("a trust domain in upper case", refused, named("spiffe://PARTNER.example/ns/shop/billing")),
		shows("an ID with a trailing slash", refused, named(billing+"/")),
		shows("an ID with dot segments", refused, named("spiffe://partner.example/ns/shop/x/../billing")),
		shows("an ID with a query", refused, named(billing+"?x")),
		shows("an ID with a port", refused, named("spiffe://partner.example:443/ns/shop/billing")),
		shows("an ID that goes on", "403 no_matching_policy", named(billing+"2")),
		shows("expired", refused, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }),
		shows("not yet valid", refused, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }),
		shows("an authority as a leaf", refused, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }),
		shows("a leaf that may sign certificates", refused, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }),
		shows("a leaf that may not sign", refused, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }),
	}
}

// both are tricks where a token and a certificate are needed.
func (w *world) both(t *testing.T) []trick {
	token := "Authorization: Bearer " + w.idp.token(nil)
	certificate := w.partner(t).leaf(nil)
	good := request{path: "/both/7", header: []string{token}, client: certificate}
	return []trick{
		{"the token alone", request{path: "/both/7", header: []string{token}}, "401 credentials_missing", good},
		{"the certificate alone", request{path: "/both/7", client: certificate}, "401 credentials_missing", good},
		{
			"a bad token, made good by the certificate",
			request{path: "/both/7", header: []string{"Authorization: Bearer " + w.idp.token(object{"aud": "billing"})}, client: certificate},
			"401 token_wrong_audience", good,
		},
	}
}

// What only a gateway may say of who is calling never reaches an API, however
// it is spelt.
func (w *world) identityHeaders(t *testing.T) {
	token := "Authorization: Bearer " + w.idp.token(nil)
	fields := []string{"X-User", "X-Forwarded-User", "X-Forwarded-Client-Cert", "X-Auth-Request-Email", "X-Remote-User", "Remote-User",
		"Sallyport-Subject", "X-Sallyport-Subject", "X-Pomerium-Jwt-Assertion", "X-Goog-Iap-Jwt-Assertion", "X-Amzn-Oidc-Identity", "X-Envoy-External-Address", "X-Original-Url", "X-Spiffe-Id"}
	spellings := []func(string) string{
		func(s string) string { return s },
		strings.ToLower,
		strings.ToUpper,
		func(s string) string { return strings.ReplaceAll(s, "-", "_") },
		func(s string) string { return strings.Replace(s, "-", "_", 1) },
		func(s string) string { return s + ": a\r\n" + s }, // twice
		func(s string) string { return "Connection: keep-alive, " + s + "\r\n" + s },
		func(s string) string { return "X-Harmless: b\r\n" + s },
	}
	tried := 0
	for _, field := range fields {
		for _, spell := range spellings {
			tried++
			r := request{path: "/token/7", header: []string{token, spell(field) + ": forged-identity", "X-Kept: kept"}}
			a, err := w.exchange(t, r)
			if err != nil || a.status != 200 {
				t.Errorf("%q: %d %s, %v", spell(field), a.status, a.body, err)
				continue
			}
			var arrived map[string][]string
			if err := json.Unmarshal(a.body, &arrived); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(a.body), "forged-identity") {
				t.Errorf("%q reached the API: %s", spell(field), a.body)
			}
			if !slices.Equal(arrived["X-Kept"], []string{"kept"}) {
				t.Errorf("%q: what is the client's own was lost: %s", spell(field), a.body)
			}
		}
	}
	t.Logf("%d spellings of identity headers removed", tried)
}

// Each request of a connection is authenticated by itself.
func (w *world) oneConnection(t *testing.T) {
	conn, err := w.dial(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for i, c := range []struct {
		sends request
		want  int
	}{
		{bearer(w.idp.token(nil)), 200},
		{request{path: "/token/7"}, 401},
		{bearer(w.other.token(object{"sub": "bob"})), 200},
		{bearer(w.other.token(object{"sub": "alice"})), 403},
		{bearer(w.idp.token(object{"exp": 1})), 401},
		{bearer(w.idp.token(nil)), 200},
	} {
		a, err := w.send(conn, c.sends)
		if err != nil || a.status != c.want {
			t.Fatalf("request %d: %d %s, %v; want %d", i, a.status, a.body, err, c.want)
		}
	}
}

// A session that was made with a certificate is not resumed: what is wrong with
// the certificate by then would not be noticed.
func (w *world) resumption(t *testing.T) {
	a := w.partner(t)
	cache := tls.NewLRUClientSessionCache(8)
	certificate := a.leaf(nil)
	for range 2 {
		conn, err := w.dialWith(t, certificate, func(c *tls.Config) { c.ClientSessionCache = cache })
		if err != nil {
			t.Fatal(err)
		}
		answer, err := w.send(conn, request{path: "/workload/7"})
		if err != nil || answer.status != 200 {
			t.Fatalf("%d %s, %v", answer.status, answer.body, err)
		}
		if conn.ConnectionState().DidResume {
			t.Error("a session was resumed")
		}
		_ = conn.Close()
	}
}
