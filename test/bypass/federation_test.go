package bypass_test

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// What docs/identity.md says of partners' trust domains works, and for nobody
// else's. Only the address and the bundle to begin with are replaced.
func TestPartnersTrustDomain(t *testing.T) {
	w, a, stranger := newWorld(t), newAuthority(t), newAuthority(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(rw, a.bundle()) // the proxy is gone
	}))
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*a.leaf(named("spiffe://partner.example/spire/server"))}}
	server.StartTLS()
	t.Cleanup(server.Close)
	good := request{path: "/workload/7", client: a.leaf(nil)}
	if got := w.outcome(t, good); got != "no connection" {
		t.Errorf("before: %s", got)
	}
	w.apply(t, a.stands(t, section(t, "Partners' trust domains"), server.URL))
	for end := time.Now().Add(20 * time.Second); w.outcome(t, good) != "200"; {
		if time.Now().After(end) {
			t.Fatal("the partner is not trusted")
		}
	}
	for name, c := range map[string]*tls.Certificate{
		"another authority": stranger.leaf(nil),
		"another domain":    a.leaf(named("spiffe://third.example/ns/shop/billing")),
		"our own domain":    a.leaf(named("spiffe://demo.example/ns/shop/billing")),
	} {
		if got := w.outcome(t, request{path: "/workload/7", client: c}); got != "no connection" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// section returns the block of docs/identity.md below a heading.
func section(t *testing.T, heading string) string {
	t.Helper()
	text := must(os.ReadFile("../../docs/identity.md"))
	_, body, _ := strings.Cut(string(text), "\n## "+heading+"\n")
	m := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindStringSubmatch(body)
	if m == nil {
		t.Fatalf("no block below %q", heading)
	}
	return m[1]
}

// stands puts the authority, and where its bundle is, into a TrustDomain.
func (a *authority) stands(t *testing.T, text, url string) string {
	t.Helper()
	begin := strings.Index(text, "bootstrap: ")
	if begin < 0 || strings.Count(text, "https://spire.partner.example:8443/") != 1 {
		t.Fatalf("no place for a bundle in %s", text)
	}
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	return strings.Replace(text[:begin], "https://spire.partner.example:8443/", url, 1) + fmt.Sprintf("bootstrap: %q\n", root)
}

// bundle is the SPIFFE bundle of the authority.
func (a *authority) bundle() string {
	point := must(a.key.PublicKey.Bytes())
	return fmt.Sprintf(`{"keys":[{"use":"x509-svid","kty":"EC","crv":"P-256","x":%q,"y":%q,"x5c":[%q]}]}`,
		base64.RawURLEncoding.EncodeToString(point[1:33]), base64.RawURLEncoding.EncodeToString(point[33:]), base64.StdEncoding.EncodeToString(a.cert.Raw))
}
