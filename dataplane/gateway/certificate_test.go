package gateway_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ca is an authority for client certificates that has nothing to do with SPIFFE.
type ca struct {
	w    *world
	name string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (w *world) ca(name string) *ca {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	w.must(err)
	cert, err := x509.ParseCertificate(der)
	w.must(err)
	a := &ca{w, name, cert, key}
	a.write(".pem", a.pem())
	return a
}

func (a *ca) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a *ca) file(ending string) string { return filepath.Join(a.w.dir, a.name+ending) }

// write replaces a file at once, as those do who mean it.
func (a *ca) write(ending string, text []byte) {
	a.w.t.Helper()
	a.w.must(os.WriteFile(a.file(".new"), text, 0o600))
	a.w.must(os.Rename(a.file(".new"), a.file(ending)))
}

// revoke writes a list of serial numbers that is good for a time.
func (a *ca) revoke(good time.Duration, serials ...int64) {
	a.w.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(good)}
	for _, n := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(n), RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	a.w.must(err)
	a.write(".crl", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

// leaf signs what spoil makes of a client's certificate of serial number 7.
func (a *ca) leaf(spoil func(*x509.Certificate)) tls.Certificate {
	a.w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a.w.must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "pos-7"}, DNSNames: []string{"pos-7.shops.example"},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(30 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if spoil != nil {
		spoil(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	a.w.must(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// provider is an IdentityProvider shop/NAME.
func (a *ca) provider(more string) string {
	return fmt.Sprintf(`
---
apiVersion: sallyport/v1
kind: IdentityProvider
metadata: {namespace: shop, name: %s}
spec: {issuer: "https://pki.example/%s", x509: {%s}}
`, a.name, a.name, more)
}

// presents is an HTTP client with a certificate, whatever servers ask for.
func (w *world) presents(http2 bool, cert tls.Certificate) *http.Client {
	cfg := w.tls(host)
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	return w.client(http2, cfg)
}

// tried returns the reason of the denial, "handshake" when there was none, or
// "" for what is let through.
func (w *world) tried(c *http.Client) string {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), "GET", "https://"+host+"/v1/orders", nil)
	w.must(err)
	res, err := c.Do(r)
	if err != nil {
		return "handshake"
	}
	body := w.read(res)
	if res.StatusCode == http.StatusOK {
		return ""
	}
	return w.problem(body).Reason
}

const posOnly = "principals: [{subject: pos-7.shops.example, identityProvider: pos}]"

// posShop takes certificates of the authority pos, for one of its terminals.
func (w *world) posShop(up *echo, authentication, provider string) string {
	spec := taking(w.usual(plaintext(up.address())), authentication) + provider
	return strings.Replace(spec, `principals: [{group: shop}, {spiffe: "spiffe://prod.example/ns/shop/*"}]`, posOnly, 1)
}

func uris(texts ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		for _, text := range texts {
			u, err := url.Parse(text)
			if err != nil {
				panic(err)
			}
			c.URIs = append(c.URIs, u)
		}
	}
}

// Each trick with a certificate fails beside its nearest valid sibling, with its
// own reason.
func TestClientCertificates(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	pos, stranger := w.ca("pos"), w.ca("stranger")
	w.apply(w.posShop(up, "identityProviders: [pos]", pos.provider(`caFile: "`+pos.file(".pem")+`", subject: SAN_DNS, names: ["*.shops.example"]`)+
		stranger.provider(`caFile: "`+stranger.file(".pem")+`", subject: SAN_DNS`)))
	web, err := w.issuer.Issue("spiffe://prod.example/ns/shop/web", time.Hour)
	w.must(err)
	now := time.Now()
	for name, c := range map[string]struct {
		cert tls.Certificate
		want string
	}{
		"as it should be":                  {pos.leaf(nil), ""},
		"another name that is not taken":   {pos.leaf(func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "pos.else.example") }), ""},
		"another URI":                      {pos.leaf(uris("https://shops.example/7")), ""},
		"its name in upper case":           {pos.leaf(func(c *x509.Certificate) { c.DNSNames = []string{"POS-7.shops.example"} }), ""},
		"of another terminal":              {pos.leaf(func(c *x509.Certificate) { c.DNSNames = []string{"pos-8.shops.example"} }), "no_matching_policy"},
		"two names that are taken":         {pos.leaf(func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "pos-8.shops.example") }), "certificate_name"},
		"none":                             {pos.leaf(func(c *x509.Certificate) { c.DNSNames = nil }), "certificate_name"},
		"its name as common name":          {pos.leaf(func(c *x509.Certificate) { c.DNSNames, c.Subject.CommonName = nil, "pos-7.shops.example" }), "certificate_name"},
		"a wildcard":                       {pos.leaf(func(c *x509.Certificate) { c.DNSNames = []string{"*.shops.example"} }), "certificate_name"},
		"a label too many":                 {pos.leaf(func(c *x509.Certificate) { c.DNSNames = []string{"pos-7.eu.shops.example"} }), "certificate_name"},
		"of an authority of other routes":  {stranger.leaf(nil), "certificate_untrusted"},
		"an SVID":                          {web, "certificate_untrusted"},
		"of nobody we know":                {w.ca("nobody").leaf(nil), "handshake"},
		"the authority's own":              {tls.Certificate{Certificate: [][]byte{pos.cert.Raw}, PrivateKey: pos.key}, "handshake"},
		"an authority's":                   {pos.leaf(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), "handshake"},
		"one that may sign others":         {pos.leaf(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }), "handshake"},
		"for servers":                      {pos.leaf(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), "handshake"},
		"for nothing in particular":        {pos.leaf(func(c *x509.Certificate) { c.ExtKeyUsage = nil }), "handshake"},
		"for anything":                     {pos.leaf(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }), "handshake"},
		"expired":                          {pos.leaf(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }), "handshake"},
		"not valid yet":                    {pos.leaf(func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) }), "handshake"},
		"with a SPIFFE ID":                 {pos.leaf(uris("spiffe://prod.example/ns/shop/web")), "handshake"},
		"with one in a second URI":         {pos.leaf(uris("https://shops.example/7", "spiffe://prod.example/ns/shop/web")), "handshake"},
		"with one of another trust domain": {pos.leaf(uris("spiffe://other.example/web")), "handshake"},
		"with an escape in one":            {pos.leaf(uris("spiffe://prod.example/ns%2fshop/web")), "handshake"},
		"with one in upper case":           {pos.leaf(uris("SPIFFE://PROD.example/ns/shop/web")), "handshake"},
		"with one that ends with a slash":  {pos.leaf(uris("spiffe://prod.example/ns/shop/web/")), "handshake"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, http2 := range []bool{false, true} {
				before := up.requests.Load()
				client := w.presents(http2, c.cert)
				for range 2 { // verified, then remembered
					if got := w.tried(client); got != c.want {
						t.Errorf("HTTP/2 %t: got %q, want %q", http2, got, c.want)
					}
				}
				if seen := up.requests.Load() - before; (seen > 0) != (c.want == "") {
					t.Errorf("HTTP/2 %t: the upstream saw %d", http2, seen)
				}
			}
		})
	}
	if got := w.tried(w.client(false, w.tls(host))); got != "credentials_missing" {
		t.Errorf("without a certificate: %q", got)
	}
}

