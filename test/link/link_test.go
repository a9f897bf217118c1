package link_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// clouds are two environments, with an Enrollment each.
const clouds = `
apiVersion: sallyport/v1
kind: Environment
metadata: {name: aws}
spec: {}
---
apiVersion: sallyport/v1
kind: Environment
metadata: {name: gcp}
spec: {}
---
apiVersion: sallyport/v1
kind: Enrollment
metadata: {name: aws}
spec: {spiffe_id: "spiffe://prod.example/proxy/aws/*", environment: aws}
---
apiVersion: sallyport/v1
kind: Enrollment
metadata: {name: gcp}
spec: {spiffe_id: "spiffe://prod.example/proxy/gcp/*", environment: gcp}
---
apiVersion: sallyport/v1
kind: Upstream
metadata: {namespace: shop, name: orders}
spec: {endpoints: ["127.0.0.1:9"], plaintext: {}}
---
apiVersion: sallyport/v1
kind: Route
metadata: {namespace: shop, name: orders}
spec: {hosts: [api.example], upstream: orders, authentication: {client_certificates: true}}
`

// policy returns a policy, of all environments unless some are named.
func policy(name, path string, environments ...string) string {
	list := ""
	for _, e := range environments {
		list += e + ","
	}
	return fmt.Sprintf(`
apiVersion: sallyport/v1
kind: Policy
metadata: {namespace: shop, name: %s}
spec: {environments: [%s], routes: {all: true}, effect: ALLOW, principals: [{spiffe: "spiffe://prod.example/**"}], paths: [%q]}
`, name, list, path)
}

func policyKey(name string) resource.Key {
	return resource.Key{Kind: resource.KindPolicy, Namespace: "shop", Name: name}
}

// What is committed is enforced by every proxy of the environment, proven and
// kept on its disk.
func TestChangesAreEnforcedAndProven(t *testing.T) {
	f := newFleet(t)
	first := f.commit(clouds)
	r := f.replica("one")
	p := f.proxy("aws/1", newTable(), r.url)
	known := r.enforced(p, first, enforced)
	if known.GetEnvironment() != "aws" || known.GetInstance() != "one" || known.GetBuild() != "test" || known.GetProtocolVersion() != int32(snapshot.NewestProtocol) || len(known.GetLacks()) > 0 {
		t.Errorf("the control plane knows %v", known)
	}
	for _, change := range []func() snapshot.Revision{
		func() snapshot.Revision { return f.commit(policy("reads", "/v1/orders/{id}")) },
		func() snapshot.Revision { return f.commit(policy("reads", "/v1/**")) },
		func() snapshot.Revision { return f.remove(policyKey("reads")) },
	} {
		r.enforced(p, change(), enforced)
	}
	last := f.commit(policy("writes", "/v1/orders"))
	r.await(p, "on disk", func(k *adminv1.Proxy) bool { return k.GetPersistedRevision() == int64(last) })
	r.await(p, "confirmed", func(k *adminv1.Proxy) bool {
		return k.GetConfigurationAge() != nil && k.GetIdentityExpiresAt() != nil && len(k.GetListeners()) == 1
	})
	if _, there := p.table.live.Load().Snapshot().Set().Lookup(policyKey("reads")); there {
		t.Error("a policy that was deleted is still there")
	}
}

// A proxy whose SPIFFE ID no Enrollment matches gets nothing, until one does.
func TestPendingUntilEnrolled(t *testing.T) {
	f := newFleet(t)
	f.commit(clouds)
	r := f.replica("one")
	p := f.proxy("onprem/1", newTable(), r.url)
	known := r.await(p, "pending", func(k *adminv1.Proxy) bool { return k.GetConnection() == adminv1.Connection_CONNECTION_PENDING })
	if known.GetEnvironment() != "" || p.link.Enforcing() {
		t.Errorf("a pending proxy got something: %v", known)
	}
	f.commit(`
apiVersion: sallyport/v1
kind: Enrollment
metadata: {name: onprem}
spec: {spiffe_id: "spiffe://prod.example/proxy/onprem/*", environment: gcp}
`)
	r.await(p, "enforced", func(k *adminv1.Proxy) bool {
		return k.GetEnvironment() == "gcp" && k.GetEnforcement() == enforced
	})
}

