package link_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/storage"
)

const toldRoute = `
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: told}
spec: {hosts: [told.example], upstream: orders, authentication: {client_certificates: true}, assertion: {}}
`

// published are the keys that a replica publishes for an environment.
func (r *replica) published(environment string) *token.KeySet {
	keys, err := r.registry.AssertionKeys(r.Context(), environment)
	if err != nil {
		return nil
	}
	document, err := token.EncodeKeySet(keys)
	if err != nil {
		r.Fatal(err)
	}
	set, err := token.ParseKeySet(document)
	if err != nil {
		return nil // no key
	}
	return set
}

// Every replica publishes the key with which a proxy signs, before the proxy
// does; after a restart without any of them it signs with the same. A proxy that
// is not admitted any more is not believed.
func TestAssertionsVerifyWithPublishedKeys(t *testing.T) {
	f := newFleet(t)
	asserted := make(chan string, 1)
	upstream := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asserted <- r.Header.Get("Sallyport-Assertion")
	}))
	t.Cleanup(upstream.Close)
	listener := free(t)
	one, two := f.replica("one"), f.replica("two")
	settings := dataplane.Settings{
		Instance: "one", ControlPlanes: []string{one.url}, ControlPlaneID: string(controlID),
		RootPublicKey:  base64.StdEncoding.EncodeToString(key(1).Public().(ed25519.PublicKey)),
		Workload:       dataplane.Workload{Socket: filepath.Join(t.TempDir(), "s"), TrustDomain: string(domain)},
		StateDirectory: filepath.Join(t.TempDir(), "state"), StateKeyFile: f.stateKey(), Records: filepath.Join(t.TempDir(), "records.jsonl"),
	}
	f.workload("spiffe://prod.example/proxy/aws/1", settings.Workload.Socket)
	start := func() (stop func()) {
		p, err := dataplane.New(settings, quiet())
		if err != nil {
			t.Fatal(err)
		}
		return run(t, p.Run)
	}
	stop := start()
	p := &proxy{id: "spiffe://prod.example/proxy/aws/1", instance: "one"}
	f.commit(clouds)
	f.commit(fmt.Sprintf(edge, listener, strings.TrimPrefix(upstream.URL, "http://")))
	f.commit(toldRoute)
	one.enforced(p, f.commit(policy("all", "/**")), enforced)

	caller := &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, listener)
		},
		TLSClientConfig: identity.ClientConfig(f.identify("spiffe://prod.example/shop/web"), identity.Only(p.id)),
	}}
	told := func() string {
		t.Helper()
		var raw string
		eventually(t, "an answer", func() bool {
			if code, _ := answer(t, caller, "https://told.example/v1"); code != http.StatusOK {
				return false
			}
			raw = <-asserted
			return true
		})
		return raw
	}
	verifies := func(set *token.KeySet, raw string) bool {
		rules := token.Rules{Issuer: "urn:sallyport:environment:aws", Audiences: []string{"shop/orders"}}
		claims, err := token.Verify(raw, rules, set, time.Now())
		return err == nil && claims.Subject == "spiffe://prod.example/shop/web"
	}
	first := told()
	if !verifies(one.published("aws"), first) {
		t.Error("the replica of the proxy does not publish the key that signs")
	}
	eventually(t, "published by the other replica", func() bool { return verifies(two.published("aws"), first) })
	if two.published("gcp") != nil {
		t.Error("the key is published for another environment")
	}
	if _, err := one.registry.AssertionKeys(t.Context(), "nowhere"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("keys of an environment that is none: %v", err)
	}

	stop()
	one.stop()
	start()
	if !verifies(two.published("aws"), told()) {
		t.Error("after a restart without its control plane it signs with another key")
	}

	f.remove(resource.Key{Kind: resource.KindEnrollment, Name: "aws"})
	f.commit(`
apiVersion: sallyport/v1
kind: Enrollment
metadata: {name: aws-2}
spec: {spiffe_id: "spiffe://prod.example/proxy/aws/2", environment: aws}
`)
	eventually(t, "not believed any more", func() bool { return two.published("aws") == nil })
}
