package link_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/identity"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
)

// rule has an operator rule something through a replica.
func (r *replica) rule(subject string, revise func(*storage.Ruling)) {
	r.Helper()
	e := storage.AuditEntry{Caller: "alice", Action: "/Rule", Allowed: true}
	if err := r.registry.Rule(r.Context(), subject, e, func(ruling storage.Ruling, _ int) (storage.Ruling, error) {
		ruling.At = time.Now()
		revise(&ruling)
		return ruling, nil
	}); err != nil {
		r.Fatal(err)
	}
}

// A whole proxy, of which operators say through another replica than its own that
// it has to be approved, that it drains, and that it is quarantined. Through all of
// it, it serves.
func TestOperatorsRule(t *testing.T) {
	f := newFleet(t)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "an order") }))
	t.Cleanup(upstream.Close)
	listener, admin := free(t), free(t)
	r, other := f.replica("one"), f.replica("two")
	eventually(t, "the other knows the fleet", other.registry.Ready)
	settings := f.settings("aws/1", admin, r.url)
	settings.Zone = "eu-central-1/a"
	settings.Place.Cloud = "aws"
	f.whole(settings)
	p := &proxy{id: "spiffe://prod.example/proxy/aws/1", instance: "one"}

	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	ready := func() (bool, string) {
		code, body := answer(t, plain, "http://"+admin+"/readyz")
		return code == http.StatusOK, body
	}
	caller := &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, listener)
		},
		TLSClientConfig: identity.ClientConfig(f.identify("spiffe://prod.example/shop/web"), identity.Only(p.id)),
	}}
	serves := func(when string) {
		t.Helper()
		if code, body := answer(t, caller, "https://api.example/v1/orders/7"); code != http.StatusOK {
			t.Errorf("%s: %d %s", when, code, body)
		}
	}
	id := string(registry.ProxyID(string(p.id), p.instance))

	f.commit(strings.ReplaceAll(clouds, "environment: aws}", "environment: aws, approval: MANUAL}"))
	f.commit(fmt.Sprintf(edge, listener, strings.TrimPrefix(upstream.URL, "http://")))
	last := f.commit(policy("reads", "/v1/**"))
	r.await(p, "waits for approval", func(k *adminv1.Proxy) bool {
		return k.GetConnection() == adminv1.Connection_CONNECTION_PENDING && k.GetStanding() == adminv1.Standing_STANDING_AWAITING_APPROVAL
	})
	other.rule(string(p.id), func(r *storage.Ruling) { r.Approval = storage.Approved })
	r.enforced(p, last, enforced)
	eventually(t, "ready", func() bool { ok, _ := ready(); return ok })
	serves("approved")
	r.await(p, "says how it is", func(k *adminv1.Proxy) bool {
		return k.GetPlace().GetCloud() == "aws" && k.GetPlace().GetRegion() == "eu-central-1" && k.GetPlace().GetClaimed() &&
			time.Since(k.GetStartedAt().AsTime()) < time.Hour
	})

	other.rule(id, func(r *storage.Ruling) { r.Draining = true })
	r.await(p, "drains", func(k *adminv1.Proxy) bool { return k.GetDraining() && k.GetDrain() })
	if ok, body := ready(); ok || !strings.Contains(body, "drained") {
		t.Errorf("/readyz answers %v %q", ok, body)
	}
	serves("draining")
	other.rule(id, func(r *storage.Ruling) { r.Draining = false })
	r.await(p, "serves again", func(k *adminv1.Proxy) bool { return !k.GetDraining() })
	if ok, body := ready(); !ok {
		t.Errorf("/readyz answers %q", body)
	}

	other.rule(string(p.id), func(r *storage.Ruling) { r.Quarantined = true })
	r.await(p, "is cut off", func(k *adminv1.Proxy) bool {
		return k.GetConnection() == adminv1.Connection_CONNECTION_LOST && k.GetStanding() == adminv1.Standing_STANDING_QUARANTINED
	})
	f.commit(policy("reads", "/v2/**"))
	serves("quarantined, by what it has")
	other.rule(string(p.id), func(r *storage.Ruling) { r.Quarantined = false })
	r.await(p, "is back", func(k *adminv1.Proxy) bool { return k.GetRevision() > int64(last) })
	if code, _ := answer(t, caller, "https://api.example/v1/orders/7"); code != http.StatusForbidden {
		t.Errorf("it did not catch up: %d", code)
	}
}
