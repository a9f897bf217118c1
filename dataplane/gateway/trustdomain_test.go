package gateway_test

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
)

// partner is the authority of another trust domain.
func (w *world) partner(td identity.TrustDomain) *issuer.Issuer {
	w.t.Helper()
	i, err := issuer.New(issuer.Config{DevelopmentOnly: true, TrustDomain: td, Log: quiet()})
	w.must(err)
	return i
}

func trustDomain(name, td, source string) string {
	return fmt.Sprintf(`
---
apiVersion: sallyport/v1
kind: TrustDomain
metadata: {name: %s}
spec: {trustDomain: %s, %s}
`, name, td, source)
}

// from is an HTTP client with an SVID of an issuer.
func (w *world) from(i *issuer.Issuer, id identity.ID) *http.Client {
	w.t.Helper()
	cert, err := i.Issue(id, time.Hour)
	w.must(err)
	return w.presents(true, cert)
}

// Workloads of a trust domain get in while its bundle is there, and no longer,
// over open connections either; nobody speaks for a domain but its own bundle.
func TestTrustDomains(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	const web identity.ID = "spiffe://partner.example/web"
	partner, impostor := w.partner("partner.example"), w.partner("partner.example")
	third := w.partner("third.example")
	usual := strings.Replace(w.usual(plaintext(up.address())), `{spiffe: "spiffe://prod.example/ns/shop/*"}`,
		`{spiffe: "spiffe://prod.example/ns/shop/*"}, {spiffe: "spiffe://partner.example/**"}`, 1)
	inline := trustDomain("partner", "partner.example", fmt.Sprintf("bundle: %q", partner.BundlePEM()))

	w.apply(usual)
	if got := w.tried(w.from(partner, web)); got != "handshake" {
		t.Errorf("before: %q", got)
	}
	w.apply(usual + inline)
	open := w.from(partner, web)
	for name, c := range map[string]struct {
		client *http.Client
		want   string
	}{
		"of the trust domain":            {open, ""},
		"ours":                           {w.client(true, w.as(w.tls(host), "spiffe://prod.example/ns/shop/web")), ""},
		"of another authority":           {w.from(impostor, web), "handshake"},
		"of a domain that is not listed": {w.from(third, "spiffe://third.example/web"), "handshake"},
	} {
		if got := w.tried(c.client); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	w.apply(usual)
	if got := w.tried(open); got != "certificate_untrusted" {
		t.Errorf("over the open connection, after: %q", got)
	}
	if got := w.tried(w.from(partner, web)); got != "handshake" {
		t.Errorf("after: %q", got)
	}
	// A bundle that claims to be of our own trust domain makes nobody one of us.
	ours := w.partner("prod.example")
	w.apply(usual + trustDomain("ours", "prod.example", fmt.Sprintf("bundle: %q", ours.BundlePEM())))
	if got := w.tried(w.from(ours, "spiffe://prod.example/ns/shop/web")); got != "handshake" {
		t.Errorf("a forged bundle of ours: %q", got)
	}
}

// A file is read again when it changes; a torn one leaves the bundle of before.
func TestTrustDomainFile(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	partner, renewed := w.partner("partner.example"), w.partner("partner.example")
	file := filepath.Join(w.dir, "partner.bundle")
	spec := strings.Replace(w.usual(plaintext(up.address())), "spiffe://prod.example/ns/shop/*", "spiffe://partner.example/**", 1) +
		trustDomain("partner", "partner.example", fmt.Sprintf("bundleFile: %q", file))
	w.apply(spec)
	if got := w.tried(w.from(partner, "spiffe://partner.example/web")); got != "handshake" {
		t.Errorf("without the file: %q", got)
	}
	w.must(os.WriteFile(file, partner.BundlePEM(), 0o600))
	until(t, "the bundle", func() bool { return w.tried(w.from(partner, "spiffe://partner.example/web")) == "" })
	w.must(os.WriteFile(file, []byte("{"), 0o600))
	if got := w.tried(w.from(partner, "spiffe://partner.example/web")); got != "" {
		t.Errorf("with a torn file: %q", got)
	}
	w.must(os.WriteFile(file, renewed.BundlePEM(), 0o600))
	until(t, "the renewed bundle", func() bool {
		return w.tried(w.from(renewed, "spiffe://partner.example/web")) == "" && w.tried(w.from(partner, "spiffe://partner.example/web")) == "handshake"
	})
}

// An upstream of another trust domain is known by its own bundle.
func TestUpstreamOfATrustDomain(t *testing.T) {
	w := newWorld(t, options{})
	partner := w.partner("partner.example")
	cert, err := partner.Issue("spiffe://partner.example/orders", time.Hour)
	w.must(err)
	up := newEchoTLS(t, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	spec := w.listener() + w.login() + w.route("orders", host, fmt.Sprintf(`spiffe: {peerIds: ["spiffe://partner.example/orders"]}, endpoints: [%q]`, up.address()))
	ask := func() (int, string) {
		res, body := w.ask(w.client(true, w.tls(host)), "GET", "/v1/orders", nil)
		if res.StatusCode != 200 {
			return res.StatusCode, w.problem(body).Reason
		}
		return 200, ""
	}
	w.apply(spec)
	if status, reason := ask(); status != 502 || reason != "upstream_unverified" {
		t.Errorf("before: %d %s", status, reason)
	}
	w.apply(spec + trustDomain("partner", "partner.example", fmt.Sprintf("bundle: %q", partner.BundlePEM())))
	if status, reason := ask(); status != 200 {
		t.Errorf("with the bundle: %d %s", status, reason)
	}
}

// A trust domain whose bundle is fetched: by the endpoint's SPIFFE ID and by its
// certificate for a host. Workloads get in by certificate and by JWT-SVID, those of
// others do not, and nobody before the bundle is here.
func TestTrustDomainEndpoint(t *testing.T) {
	const web identity.ID = "spiffe://partner.example/web"
	for name, c := range map[string]struct {
		cert    func(*issuer.Issuer) (tls.Certificate, error)
		profile func(*issuer.Issuer) string
	}{
		"https_spiffe": {
			func(i *issuer.Issuer) (tls.Certificate, error) {
				return i.Issue("spiffe://partner.example/spire/server", time.Hour)
			},
			func(i *issuer.Issuer) string {
				return fmt.Sprintf("spiffe: {endpointSpiffeId: spiffe://partner.example/spire/server, bootstrap: %q}", i.BundlePEM())
			},
		},
		"https_web": {
			func(i *issuer.Issuer) (tls.Certificate, error) {
				return i.IssueServerCertificate([]string{"127.0.0.1"}, time.Hour)
			},
			func(*issuer.Issuer) string { return "web: {}" },
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, options{})
			up := newEcho(t)
			partner, impostor, third := w.partner("partner.example"), w.partner("partner.example"), w.partner("third.example")
			w.roots.AppendCertsFromPEM(partner.ServerCAPEM())
			cert, err := c.cert(partner)
			w.must(err)
			proceed := make(chan struct{})
			url := w.publishes(cert, partner, proceed)
			w.apply(strings.Replace(taking(w.usual(plaintext(up.address())), "jwtSvids: {audiences: [orders]}, clientCertificates: true"),
				"spiffe://prod.example/ns/shop/*", "spiffe://partner.example/**", 1) +
				trustDomain("partner", "partner.example", fmt.Sprintf("bundleEndpoint: {url: %q, allowPrivateAddresses: true, %s}", url, c.profile(partner))))
			plain := w.client(true, w.tls(host))
			token := func(i *issuer.Issuer, id identity.ID) string {
				_, got := w.sent(plain, http.Header{"Authorization": {"Bearer " + w.svid(i, id, 0, "orders")}})
				return got
			}
			until(t, "the keys of the Workload API", func() bool { return token(partner, web) == "token_wrong_issuer" })
			if got := w.tried(w.from(partner, web)); got != "handshake" {
				t.Errorf("before it was fetched: %q", got)
			}
			close(proceed)
			until(t, "the bundle", func() bool { return w.tried(w.from(partner, web)) == "" })
			if got := token(partner, web); !strings.HasPrefix(got, "GET ") {
				t.Errorf("by JWT-SVID: %q", got)
			}
			for what, tc := range map[string]struct{ got, want string }{
				"another authority":                {w.tried(w.from(impostor, web)), "handshake"},
				"another domain":                   {w.tried(w.from(third, "spiffe://third.example/web")), "handshake"},
				"by JWT-SVID, of another's key":    {token(impostor, web), "token_unknown_key"},
				"by JWT-SVID, of another's domain": {token(third, "spiffe://third.example/web"), "token_wrong_issuer"},
			} {
				if tc.got != tc.want {
					t.Errorf("%s: %q, want %q", what, tc.got, tc.want)
				}
			}
		})
	}
}

// publishes is the URL of a bundle endpoint that says who of is can be known by,
// once it may.
func (w *world) publishes(cert tls.Certificate, is *issuer.Issuer, proceed <-chan struct{}) string {
	w.t.Helper()
	block, _ := pem.Decode(is.BundlePEM())
	authority := fmt.Sprintf(`{"keys":[{"use":"x509-svid","kty":"EC",%s,"x5c":[%q]},`, point(w.t, block.Bytes), base64.StdEncoding.EncodeToString(block.Bytes))
	document := strings.Replace(string(is.JWTBundle()), `{"keys":[`, authority, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		<-proceed
		_, _ = rw.Write([]byte(document)) // the proxy is gone
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
	server.StartTLS()
	w.t.Cleanup(server.Close)
	return server.URL
}

// point is the public key of a certificate, as a JWK has it.
func point(t testing.TB, certificate []byte) string {
	t.Helper()
	c, err := x509.ParseCertificate(certificate)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := c.PublicKey.(*ecdsa.PublicKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf(`"crv":"P-256","x":%q,"y":%q`, b64(raw[1:33]), b64(raw[33:]))
}