// A SPIFFE ID as common name is a text, and matches no pattern of SPIFFE IDs.
func TestSPIFFEIDAsCommonName(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	pos := w.ca("pos")
	w.apply(taking(w.usual(plaintext(up.address())), "identityProviders: [pos], clientCertificates: true") + pos.provider(`caFile: "`+pos.file(".pem")+`", subject: COMMON_NAME`))
	if got := w.tried(w.client(false, w.as(w.tls(host), "spiffe://prod.example/ns/shop/web"))); got != "" {
		t.Errorf("the SVID: %q", got)
	}
	fake := pos.leaf(func(c *x509.Certificate) { c.Subject.CommonName = "spiffe://prod.example/ns/shop/web" })
	if got := w.tried(w.presents(false, fake)); got != "certificate_name" {
		t.Errorf("the common name: %q", got)
	}
	if got := w.tried(w.presents(false, pos.leaf(nil))); got != "no_matching_policy" {
		t.Errorf("another common name: %q", got)
	}
}

// What is on the list does not get in, over connections that are open either;
// without a list that can be relied on nobody does.
func TestRevocationLists(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	pos := w.ca("pos")
	provider := pos.provider(`caFile: "` + pos.file(".pem") + `", crlFile: "` + pos.file(".crl") + `", subject: SAN_DNS`)
	w.apply(w.posShop(up, "identityProviders: [pos]", provider))
	c := w.presents(true, pos.leaf(nil))
	becomes := func(what, want string) {
		t.Helper()
		var got string
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); <-time.After(5 * time.Millisecond) {
			if got = w.tried(c); got == want {
				return
			}
		}
		t.Fatalf("%s: %q, want %q", what, got, want)
	}
	becomes("no list", "crl_unavailable")
	pos.revoke(20*time.Minute, 5, 6, 8)
	becomes("others are revoked", "")
	pos.revoke(20*time.Minute, 5, 7)
	becomes("it is revoked", "certificate_revoked")
	pos.revoke(20 * time.Minute)
	becomes("it is not any more", "")
	pos.write(".crl", []byte("rubbish"))
	becomes("rubbish", "crl_unavailable")
	w.ca("pos-2").revoke(20 * time.Minute)
	foreign, err := os.ReadFile(filepath.Join(w.dir, "pos-2.crl"))
	w.must(err)
	pos.write(".crl", foreign)
	becomes("the list of another issuer", "crl_unavailable")
	pos.revoke(20 * time.Minute)
	own, err := os.ReadFile(pos.file(".crl"))
	w.must(err)
	pos.write(".crl", bytes.Join([][]byte{foreign, own}, nil))
	becomes("both lists", "")
	w.must(os.Remove(pos.file(".crl")))
	becomes("the file is gone", "crl_unavailable")
	pos.revoke(10 * time.Minute)
	becomes("it is back", "")
	w.set(func() { w.ahead = 11 * time.Minute })
	if got := w.tried(c); got != "crl_unavailable" {
		t.Errorf("a stale list: %q", got)
	}
	w.set(func() { w.ahead = 31 * time.Minute })
	if got := w.tried(c); got != "certificate_expired" {
		t.Errorf("expired on an open connection: %q", got)
	}
}

