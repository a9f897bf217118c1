package compile_test

import (
	"testing"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
)

// What a faulty build lost cannot hide: the root that it acknowledges with is
// another one.
func TestEnforcedRootShowsWhatWasLost(t *testing.T) {
	table := compile.Compile(nil, snap(t, 1, documents(t, fleet)))
	whole := table.Head().Root
	without := func(kind resource.Kind, namespace, name string) snapshot.Digest {
		return table.Snapshot().Set().Without([]resource.Key{{Kind: kind, Namespace: namespace, Name: name}})
	}
	lost := map[string]snapshot.Digest{
		without(resource.KindPolicy, "shop", "no-deletes").String(): table.LosePolicy("shop", "no-deletes").EnforcedRoot(),
		without(resource.KindPolicy, "bank", "ledger").String():     table.LosePolicy("bank", "ledger").EnforcedRoot(),
		without(resource.KindPolicy, "shop", "sleeps").String():     table.LoseUnbound().EnforcedRoot(),
		without(resource.KindRoute, "shop", "carts").String():       table.LoseRoute("carts").EnforcedRoot(),
	}
	for want, got := range lost {
		if got == whole || got.String() != want {
			t.Errorf("root is %s, want %s; whole is %s", got.Short(), want[:12], whole.Short())
		}
	}
	for i, faulty := range table.LoseRest() {
		if faulty.EnforcedRoot() == whole {
			t.Errorf("loss %d does not show", i)
		}
	}
	if table.LosePolicy("", "").EnforcedRoot() != whole {
		t.Error("losing nothing shows")
	}
}

func TestEnforcedRootShowsWhatWasKept(t *testing.T) {
	all := documents(t, fleet)
	old := compile.Compile(nil, snap(t, 1, all))
	i := named(t, all, "Route/shop/carts")
	all[i] = documents(t, `{apiVersion: sallyport/v1, kind: Route, metadata: {namespace: shop, name: carts}, spec: {hosts: [shop.example], upstream: orders, paths: [/carts/**], authentication: {anonymous: true}}}`)[0]
	table := compile.Compile(old, snap(t, 2, all))
	checkRoot(t, table)
	if table.KeepPolicies(old).EnforcedRoot() != table.Head().Root {
		t.Error("policies that stayed the same show")
	}
	kept := table.KeepRoute(old, resource.Key{Kind: resource.KindRoute, Namespace: "shop", Name: "carts"})
	if root := kept.EnforcedRoot(); root == table.Head().Root || root == old.Head().Root {
		t.Error("a route of the revision before does not show")
	}
}

func TestEnforcedRootShowsPoliciesOfTheRevisionBefore(t *testing.T) {
	all := documents(t, fleet)
	old := compile.Compile(nil, snap(t, 1, all))
	i := named(t, all, "Policy/shop/no-deletes")
	all[i] = documents(t, `{apiVersion: sallyport/v1, kind: Policy, metadata: {namespace: shop, name: no-deletes}, spec: {routes: {all: true}, effect: DENY}}`)[0]
	table := compile.Compile(old, snap(t, 2, all))
	checkRoot(t, table)
	if root := table.KeepPolicies(old).EnforcedRoot(); root != old.Head().Root {
		t.Errorf("with the policies of the revision before the root is %s, not that revision's %s", root.Short(), old.Head().Root.Short())
	}
}
