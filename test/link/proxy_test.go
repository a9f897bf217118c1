package link_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/dataplane"
	"github.com/sallyport/sallyport/internal/identity"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// edge is a listener, and an upstream that answers.
const edge = `
apiVersion: sallyport/v1
kind: Listener
metadata: {namespace: edge, name: https}
spec: {address: %q, tls: {workload_identity: true, client_certificates: CLIENT_CERTIFICATES_OPTIONAL}}
---
apiVersion: sallyport/v1
kind: Upstream
metadata: {namespace: shop, name: orders}
spec: {endpoints: [%q], plaintext: {}}
`

// free returns an address that nobody listens on at the moment.
func free(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// answer returns the status and the body of a response; 0 if there is none.
func answer(t *testing.T, client *http.Client, url string) (int, string) {
	t.Helper()
	res, err := client.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(b)
}

// settings are those of a proxy with that path of its SPIFFE ID, which it can have.
func (f *fleet) settings(path, admin string, replicas ...string) dataplane.Settings {
	f.Helper()
	s := dataplane.Settings{
		Instance:       "one",
		ControlPlanes:  replicas,
		ControlPlaneID: string(controlID),
		RootPublicKey:  base64.StdEncoding.EncodeToString(key(1).Public().(ed25519.PublicKey)),
		Workload:       dataplane.Workload{Socket: filepath.Join(f.TempDir(), "s"), TrustDomain: string(domain)},
		StateDirectory: f.TempDir(),
		StateKeyFile:   f.stateKey(),
		Admin:          dataplane.Admin{Address: admin},
		Records:        filepath.Join(f.TempDir(), "records.jsonl"),
	}
	f.workload(identity.ID("spiffe://prod.example/proxy/"+path), s.Workload.Socket)
	return s
}

// whole runs a whole proxy.
func (f *fleet) whole(s dataplane.Settings) (stop func()) {
	f.Helper()
	p, err := dataplane.New(s, quiet())
	if err != nil {
		f.Fatal(err)
	}
	return run(f.T, p.Run)
}

// A whole proxy, from its settings: it becomes ready when there is a snapshot,
// decides by it, and does so again after a restart without a control plane.
func TestWholeProxy(t *testing.T) {
	f := newFleet(t)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "an order") }))
	t.Cleanup(upstream.Close)
	listener, admin := free(t), free(t)
	r := f.replica("one")
	settings := f.settings("aws/1", admin, r.url)
	start := func() (stop func()) { return f.whole(settings) }
	stop := start()
	p := &proxy{id: "spiffe://prod.example/proxy/aws/1", instance: "one"}

	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	ready := func() bool { code, _ := answer(t, plain, "http://"+admin+"/readyz"); return code == http.StatusOK }
	eventually(t, "alive", func() bool { code, _ := answer(t, plain, "http://"+admin+"/healthz"); return code == http.StatusOK })
	if ready() {
		t.Error("ready without a snapshot")
	}

	f.commit(clouds)
	f.commit(fmt.Sprintf(edge, listener, strings.TrimPrefix(upstream.URL, "http://")))
	r.enforced(p, f.commit(policy("reads", "/v1/**")), enforced)
	eventually(t, "ready", ready)
	r.await(p, "a listener", func(k *adminv1.Proxy) bool {
		return len(k.GetListeners()) == 1 && k.GetListeners()[0].GetAddress() == listener && k.GetListeners()[0].GetError() == ""
	})

	caller := &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, listener)
		},
		TLSClientConfig: identity.ClientConfig(f.identify("spiffe://prod.example/shop/web"), identity.Only(p.id)),
	}}
	wants := func(path string, status int, body string) {
		t.Helper()
		if code, got := answer(t, caller, "https://api.example"+path); code != status || !strings.Contains(got, body) {
			t.Errorf("GET %s: %d %s, want %d %s", path, code, got, status, body)
		}
	}
	wants("/v1/orders/7", http.StatusOK, "an order")
	wants("/v2/orders/7", http.StatusForbidden, "no_matching_policy")

	last := f.commit(policy("reads", "/v2/**"))
	r.enforced(p, last, enforced)
	wants("/v1/orders/7", http.StatusForbidden, "no_matching_policy")
	wants("/v2/orders/7", http.StatusOK, "an order")
	r.await(p, "on disk", func(k *adminv1.Proxy) bool { return k.GetPersistedRevision() == int64(last) })

	r.stop()
	stop()
	if ready() {
		t.Error("ready after the end")
	}
	start()
	eventually(t, "ready again", ready)
	wants("/v1/orders/7", http.StatusForbidden, "no_matching_policy")
	wants("/v2/orders/7", http.StatusOK, "an order")

	// Six requests were decided on, three of them let through.
	eventually(t, "records of all requests", func() bool {
		records, err := os.ReadFile(settings.Records)
		return err == nil && bytes.Count(records, []byte("\n")) == 9 &&
			bytes.Count(records, []byte(`"type":"decision"`)) == 6 && bytes.Count(records, []byte(`"type":"outcome"`)) == 3
	})
}
