//go:build spire

package e2e_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
	"github.com/sallyport/sallyport/internal/identity"
)

// partner is a trust domain with a SPIRE of its own.
const partner identity.TrustDomain = "partner.example"

// A proxy that a partner's SPIRE gives its identity is of the fleet of another: it is
// admitted by an Enrollment, enforces a change as the others do, and goes on with
// renewed SVIDs. Workloads of the partner may call what a policy says.
func TestFederatedFleetOnSPIRE(t *testing.T) {
	ours, theirs := startSPIRE(t, fleet.TrustDomain), startSPIRE(t, partner)
	if err := federate(t.Context(), ours, theirs); err != nil {
		t.Fatal(err)
	}
	f := startWith(t, federation{ours.domain: ours, theirs.domain: theirs})
	aws := f.Members[0]
	joined, err := f.Join(t.Context(), partner, "partner")
	if err != nil {
		t.Fatal(err)
	}
	known, err := proxyOf(t.Context(), f, joined)
	if err != nil || known.GetSpiffeId() != theirs.id("proxy/partner/1") {
		t.Fatalf("the fleet has %v (%v)", known, err)
	}
	checkInventory(t, f, joined)
	closeOrder(t, f, "13")
	checkPartner(t, f, theirs, aws)

	first := metrics(t, joined.Status)[expiry]
	eventually(t, 2*svidTTL, func(context.Context) (bool, string) {
		return metrics(t, joined.Status)[expiry] > first, joined.Name + " has the SVID that it began with"
	})
	// A connection of its own begins with the renewed one.
	if err := joined.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := joined.Start(); err != nil {
		t.Fatal(err)
	}
	if err := f.MemberReady(t.Context(), joined); err != nil {
		t.Fatal(err)
	}
	closeOrder(t, f, "14")
	checkInventory(t, f, joined)
	checkCallers(t, f, aws)
}

// checkInventory asks an API that wants no identity of the proxy: the others serve
// their own trust domain alone.
func checkInventory(t *testing.T, f *fleet.Fleet, m *fleet.Member) {
	t.Helper()
	if status, body := ask(t, f, m, http.MethodGet, "/v1/inventory/cups"); status != http.StatusOK {
		t.Errorf("%s answers %d %s", m.Name, status, body)
	}
}

// checkPartner calls as a workload of the partner, before a policy lets it and after.
func checkPartner(t *testing.T, f *fleet.Fleet, theirs *spire, m *fleet.Member) {
	t.Helper()
	if status, body := askAs(t, f, theirs, m); status != http.StatusForbidden {
		t.Errorf("%s answers the partner's workload %d %s without a policy", m.Name, status, body)
	}
	revision, err := f.Admin.Apply(t.Context(), `apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: partner-reads-orders}
spec:
  routes: {names: [orders]}
  effect: ALLOW
  principals: [{spiffe: "spiffe://`+string(partner)+`/ns/shop/*"}]
  methods: [GET]
`, "the partner reads orders")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Admin.Enforced(t.Context(), revision, f.Environments()...); err != nil {
		t.Fatal(err)
	}
	if status, body := askAs(t, f, theirs, m); status != http.StatusOK {
		t.Errorf("%s answers the partner's workload %d %s", m.Name, status, body)
	}
}

// askAs asks for an order with a certificate of the partner.
func askAs(t *testing.T, f *fleet.Fleet, theirs *spire, m *fleet.Member) (status int, body string) {
	t.Helper()
	certificate, err := theirs.Certificate(t.Context(), identity.ID(theirs.id("ns/shop/billing")))
	if err != nil {
		t.Fatal(err)
	}
	roots, err := f.Roots()
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{certificate},
	}}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(within(t, 10*time.Second), http.MethodGet, m.URL+"/v1/orders/7", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(answer)
}

// federation gives each workload its identity from the SPIRE of its trust domain.
type federation map[identity.TrustDomain]*spire

func (f federation) Workload(ctx context.Context, w fleet.Workload) (string, error) {
	s, ok := f[w.ID.TrustDomain()]
	if !ok {
		return "", fmt.Errorf("%s is of no trust domain of the federation", w.ID)
	}
	return s.Workload(ctx, w)
}

func (f federation) Certificate(ctx context.Context, id identity.ID) (tls.Certificate, error) {
	s, ok := f[id.TrustDomain()]
	if !ok {
		return tls.Certificate{}, fmt.Errorf("%s is of no trust domain of the federation", id)
	}
	return s.Certificate(ctx, id)
}

// federate has two trust domains fetch each other's bundle from now on. Workloads that
// are registered after it trust both.
func federate(ctx context.Context, a, b *spire) error {
	if err := a.follow(ctx, b); err != nil {
		return err
	}
	return b.follow(ctx, a)
}

// follow has s fetch the bundle of another, which it knows by the one that it has now,
// and fetches it once to see that it can.
func (s *spire) follow(ctx context.Context, other *spire) error {
	bundle, err := other.ask(ctx, "bundle", "show", "-socketPath", other.socket("server"), "-format", "spiffe")
	if err != nil {
		return err
	}
	file := s.path(string(other.domain) + ".json")
	if err := os.WriteFile(file, bundle, 0o600); err != nil {
		return err
	}
	if _, err := s.ask(ctx, "federation", "create", "-socketPath", s.socket("server"),
		"-trustDomain", string(other.domain),
		"-bundleEndpointURL", fmt.Sprintf("https://127.0.0.1:%d", other.bundles),
		"-bundleEndpointProfile", "https_spiffe", "-endpointSpiffeID", other.id("spire/server"),
		"-trustDomainBundleFormat", "spiffe", "-trustDomainBundlePath", file); err != nil {
		return err
	}
	if _, err := s.ask(ctx, "federation", "refresh", "-socketPath", s.socket("server"), "-id", string(other.domain)); err != nil {
		return err
	}
	s.partners = append(s.partners, other.domain)
	return nil
}
