package link_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sallyport/sallyport/internal/session"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// keys waits until a proxy has cookie keys.
func (p *proxy) keys(t *testing.T) []session.Key {
	t.Helper()
	eventually(t, "cookie keys", func() bool { return len(p.cookies.Load().Keys()) > 0 })
	return p.cookies.Load().Keys()
}

// Proxies of an environment get the same cookie keys from whichever replica,
// those of another environment others; and a proxy that restarts while the control
// plane is away still has them.
func TestCookieKeysReachTheProxies(t *testing.T) {
	f := newFleet(t)
	first := f.commit(clouds)
	r, s := f.replica("one"), f.replica("two")
	one, two, other := f.proxy("aws/1", newTable(), r.url), f.proxy("aws/2", newTable(), s.url), f.proxy("gcp/1", newTable(), r.url)
	keys := one.keys(t)
	if got := two.keys(t); !slices.Equal(got, keys) {
		t.Errorf("two proxies of an environment have %v and %v", keys, got)
	}
	for _, k := range other.keys(t) {
		if slices.Contains(keys, k) {
			t.Error("proxies of two environments share a key")
		}
	}
	r.await(one, "on disk", func(k *adminv1.Proxy) bool { return k.GetPersistedRevision() == int64(first) })
	file := filepath.Join(one.dir, "cookie-keys.sealed")
	eventually(t, "keys on disk", func() bool { _, err := os.Stat(file); return err == nil })
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the keys are kept in a file of %v, %v", info.Mode(), err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if bytes.Contains(b, k.Secret[:]) {
			t.Error("a key is on the disk as it is")
		}
	}
	r.stop()
	s.stop()
	one.stop()
	one.cookies.Store(nil)
	one.table, one.cuts = newTable(), &cuts{}
	f.start(one, r.url)
	if got := one.keys(t); !slices.Equal(got, keys) {
		t.Errorf("after a restart from disk: %v, want %v", got, keys)
	}
	// A file that was damaged is no reason not to start.
	one.stop()
	if err := os.WriteFile(file, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	one.cookies.Store(nil)
	one.table, one.cuts = newTable(), &cuts{}
	f.start(one, r.url)
	eventually(t, "enforced from disk", one.link.Enforcing)
	if one.cookies.Load() != nil {
		t.Error("keys were made of a damaged file")
	}
	back := f.replica("one", r.url)
	back.enforced(one, first, enforced)
	if got := one.keys(t); !slices.Equal(got, keys) {
		t.Errorf("after the control plane came back: %v, want %v", got, keys)
	}
}

// A proxy without a key for its state directory keeps no cookie key there, nor one that
// a build of before has left.
func TestCookieKeysAreNotKeptInTheClear(t *testing.T) {
	f := newFleet(t)
	first := f.commit(clouds)
	r := f.replica("one")
	p := &proxy{id: "spiffe://prod.example/proxy/aws/1", instance: "one", dir: f.TempDir(), table: newTable(), cuts: &cuts{}}
	for _, name := range []string{"cookie-keys", "cookie-keys.sealed"} {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte("of before"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.startWith(p, nil, r.url)
	p.keys(t)
	r.await(p, "on disk", func(k *adminv1.Proxy) bool { return k.GetPersistedRevision() == int64(first) })
	p.stop()
	found, err := filepath.Glob(filepath.Join(p.dir, "cookie-keys*"))
	if err != nil || len(found) > 0 {
		t.Errorf("there are %v, %v", found, err)
	}
}
