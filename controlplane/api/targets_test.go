package api_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/controlplane/api"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

// publishing is "target: environment revision/newest ..., lacks n", with what is wrong.
func publishing(m *adminv1.StatusResponse) string {
	var all []string
	for _, t := range m.GetTargets() {
		text := t.GetName() + ":"
		for _, p := range t.GetPublished() {
			text += fmt.Sprintf(" %s %d/%d", p.GetEnvironment(), p.GetRevision(), p.GetNewest())
		}
		text += fmt.Sprintf(", lacks %d", t.GetLacks())
		if (t.GetLacks() > 0) != (t.GetLacksSince() != nil) {
			text += " at another time"
		}
		all = append(all, text+wrong(t.GetTrouble()))
	}
	return strings.Join(all, "; ") + wrong(m.GetTrouble())
}

func wrong(t *adminv1.PublishingTrouble) string {
	if t == nil {
		return ""
	}
	if time.Since(t.GetSince().AsTime()).Abs() > time.Minute {
		return " (since another time)"
	}
	return " (" + t.GetError() + ")"
}

// Every replica tells how far publishing is, whoever publishes.
func TestStatusOfTargets(t *testing.T) {
	dsn := storagetest.Postgres(t, postgres.Migrate)
	one := newWorldOn(t, dsn)
	two := newReplica(t, dsn, "two", func(s *postgres.Store) api.Store { return s })
	want := func(what, want string, environments ...string) {
		t.Helper()
		for _, w := range []*world{one, two} {
			res, err := w.fleet(t, viewer).Status(t.Context(), connect.NewRequest(&adminv1.StatusRequest{Environments: environments}))
			if err != nil {
				t.Fatal(err)
			}
			if got := publishing(res.Msg); got != want {
				t.Errorf("%s:\ngot  %s\nwant %s", what, got, want)
			}
		}
	}
	want("nobody has published", "etcd: @security 0/1, lacks 1")
	one.apply(t, shop)
	one.apply(t, upstream("only", "aws"))
	term := must(one.store.BeginTerm(t.Context(), "three"))
	published := func(target, environment string, at snapshot.Revision) {
		t.Helper()
		if err := one.store.AdvanceCursor(t.Context(), term, target, environment, at); err != nil {
			t.Fatal(err)
		}
	}
	published("etcd", "aws", 2)
	published("etcd", "gcp", 1)
	published("etcd", snapshot.SecurityLane, 1)
	want("one target", "etcd: @security 1/1 aws 2/2 gcp 1/1, lacks 0")
	published("far", "aws", 1)
	if err := errors.Join(
		one.store.Report(t.Context(), term, storage.Trouble{Target: "far", Lane: "security", Error: "it is away"}),
		one.store.Report(t.Context(), term, storage.Trouble{Target: "far", Lane: "policy", Error: "it is full"}),
		one.store.Report(t.Context(), term, storage.Trouble{Target: "farther", Lane: "policy", Error: "nobody knows the way"}),
	); err != nil {
		t.Fatal(err)
	}
	want("others that the publisher knows", "etcd: @security 1/1 aws 2/2 gcp 1/1, lacks 0; "+
		"far: @security 0/1 aws 1/2 gcp 0/1, lacks 3 (it is away); "+
		"farther: @security 0/1 aws 0/2 gcp 0/1, lacks 4 (nobody knows the way)")
	want("one environment", "etcd: @security 1/1 gcp 1/1, lacks 0; far: @security 0/1 gcp 0/1, lacks 3 (it is away); "+
		"farther: @security 0/1 gcp 0/1, lacks 4 (nobody knows the way)", "gcp")
	if err := one.store.Report(t.Context(), term, storage.Trouble{Lane: "policy", Error: "the key was lost"}); err != nil {
		t.Fatal(err)
	}
	if _, err := one.store.KeepCursors(t.Context(), must(one.store.BeginTerm(t.Context(), "four")), []string{"etcd"}); err != nil {
		t.Fatal(err)
	}
	want("the next term", "etcd: @security 1/1 aws 2/2 gcp 1/1, lacks 0")
}