// Authorities are renewed in their file; one that cannot be read leaves those of
// before. A listener tells clients which there are, and no session is resumed.
func TestAuthoritiesAreRenewed(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	pos, next := w.ca("pos"), w.ca("next")
	w.apply(w.posShop(up, "identityProviders: [pos]", pos.provider(`caFile: "`+pos.file(".pem")+`", subject: SAN_DNS`)))
	old, renewed := pos.leaf(nil), next.leaf(nil)
	if got := w.tried(w.presents(false, renewed)); got != "handshake" {
		t.Errorf("before: %q", got)
	}
	pos.write(".pem", append(pos.pem(), next.pem()...))
	open := w.presents(true, old)
	until(t, "both authorities", func() bool { return w.tried(open) == "" && w.tried(w.presents(false, renewed)) == "" })
	pos.write(".pem", next.pem())
	until(t, "the old one is gone, over open connections too", func() bool { return w.tried(open) == "certificate_untrusted" })
	pos.write(".pem", []byte("torn"))
	if got := w.tried(w.presents(false, renewed)); got != "" {
		t.Errorf("with a torn file: %q", got)
	}
	cfg := w.tls(host)
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	cfg.GetClientCertificate = func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &renewed, r.SupportsCertificate(&renewed)
	}
	for range 2 {
		state, err := handshake(t, w.address("edge/public"), cfg)
		if err != nil || state.DidResume {
			t.Errorf("%v, resumed %t", err, state.DidResume)
		}
	}
}

// Inline authorities need no file, and all of them can be asked for with a token.
func TestInlineAuthorityBesideToken(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	pos := w.ca("pos")
	spec := w.usual(plaintext(up.address())) + pos.provider(fmt.Sprintf("ca: %q, subject: SAN_DNS", pos.pem()))
	w.apply(taking(spec, "identityProviders: [login, pos], require: ALL"))
	both := w.presents(true, pos.leaf(nil))
	if res, body := w.ask(both, "GET", "/v1/orders", nil); res.StatusCode != 200 {
		t.Errorf("both: %d %s", res.StatusCode, body)
	}
	if got := w.tried(both); got != "credentials_missing" {
		t.Errorf("the certificate alone: %q", got)
	}
	res, body := w.ask(w.client(false, w.tls(host)), "GET", "/v1/orders", nil)
	if res.StatusCode != 401 || w.problem(body).Reason != "credentials_missing" {
		t.Errorf("the token alone: %d %s", res.StatusCode, body)
	}
}

// A certificate that is wanted beside a token is somebody by itself: policies name
// it, and revocations cut it off, whoever has the token.
func TestCertificateBesideToken(t *testing.T) {
	w := newWorld(t, options{})
	pos := w.ca("pos")
	w.apply(w.posShop(newEcho(t), "identityProviders: [login, pos], require: ALL", pos.provider(fmt.Sprintf("ca: %q, subject: SAN_DNS", pos.pem()))))
	ask := func(name string) string {
		w.t.Helper()
		client := w.presents(true, pos.leaf(func(c *x509.Certificate) { c.DNSNames = []string{name} }))
		res, body := w.ask(client, "GET", "/v1/orders", nil)
		if res.StatusCode == http.StatusOK {
			return ""
		}
		return w.problem(body).Reason
	}
	check := func(name, want string) {
		w.t.Helper()
		if got := ask(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	check("pos-7.shops.example", "")
	check("pos-8.shops.example", "no_matching_policy")
	w.revoke(`subject: {issuer: "https://pki.example/pos", id: pos-8.shops.example}`)
	check("pos-7.shops.example", "")
	check("pos-8.shops.example", "revoked")
	w.revoke(`subject: {issuer: "https://pki.example/pos", id: pos-7.shops.example}`)
	check("pos-7.shops.example", "revoked")
	w.revoke(`subject: {issuer: "https://login.example", id: alice}`)
	check("pos-7.shops.example", "revoked")
	w.revoke()
	check("pos-7.shops.example", "")
}
