package api_test

import (
	"crypto/ed25519"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

// Once somebody has seen more than the database holds, changes are refused with
// who has seen what and what to do; reading goes on.
func TestChangesAreRefusedWhenTheDatabaseWasSetBack(t *testing.T) {
	w := newWorld(t)
	w.apply(t, shop)
	lost, err := snapshot.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))).
		SignHead(snapshot.Statement{Epoch: 1, Environment: "aws", Revision: 7})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.Witness(t.Context(), "proxy spiffe://prod.example/p#1", lost); err == nil {
		t.Fatal("the database holds revision 7: nothing would be shown")
	}
	config := w.config(t, admin)
	const revoke = `{apiVersion: sallyport/v1, kind: Revocation, metadata: {name: r}, spec: {key: k, reason: lost}}`
	calls := map[string]func(dryRun bool) error{
		"Apply": func(dryRun bool) error {
			_, err := config.Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: resources(t, upstream("u")), DryRun: dryRun}))
			return err
		},
		"Apply of a revocation": func(dryRun bool) error {
			_, err := config.Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: resources(t, revoke), DryRun: dryRun}))
			return err
		},
		"Delete": func(dryRun bool) error {
			_, err := config.Delete(t.Context(), connect.NewRequest(&adminv1.DeleteRequest{
				Keys: []*adminv1.Key{{Kind: "Policy", Namespace: "shop", Name: "reads-orders"}}, DryRun: dryRun,
			}))
			return err
		},
	}
	for name, call := range calls {
		if err := call(true); err != nil {
			t.Errorf("a dry run of %s: %v", name, explain(err))
		}
		err := call(false)
		if connect.CodeOf(err) != connect.CodeFailedPrecondition {
			t.Errorf("%s: %v, want %v", name, err, connect.CodeFailedPrecondition)
			continue
		}
		for _, part := range []string{
			"proxy spiffe://prod.example/p#1 has seen environment aws at epoch 1 revision 7", "nothing was changed", "sallyport-controlplane recover",
		} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v does not say %q", name, err, part)
			}
		}
	}
	if list, err := config.List(t.Context(), connect.NewRequest(&adminv1.ListRequest{Kind: "Route"})); err != nil || len(list.Msg.GetResources()) == 0 {
		t.Errorf("List: %v, %v", list, err)
	}
}

// What a replica has in memory of the epoch before is not what it plans with.
func TestReplicaForgetsTheEpochBefore(t *testing.T) {
	dsn := storagetest.Postgres(t, postgres.Migrate)
	one, two := newWorldOn(t, dsn), newWorldOn(t, dsn)
	one.apply(t, shop)
	two.apply(t, upstream("lost"))
	two.apply(t, upstream("kept")) // by now it knows of both
	// The database forgets the upstream, and the next epoch begins above it: the
	// number alone says nothing.
	gone := resource.Key{Kind: resource.KindUpstream, Namespace: "shop", Name: "lost"}
	if err := one.store.BeginEpoch(t.Context(), storage.Recovery{
		Caller: "ann", From: 1, Epoch: 2,
		Fleet:    storage.Beginning{Base: 3, Revision: 4, Changes: []storage.Change{{Key: gone, Delete: true}}},
		Security: storage.Beginning{Base: 1, Revision: 2},
	}); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `delete from resource_version where name = 'lost'`); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	const refers = `{apiVersion: sallyport/v1, kind: Route, metadata: {namespace: shop, name: r}, spec: {hosts: [r.example], upstream: lost, authentication: {anonymous: true}}}`
	_, err = two.config(t, admin).Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: resources(t, refers)}))
	if connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), "lost") {
		t.Errorf("a route to an upstream that is not there: %v", err)
	}
	if res := two.apply(t, upstream("lost")); res.GetRevision() != 5 {
		t.Errorf("the next revision is %d, want 5", res.GetRevision())
	}
}
