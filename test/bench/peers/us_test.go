//go:build peers

package peers_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
)

// startUs starts a fleet, one proxy of which has the proxies' core.
func (s *stage) startUs(b *testing.B) {
	b.Helper()
	build := exec.Command("go", "build", "-o", s.dir, "github.com/sallyport/sallyport/cmd/...")
	build.Stderr = os.Stderr
	must(b, build.Run())
	f, err := fleet.Start(b.Context(), fleet.Config{Dir: s.dir, Bin: s.dir, Log: slog.New(slog.DiscardHandler)})
	b.Cleanup(func() {
		if err := f.Stop(); err != nil {
			b.Error(err)
		}
	})
	must(b, err)
	s.readFiles(b, f)
	revision, err := f.Admin.Apply(b.Context(), s.resources(f), "to be compared")
	must(b, err)
	must(b, f.Admin.Enforced(b.Context(), revision, f.Environments()...))
	s.token, err = f.Sign(fleet.TokenRequest{Subject: "reader", Groups: []string{"staff", "readers"}, Audience: "orders", ExpiresIn: time.Hour})
	must(b, err)

	m := f.Members[0]
	must(b, m.Stop())
	writeNoLog(b, m.Args[len(m.Args)-1])
	m.Args = append([]string{"taskset", "-c", proxyCore}, m.Args...)
	must(b, m.Start())
	must(b, f.MemberReady(b.Context(), m))
	s.peers = append(s.peers, &peer{name: us, address: strings.TrimPrefix(m.URL, "https://"), pids: []int{m.PID()}, secures: true, status: m.Status})
}

// writeNoLog has a proxy bring its records to the control plane alone: what it writes to
// a file beside that is a log, and the others write none.
func writeNoLog(b *testing.B, settings string) {
	b.Helper()
	text, err := os.ReadFile(settings)
	must(b, err)
	lines := regexp.MustCompile(`(?m)^records: .*$`)
	if !lines.Match(text) {
		b.Fatal("the fleet's proxies write no records to files any more")
	}
	must(b, os.WriteFile(settings, lines.ReplaceAll(text, []byte("records: none")), 0o600))
}

// readFiles has the other proxies present what the fleet's present, and verify
// the same tokens.
func (s *stage) readFiles(b *testing.B, f *fleet.Fleet) {
	b.Helper()
	s.files = files{certificate: f.Path("proxy-tls.pem"), key: f.Path("proxy-tls-key.pem"), both: f.Path("both.pem"), tokenKey: f.Path("token-key.pem")}
	var err error
	s.ca, err = os.ReadFile(f.Described.CAFile)
	must(b, err)
	certificate, err := os.ReadFile(s.files.certificate)
	must(b, err)
	key, err := os.ReadFile(s.files.key)
	must(b, err)
	must(b, os.WriteFile(s.files.both, slices.Concat(certificate, key), 0o600))
	must(b, os.WriteFile(s.files.tokenKey, tokenKey(b, f.Described.TokenIssuer), 0o600))
}

// tokenKey is the issuer's key as PEM.
func tokenKey(b *testing.B, issuer string) []byte {
	b.Helper()
	res, err := http.Get(issuer + "/jwks.json")
	must(b, err)
	defer res.Body.Close()
	var set struct{ Keys []struct{ X, Y string } }
	must(b, json.NewDecoder(res.Body).Decode(&set))
	point := []byte{4}
	for _, half := range []string{set.Keys[0].X, set.Keys[0].Y} {
		n, err := base64.RawURLEncoding.DecodeString(half)
		must(b, err)
		point = append(point, n...)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	must(b, err)
	der, err := x509.MarshalPKIXPublicKey(key)
	must(b, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

const resourcesText = `apiVersion: sallyport/v1
kind: Upstream
metadata: {namespace: shop, name: compared}
spec:
  endpoints: [%[1]q]
  plaintext: {}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: plain, labels: {for: anybody}}
spec:
  hosts: [127.0.0.1]
  paths: [/1kib, /1mib]
  upstream: compared
  authentication: {anonymous: true}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: secured, labels: {for: readers}}
spec:
  hosts: [127.0.0.1]
  paths: ["/secured/**"]
  upstream: compared
  authentication: {identityProviders: [demo-tokens]}
  record: {mode: MODE_ALL}
---
apiVersion: sallyport/v1
kind: RateLimit
metadata: {namespace: shop, name: readers}
spec:
  routes: {labels: {for: readers}}
  key: [{principal: true}]
  requests: 900000
  period: 1s
---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: anybody}
spec:
  routes: {labels: {for: anybody}}
  effect: ALLOW
  principals: [{anonymous: true}]
`

const policyText = `---
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: readers-%02[1]d}
spec:
  routes: {labels: {for: readers}}
  effect: ALLOW
  principals: [{group: readers}]
  methods: [GET]
  when: %[2]q
`

// resources are a route without security and one with all of it: a token, a rate
// limit, a record of each request, and twenty policies of five conditions, of
// which the last one allows.
func (s *stage) resources(f *fleet.Fleet) string {
	all := fmt.Sprintf(resourcesText, s.upstream)
	for n := range 20 {
		misses := n % 5
		if n == 19 {
			misses = 5
		}
		all += fmt.Sprintf(policyText, n, condition(f.Described.TokenIssuer, n, misses))
	}
	return all
}

// condition is five, one of which a request misses, or none.
func condition(issuer string, n, misses int) string {
	network, group, until, expiry := "127.0.0.0/8", "staff", "2100-01-01T00:00:00Z", 1000
	switch misses {
	case 0:
		issuer = fmt.Sprint("https://issuer.example/", n)
	case 1:
		network = fmt.Sprintf("10.%d.0.0/16", n)
	case 2:
		group = fmt.Sprint("group-", n)
	case 3:
		until = fmt.Sprintf("2025-01-01T%02d:00:00Z", n)
	case 4:
		expiry = 9_000_000_000 + n
	}
	return fmt.Sprintf(`principal.issuer in ["https://one.example", %q] && cidr(%q).containsIP(signals.ip) && %q in principal.claims.groups && `+
		`signals.time >= timestamp("2024-01-01T00:00:00Z") && signals.time < timestamp(%q) && principal.claims.exp > %d`,
		issuer, network, group, until, expiry)
}