// A proxy gets what its environment holds, and nothing of another.
func TestEnvironmentsAreApart(t *testing.T) {
	f := newFleet(t)
	both := f.commit(clouds)
	r := f.replica("one")
	aws, gcp := f.proxy("aws/1", newTable(), r.url), f.proxy("gcp/1", newTable(), r.url)
	r.enforced(aws, both, enforced)
	r.enforced(gcp, both, enforced)
	only := f.commit(policy("only-aws", "/aws", "aws"))
	r.enforced(aws, only, enforced)
	last := f.commit(policy("only-gcp", "/gcp", "gcp"))
	r.enforced(gcp, last, enforced)
	shared := []string{"Route/shop/orders", "Upstream/shop/orders"}
	for _, c := range []struct {
		p     *proxy
		swaps int64
		want  []string
	}{
		{aws, 2, append([]string{"Environment/aws", "Policy/shop/only-aws"}, shared...)},
		{gcp, 2, append([]string{"Environment/gcp", "Policy/shop/only-gcp"}, shared...)},
	} {
		if got := c.p.table.names(); !slices.Equal(got, c.want) {
			t.Errorf("%s holds %q, want %q", c.p.id, got, c.want)
		}
		if got := c.p.table.swaps.Load(); got != c.swaps {
			t.Errorf("%s was sent %d snapshots, want %d: what does not touch it is not its business", c.p.id, got, c.swaps)
		}
	}
	if known := r.proxy(aws); known.GetRevision() != int64(only) {
		t.Errorf("aws is at revision %d, want %d", known.GetRevision(), only)
	}
}

// What a proxy says is judged by what it should say: a build whose swap does
// nothing, or that loses something, cannot hide it.
func TestFaultyBuildsShowAsDrift(t *testing.T) {
	lose := func(f *fleet, key resource.Key) func(*compile.Table, *snapshot.Snapshot) *compile.Table {
		return func(_ *compile.Table, s *snapshot.Snapshot) *compile.Table {
			less := s.Set().With(nil, []resource.Key{key})
			head, err := f.signer.SignHead(snapshot.Statement{
				Epoch: s.Head().Epoch, Environment: s.Head().Environment, Revision: s.Head().Revision,
				Root: less.Root(), Documents: less.Len(),
			})
			if err != nil {
				panic(err)
			}
			lost, err := snapshot.Assemble(head, less)
			if err != nil {
				panic(err)
			}
			return compile.Compile(nil, lost)
		}
	}
	for _, c := range []struct {
		name  string
		build func(*fleet) func(*compile.Table, *snapshot.Snapshot) *compile.Table
		want  adminv1.Enforcement
	}{
		{"as it should be", func(*fleet) func(*compile.Table, *snapshot.Snapshot) *compile.Table { return compile.Compile }, enforced},
		{"the swap does nothing", func(*fleet) func(*compile.Table, *snapshot.Snapshot) *compile.Table {
			return func(live *compile.Table, _ *snapshot.Snapshot) *compile.Table { return live }
		}, drift},
		{"the swap does nothing any more", func(*fleet) func(*compile.Table, *snapshot.Snapshot) *compile.Table {
			return func(live *compile.Table, s *snapshot.Snapshot) *compile.Table {
				if live != nil {
					return live
				}
				return compile.Compile(nil, s)
			}
		}, drift},
		{"a policy is lost", func(f *fleet) func(*compile.Table, *snapshot.Snapshot) *compile.Table {
			return lose(f, policyKey("reads"))
		}, drift},
		{"a route is lost", func(f *fleet) func(*compile.Table, *snapshot.Snapshot) *compile.Table {
			return lose(f, resource.Key{Kind: resource.KindRoute, Namespace: "shop", Name: "orders"})
		}, drift},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFleet(t)
			first := f.commit(clouds)
			r := f.replica("one")
			e := newTable()
			e.compile = c.build(f)
			p := f.proxy("aws/1", e, r.url)
			r.await(p, "acknowledged", func(k *adminv1.Proxy) bool { return k.GetRevision() == int64(first) })
			r.enforced(p, f.commit(policy("reads", "/v1/**")), c.want)
			if got, want := r.drifting(), map[bool]float64{true: 1}[c.want == drift]; got != want {
				t.Errorf("the alarm says that %v proxies drift, want %v", got, want)
			}
		})
	}
}

// A resource from a newer build is rejected by name, and that is proven too.
func TestResourceOfANewerBuild(t *testing.T) {
	f := newFleet(t)
	f.commit(clouds)
	r := f.replica("one")
	p := f.proxy("aws/1", newTable(), r.url)
	revision := f.commitNewer(policyKey("future"))
	known := r.enforced(p, revision, rejects)
	if got := known.GetRejects(); len(got) != 1 || got[0].GetKind() != "Policy" || got[0].GetName() != "future" || got[0].GetReason() == "" {
		t.Errorf("rejects are %v", got)
	}
}

