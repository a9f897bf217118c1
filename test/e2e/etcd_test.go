package e2e_test

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
)

const prefix = "/sallyport/v1/"

func etcdOf(t *testing.T, f *fleet.Fleet) *clientv3.Client {
	t.Helper()
	return etcdAt(t, f.Etcd.Endpoints())
}

func etcdAt(t *testing.T, endpoints []string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() }) // the server may be gone before
	return client
}

// Everything in etcd can be deleted while the fleet runs: it comes back, and
// no proxy notices.
func TestWipedEtcdIsRebuilt(t *testing.T) {
	f := start(t)
	client := etcdOf(t, f)
	before := keysOf(t, client)
	if _, err := client.Delete(t.Context(), prefix, clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, func(context.Context) (bool, string) {
		after := keysOf(t, client)
		for key := range before {
			if !after[key] {
				return false, key + " has not come back"
			}
		}
		return true, ""
	})
	revision, err := f.Admin.Apply(t.Context(), policyNamed("after-the-wipe"), "after the wipe")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Admin.Enforced(t.Context(), revision, f.Environments()...); err != nil {
		t.Fatal(err)
	}
	for _, m := range f.Members {
		checkOrder(t, m)
	}
}

// keysOf returns the keys of snapshots and freshness, but not of the election,
// whose keys are those of a lease.
func keysOf(t *testing.T, client *clientv3.Client) map[string]bool {
	t.Helper()
	r, err := client.Get(within(t, 10*time.Second), prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	for _, kv := range r.Kvs {
		if !bytes.HasPrefix(kv.Key, []byte(prefix+"leader")) {
			keys[string(kv.Key)] = true
		}
	}
	return keys
}

// Who can write to etcd cannot open a gate: a head that is tampered with, or
// older, is refused, and requests go on as before.
func TestTamperedAndOlderHeadsAreRefused(t *testing.T) {
	f := start(t)
	client := etcdOf(t, f)
	headKey := prefix + "env/aws-demo/head"
	first := valueOf(t, client, headKey)
	revision, err := f.Admin.Apply(t.Context(), policyNamed("a-second-revision"), "a second revision")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Admin.Enforced(t.Context(), revision, f.Environments()...); err != nil {
		t.Fatal(err)
	}
	tampered := bytes.Clone(valueOf(t, client, headKey))
	tampered[20] ^= 0x40
	for name, value := range map[string][]byte{"an older head": first, "a tampered head": tampered} {
		refusals := refusalsOf(t, f)
		if _, err := client.Put(t.Context(), headKey, string(value)); err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, func(context.Context) (bool, string) {
			return refusalsOf(t, f) > refusals, name + " was not refused"
		})
		p, err := proxyOf(t.Context(), f, f.Members[0])
		if err != nil {
			t.Fatal(err)
		}
		if p.GetRevision() != revision {
			t.Errorf("%s: the proxy is at revision %d, not at %d", name, p.GetRevision(), revision)
		}
		if status, body := ask(t, f, f.Members[0], http.MethodGet, "/v1/orders/7"); status != http.StatusOK {
			t.Errorf("%s: requests are answered with %d %s", name, status, body)
		}
	}
	eventually(t, 30*time.Second, func(context.Context) (bool, string) {
		return !bytes.Equal(valueOf(t, client, headKey), first) && !bytes.Equal(valueOf(t, client, headKey), tampered),
			"the head was not put right"
	})
}

func valueOf(t *testing.T, client *clientv3.Client, key string) []byte {
	t.Helper()
	r, err := client.Get(within(t, 10*time.Second), key)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Kvs) != 1 {
		t.Fatalf("%s is not there", key)
	}
	return r.Kvs[0].Value
}

// refusalsOf counts what the control plane said of refused heads.
func refusalsOf(t *testing.T, f *fleet.Fleet) int {
	t.Helper()
	b, err := os.ReadFile(f.ControlPlane.Log)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(b, []byte(`"head in etcd was refused"`))
}
