package gateway_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
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
