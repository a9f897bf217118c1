package controlplane_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/controlplanetest"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
)

// signerOf returns what a replica signs with.
func signerOf(t *testing.T, p *controlplanetest.Plane) *snapshot.Signer {
	t.Helper()
	b, err := os.ReadFile(p.Settings.SigningKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		t.Fatal("not an Ed25519 key")
	}
	return snapshot.NewSigner(private)
}

func another(seed byte) *snapshot.Signer {
	return snapshot.NewSigner(ed25519.NewKeyFromSeed(slices.Repeat([]byte{seed}, ed25519.SeedSize)))
}

// record has the database hold a key set.
func record(t *testing.T, p *controlplanetest.Plane, set snapshot.KeySet) {
	t.Helper()
	dsn, err := os.ReadFile(p.Settings.Database.URLFile)
	if err != nil {
		t.Fatal(err)
	}
	s, err := postgres.New(postgres.Config{DSN: string(dsn), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.AppendKeySet(t.Context(), set, storage.AuditEntry{Caller: "test", Action: "rotate", Allowed: true}); err != nil {
		t.Fatal(err)
	}
}

func keySet(t *testing.T, by *snapshot.Signer, keys ...*snapshot.Signer) snapshot.KeySet {
	t.Helper()
	var public []snapshot.PublicKey
	for _, k := range keys {
		public = append(public, k.Public())
	}
	set, err := by.SignKeySet(snapshot.KeySet{}, public...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// etcdOf returns a client that sees all of the replica's etcd.
func etcdOf(t *testing.T, p *controlplanetest.Plane) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: p.Settings.Etcd.Endpoints, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // it holds nothing that matters
	return c
}

// wantMetric waits until a metric without labels has a value.
func wantMetric(t *testing.T, p *controlplanetest.Plane, name string, value int) {
	t.Helper()
	want := fmt.Sprintf("\n%s %d\n", name, value)
	for began := time.Now(); ; <-time.After(20 * time.Millisecond) {
		_, text := get(t, p.HealthURL()+"/metrics")
		if strings.Contains(text, want) {
			return
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("%s never is %d", name, value)
		}
	}
}

// A replica that has just started believes the database of keys, and not a chain that
// somebody with the first key, long retired, has put into etcd.
func TestKeysAreLearnedFromTheDatabaseFirst(t *testing.T) {
	p := controlplanetest.New(t)
	ours := signerOf(t, p)
	true1 := keySet(t, ours, ours, another(2))
	record(t, p, true1)
	forged, err := proto.Marshal(keySet(t, ours, another(9)).Signed())
	if err != nil {
		t.Fatal(err)
	}
	raw := etcdOf(t, p)
	key := p.Settings.Etcd.Prefix + "/env/@keys/000001"
	if _, err := raw.Put(t.Context(), key, string(forged)); err != nil {
		t.Fatal(err)
	}
	l := &logs{}
	p.Start(l.logger())
	wantMetric(t, p, "sallyport_signing_key_trusted", 1)
	wantMetric(t, p, "sallyport_key_set_generation", 1)
	want, err := proto.MarshalOptions{Deterministic: true}.Marshal(true1.Signed())
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); ; <-time.After(20 * time.Millisecond) {
		r, err := raw.Get(t.Context(), key, clientv3.WithSerializable())
		if err == nil && len(r.Kvs) == 1 && string(r.Kvs[0].Value) == string(want) {
			break
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("etcd was not mended: %v %v\n%s", r, err, l)
		}
	}
}

// A replica whose key was retired serves, publishes nothing, and says so.
func TestReplicaWithARetiredKey(t *testing.T) {
	p := controlplanetest.New(t)
	ours := signerOf(t, p)
	record(t, p, keySet(t, ours, another(2)))
	l := &logs{}
	p.Start(l.logger())
	wantMetric(t, p, "sallyport_key_set_generation", 1)
	wantMetric(t, p, "sallyport_signing_key_trusted", 0)
	for began := time.Now(); !strings.Contains(l.String(), "this replica's signing key is not in the newest key set"); <-time.After(20 * time.Millisecond) {
		if time.Since(began) > 30*time.Second {
			t.Fatal("it says nothing")
		}
	}
	r, err := etcdOf(t, p).Get(t.Context(), p.Settings.Etcd.Prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil || len(r.Kvs) > 0 {
		t.Errorf("it has published %v (%v)", r.Kvs, err)
	}
}
