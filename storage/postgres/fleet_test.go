package postgres_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/storage"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)

func proxy(id, environment string, seen time.Duration) storage.Proxy {
	spiffe, instance, _ := strings.Cut(id, "#")
	return storage.Proxy{
		ID: storage.ProxyID(id), SPIFFEID: "spiffe://prod.example/" + spiffe, Instance: instance, Environment: environment,
		Replica: "r1", Status: []byte(fmt.Sprint("seen ", seen)), RegisteredAt: noon.Add(seen), LastSeen: noon.Add(seen),
	}
}

func TestSaveProxies(t *testing.T) {
	t.Parallel()
	f := open(t)
	saves := func(replica string, proxies ...storage.Proxy) {
		t.Helper()
		if err := f.SaveProxies(t.Context(), replica, proxies); err != nil {
			t.Fatal(err)
		}
	}
	save := func(proxies ...storage.Proxy) {
		t.Helper()
		saves("", proxies...)
	}
	want := func(what string, want storage.Proxy) {
		t.Helper()
		got, err := f.Proxy(t.Context(), want.ID)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: the record is\n%v (%v), want\n%v", what, got, err, want)
		}
	}
	save()
	_, err := f.Proxy(t.Context(), "a#1")
	wantErr(t, "a proxy that never was", err, storage.ErrNotFound)

	first := proxy("a#1", "", 0)
	save(first)
	want("created", first)

	newer := proxy("a#1", "aws", time.Minute)
	newer.Replica, newer.SPIFFEID, newer.Instance = "r2", "spiffe://prod.example/b", "one"
	save(newer)
	newer.RegisteredAt = first.RegisteredAt
	want("replaced", newer)

	save(proxy("a#1", "gcp", time.Second))
	want("an older one does not replace", newer)

	saves("r1", proxy("a#1", "gcp", time.Second))
	want("an older one of a replica that does not have its stream does not replace", newer)

	earlier := newer
	earlier.LastSeen = newer.LastSeen.Add(-time.Second)
	saves("r2", earlier)
	want("an older one of the replica that has its stream replaces", earlier)

	gone := earlier
	gone.Replica, gone.Status = "", nil
	save(gone)
	gone.Status = []byte{}
	want("one of the same time replaces", gone)

	save(proxy("b#1", "gcp", 3*time.Second), proxy("b#1", "aws", 5*time.Second), proxy("b#1", "gcp", 4*time.Second))
	want("the latest of several", proxy("b#1", "aws", 5*time.Second))
}

func TestProxies(t *testing.T) {
	t.Parallel()
	f := open(t)
	if err := f.SaveProxies(t.Context(), "", []storage.Proxy{
		proxy("d#1", "aws", 0), proxy("b#2", "aws", 0), proxy("b#1", "aws", 0), proxy("a#1", "gcp", 0), proxy("z#1", "", 0),
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		environment string
		after       storage.Proxy
		limit       int
		want        string
	}{
		{"", storage.Proxy{}, 9, "z#1 b#1 b#2 d#1 a#1"},
		{"", storage.Proxy{}, 2, "z#1 b#1"},
		{"", proxy("b#1", "aws", 0), 2, "b#2 d#1"},
		{"", proxy("d#1", "aws", 0), 2, "a#1"},
		{"aws", storage.Proxy{}, 9, "b#1 b#2 d#1"},
		{"aws", proxy("b#1", "aws", 0), 1, "b#2"},
		{"gcp", proxy("a#1", "gcp", 0), 9, ""},
		{"lab", storage.Proxy{}, 9, ""},
	} {
		proxies, err := f.Proxies(t.Context(), c.environment, c.after, c.limit)
		var ids []string
		for _, p := range proxies {
			ids = append(ids, string(p.ID))
		}
		if got := strings.Join(ids, " "); err != nil || got != c.want {
			t.Errorf("%d of %q after %q are %q (%v), want %q", c.limit, c.environment, c.after.ID, got, err, c.want)
		}
	}
}

// Replicas save the same proxies in any order, and none is chosen to fail.
func TestReplicasSaveTheSameProxies(t *testing.T) {
	t.Parallel()
	f := open(t)
	var g errgroup.Group
	for r := range 4 {
		g.Go(func() error {
			for round := range 10 {
				var proxies []storage.Proxy
				for i := range 200 {
					proxies = append(proxies, proxy(fmt.Sprintf("p%03d#1", i), "aws", time.Duration(round)))
				}
				if r%2 == 0 {
					slices.Reverse(proxies)
				}
				if err := f.SaveProxies(t.Context(), "", proxies); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}
