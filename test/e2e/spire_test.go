//go:build spire

package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
)

// A fleet gets all its identities from SPIRE: requests, a change and its
// proof, renewal, and an agent that is gone for longer than SVIDs live.
func TestFleetOnSPIRE(t *testing.T) {
	s := startSPIRE(t, fleet.TrustDomain)
	f := startWith(t, s)
	aws, gcp := f.Members[0], f.Members[1]
	for _, m := range f.Members {
		checkCallers(t, f, m)
	}
	checkStranger(t, s, aws)
	closeOrder(t, f, "13")
	checkRenewal(t, f)

	if err := s.agents[aws.Name].Kill(); err != nil {
		t.Fatal(err)
	}
	checkCallers(t, f, aws) // its SVID is good for a while
	checkExpiry(t, f, aws)
	checkCallers(t, f, gcp)

	began := time.Now()
	if err := s.start(t.Context(), "spire-agent", aws.Name, s.agents[aws.Name]); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func(context.Context) (bool, string) {
		status, body := ask(t, f, aws, http.MethodGet, "/v1/orders/7")
		return status == http.StatusOK, body
	})
	fmt.Printf("figure spire_recovery %.1f s\n", time.Since(began).Seconds())
	if err := f.Connected(t.Context()); err != nil {
		t.Fatal(err)
	}
	closeOrder(t, f, "14")
	for _, m := range f.Members {
		checkCallers(t, f, m)
		checkOrder(t, m)
	}
}

// checkCallers sends a request with a token, one with a SPIFFE certificate and
// one with neither. The API is asked by the proxy with the identity that SPIRE
// gave it.
func checkCallers(t *testing.T, f *fleet.Fleet, m *fleet.Member) {
	t.Helper()
	if status, body := ask(t, f, m, http.MethodGet, "/v1/orders/7"); status != http.StatusOK {
		t.Errorf("%s answers a token with %d %s", m.Name, status, body)
	}
	answer, err := f.Send(within(t, 10*time.Second), m, fleet.Request{Method: http.MethodGet, Path: "/v1/orders/7", Certificate: true})
	if err != nil {
		t.Fatal(err)
	}
	var seen struct{ Proxy string }
	if err := json.Unmarshal(answer.Body, &seen); err != nil || answer.Status != http.StatusOK {
		t.Fatalf("%s answers the billing workload %d %s", m.Name, answer.Status, answer.Body)
	}
	cloud, _, _ := strings.Cut(m.Name, "-")
	if want := "spiffe://" + fleet.TrustDomain + "/proxy/" + cloud + "/1"; seen.Proxy != want {
		t.Errorf("the API was asked by %q, not by %s", seen.Proxy, want)
	}
	nobody, err := f.Send(within(t, 10*time.Second), m, fleet.Request{Method: http.MethodGet, Path: "/v1/orders/7"})
	if err != nil {
		t.Fatal(err)
	}
	if nobody.Status != http.StatusUnauthorized {
		t.Errorf("%s answers nobody %d %s", m.Name, nobody.Status, nobody.Body)
	}
}

// checkStranger asks a workload's agent from another executable, which gets no
// identity.
func checkStranger(t *testing.T, s *spire, m *fleet.Member) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(s.bin, "spire-agent"),
		"api", "fetch", "x509", "-socketPath", s.socket(m.Name), "-timeout", "5s").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no identity issued") {
		t.Errorf("another program asked the agent of %s: %v, %s", m.Name, err, out)
	}
}

// closeOrder denies an order, waits for the proof, and asks for it.
func closeOrder(t *testing.T, f *fleet.Fleet, number string) {
	t.Helper()
	began := time.Now()
	revision, err := f.Admin.Apply(t.Context(), `apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: closed-`+number+`}
spec:
  routes: {names: [orders]}
  effect: DENY
  paths: [/v1/orders/`+number+`]
`, "order "+number+" is closed")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Admin.Enforced(t.Context(), revision, f.Environments()...); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("figure spire_enforced_%s %.1f ms\n", number, float64(time.Since(began).Microseconds())/1000)
	for _, m := range f.Members {
		if status, body := ask(t, f, m, http.MethodGet, "/v1/orders/"+number); status != http.StatusForbidden || !strings.Contains(body, "denied_by_policy") {
			t.Errorf("%s answers %d %s for a closed order", m.Name, status, body)
		}
	}
}

// checkRenewal sees each proxy with an SVID that ends later, while it serves.
func checkRenewal(t *testing.T, f *fleet.Fleet) {
	t.Helper()
	for _, m := range f.Members {
		first := metrics(t, m.Status)[expiry]
		eventually(t, 2*svidTTL, func(context.Context) (bool, string) {
			return metrics(t, m.Status)[expiry] > first, m.Name + " has the SVID that it began with"
		})
		checkCallers(t, f, m)
	}
}

const expiry = "sallyport_identity_expires_timestamp_seconds"

// checkExpiry waits for the end of a proxy's SVID: what needs it fails with its
// own reason, and the rest goes on.
func checkExpiry(t *testing.T, f *fleet.Fleet, m *fleet.Member) {
	t.Helper()
	served := 0
	eventually(t, 2*svidTTL, func(context.Context) (bool, string) {
		status, body := ask(t, f, m, http.MethodGet, "/v1/orders/7")
		if status == http.StatusOK {
			served++
		}
		return strings.Contains(body, `"identity_expired"`), fmt.Sprintf("orders are answered %d %s", status, body)
	})
	fmt.Printf("figure spire_requests_without_agent %d requests\n", served)
	if end := time.Unix(int64(metrics(t, m.Status)[expiry]), 0); time.Now().Before(end) {
		t.Errorf("%s said that its SVID has expired, which it does at %s", m.Name, end)
	}
	if status, body := ask(t, f, m, http.MethodGet, "/v1/inventory/cups"); status != http.StatusOK {
		t.Errorf("%s: an API that asks for no identity is answered with %d %s", m.Name, status, body)
	}
}
