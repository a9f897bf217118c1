package controlplane_test

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/controlplane"
	"github.com/sallyport/sallyport/controlplane/controlplanetest"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
)

// databaseOf returns the database of a replica, with an environment in it.
func databaseOf(t *testing.T, p *controlplanetest.Plane) *postgres.Store {
	t.Helper()
	dsn, err := os.ReadFile(p.Settings.Database.URLFile)
	if err != nil {
		t.Fatal(err)
	}
	store, err := postgres.New(postgres.Config{DSN: string(dsn), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	key := resource.Key{Kind: resource.KindEnvironment, Name: "aws"}
	document, err := resource.Encode(resource.Parsed{Key: key, Spec: &resourcev1.Environment{}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Commit(t.Context(), storage.Commit{Caller: "test", Action: "apply", Changes: []storage.Change{{
		Key: key, Scope: storage.Scope{Environments: []string{"aws"}}, Document: document, Digest: snapshot.DocumentDigest(document),
	}}}, func([]storage.Version) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// etcdKeys are what is published of snapshots.
func etcdKeys(t *testing.T, p *controlplanetest.Plane) (names []string) {
	t.Helper()
	r, err := etcdOf(t, p).Get(t.Context(), p.Settings.Etcd.Prefix+"/env/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range r.Kvs {
		names = append(names, string(kv.Key))
	}
	return names
}

// runFor runs a replica that gives proxies so long to show what they have.
func runFor(t *testing.T, p *controlplanetest.Plane, within time.Duration) (stop func()) {
	t.Helper()
	srv, err := controlplane.New(p.Settings, (&logs{}).logger())
	if err != nil {
		t.Fatal(err)
	}
	srv.TestOnlyWitnessesWithin(within)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	p.Server = srv
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	eventually(t, "it listens", func() bool { return srv.Addr(controlplane.ListenerHealth) != nil })
	eventually(t, "it is ready", p.Ready)
	return stop
}

// A database with something in it, and an etcd with nothing: proxies alone could tell
// whether it was set back, so they are given the time to, before anything is changed or
// published. Where something is published nobody waits.
func TestChangesWaitForWitnesses(t *testing.T) {
	t.Parallel()
	p := controlplanetest.New(t)
	store := databaseOf(t, p)
	apply := func() error {
		c := adminv1connect.NewConfigServiceClient(client(t, p, controlplanetest.Admin), p.URL())
		_, err := c.Apply(t.Context(), connect.NewRequest(environment("gcp")))
		return err
	}
	stop := runFor(t, p, time.Hour)
	if err := apply(); connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "proxies may show what they have") {
		t.Errorf("nobody has had the time: %v", err)
	}
	if got := len(etcdKeys(t, p)); got != 0 {
		t.Errorf("%d keys were published", got)
	}
	stop()

	stop = runFor(t, p, time.Hour)
	ahead, err := signerOf(t, p).SignHead(snapshot.Statement{Epoch: 1, Environment: "aws", Revision: 9})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Witness(t.Context(), "proxy a", ahead); err == nil {
		t.Fatal("what a proxy has shown is part of the history")
	}
	eventually(t, "it is refused for good", func() bool { return connect.CodeOf(apply()) == connect.CodeFailedPrecondition })
	stop()
}

// When the time is over, the fleet goes on; from then on nobody has to wait.
func TestChangesWaitForWitnessesForAWhile(t *testing.T) {
	t.Parallel()
	p := controlplanetest.New(t)
	databaseOf(t, p)
	stop := runFor(t, p, 500*time.Millisecond)
	eventually(t, "it is published", func() bool { return len(etcdKeys(t, p)) > 0 })
	stop()
	stop = runFor(t, p, time.Hour)
	defer stop()
	c := adminv1connect.NewConfigServiceClient(client(t, p, controlplanetest.Admin), p.URL())
	if _, err := c.Delete(t.Context(), connect.NewRequest(&adminv1.DeleteRequest{Keys: []*adminv1.Key{{Kind: "Policy", Namespace: "a", Name: "b"}}})); connect.CodeOf(err) == connect.CodeUnavailable {
		t.Errorf("what is published is compared, and proxies are waited for: %v", err)
	}
}