// A replica that ends hands its proxies over. They are current, so nothing is
// sent to them again.
func TestReplicaIsReplacedWithoutResync(t *testing.T) {
	for name, end := range map[string]func(*replica){
		"drained": func(r *replica) { r.service.Drain() },
		"killed":  func(r *replica) { r.stop() },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t)
			revision := f.commit(clouds)
			first := f.replica("one")
			p := f.proxy("aws/1", newTable(), first.url)
			first.enforced(p, revision, enforced)
			second := f.replica("two")
			p.stop()
			first.await(p, "lost", func(k *adminv1.Proxy) bool { return k.GetConnection() == adminv1.Connection_CONNECTION_LOST })
			f.start(p, first.url, second.url)
			eventually(t, "enforced from disk", p.link.Enforcing) // until then a record may be of the life before
			held := first
			eventually(t, "connected again", func() bool {
				for _, r := range []*replica{first, second} {
					if k := r.proxy(p); k.GetConnection() == adminv1.Connection_CONNECTION_CONNECTED {
						held = r
						return true
					}
				}
				return false
			})
			before := p.table.swaps.Load()
			end(held)
			other := first
			if held == first {
				other = second
			}
			other.enforced(p, revision, enforced)
			if after := p.table.swaps.Load(); after != before {
				t.Errorf("was sent %d snapshots that it had", after-before)
			}
			other.enforced(p, f.commit(policy("reads", "/v1/**")), enforced)
		})
	}
}

// Without a control plane a proxy goes on, restarts from its disk, and catches
// up with what was committed meanwhile.
func TestControlPlaneGoneAndBack(t *testing.T) {
	f := newFleet(t)
	first := f.commit(clouds)
	r := f.replica("one")
	p := f.proxy("aws/1", newTable(), r.url)
	r.await(p, "on disk and confirmed", func(k *adminv1.Proxy) bool {
		return k.GetPersistedRevision() == int64(first) && k.GetConfigurationAge() != nil
	})
	r.stop()
	p.stop()
	p.table, p.cuts = newTable(), &cuts{}
	f.start(p, r.url)
	eventually(t, "enforced from disk", p.link.Enforcing)
	if got := p.table.live.Load().Head().Revision; got != first {
		t.Errorf("restarted at revision %d, want %d", got, first)
	}
	if _, known := p.link.Age(); !known {
		t.Error("the age was forgotten")
	}
	var last snapshot.Revision
	for i := range 40 { // more than a replica remembers
		last = f.commit(policy("reads", fmt.Sprintf("/v%d/**", i)))
	}
	back := f.replica("one", r.url)
	back.enforced(p, last, enforced)
	if n := p.table.swaps.Load(); n != 2 {
		t.Errorf("caught up with %d snapshots, want one besides that from disk", n-1)
	}
}

// An Enrollment that changes moves the proxy, and only the proxies it names.
func TestEnrollmentMovesAProxy(t *testing.T) {
	f := newFleet(t)
	f.commit(clouds)
	busy := f.commit(policy("only-aws", "/aws", "aws"))
	r := f.replica("one")
	p, other := f.proxy("aws/1", newTable(), r.url), f.proxy("gcp/1", newTable(), r.url)
	r.enforced(p, busy, enforced)
	r.await(other, "enforced", func(k *adminv1.Proxy) bool { return k.GetEnforcement() == enforced })
	f.commit(`
apiVersion: sallyport/v1
kind: Enrollment
metadata: {name: aws}
spec: {spiffe_id: "spiffe://prod.example/proxy/aws/*", environment: gcp}
`)
	// gcp's newest revision is before what the proxy enforced of aws.
	r.await(p, "moved", func(k *adminv1.Proxy) bool {
		return k.GetEnvironment() == "gcp" && k.GetEnforcement() == enforced && k.GetRevision() < int64(busy)
	})
	if got := p.table.names(); slices.Contains(got, "Policy/shop/only-aws") {
		t.Errorf("still holds %q", got)
	}
	if n := other.table.swaps.Load(); n != 1 {
		t.Errorf("the other proxy was sent %d snapshots", n)
	}
}

// What somebody else writes to etcd opens no gate, even on a replica that would
// pass it on.
func TestForeignSnapshotsAreRefusedByTheProxy(t *testing.T) {
	f := newFleet(t)
	first := f.commit(clouds)
	r := f.replica("one")
	p := f.proxy("aws/1", newTable(), r.url)
	r.enforced(p, first, enforced)
	r.stop()

	// The whole control plane is somebody else's, but for its identity.
	evil := *f
	evil.signer = signer(2)
	evil.prefix += "-evil"
	evil.newDatabase()
	evil.commit(clouds)
	evil.commit(policy("everybody", "/**"))
	theirs := evil.replica("evil", r.url)
	known := theirs.await(p, "refused", func(k *adminv1.Proxy) bool { return k.GetRefusal() != "" })
	if got := known.GetRefusal(); got[:len("bad_signature")] != "bad_signature" {
		t.Errorf("refused for %q", got)
	}
	if got := p.table.live.Load().Head(); got.Revision != first || p.table.swaps.Load() != 1 {
		t.Errorf("enforces revision %d after %d swaps", got.Revision, p.table.swaps.Load())
	}
}
