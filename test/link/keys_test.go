package link_test

import (
	"net"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/rotation"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// keys are those of the fleet as an operator has them who signs with a key.
func (f *fleet) keys(s *snapshot.Signer) *rotation.Keys {
	return rotation.New(rotation.Config{Store: f.database, Signer: s, Verifier: f.signer.Verifier(), Caller: "test"})
}

// rotate replaces the signing key as operators do: the next one signs as well, a
// replica with it replaces the one before, and the key of before is retired when
// nothing that is newest is signed with it any more.
func (f *fleet) rotate(old *replica, from, to *snapshot.Signer, address ...string) *replica {
	f.Helper()
	if _, err := f.keys(from).Add(f.Context(), to.Public(), false); err != nil {
		f.Fatal(err)
	}
	f.signing = to
	next := f.replica("with "+to.Public().ID().Short(), address...)
	old.service.Drain()
	old.stop()
	eventually(f.T, "the key can be retired", func() bool {
		_, err := f.keys(to).Retire(f.Context(), from.Public().ID().String(), false)
		return err == nil
	})
	return next
}

func TestKeysAreRotatedWithProxiesConnectedAndAway(t *testing.T) {
	f := newFleet(t)
	first := f.commit(clouds)
	one, two, three := signer(1), signer(2), signer(3)
	r, other := f.replica("one"), freeURL(t)
	current := f.proxy("aws/1", newTable(), r.url, other)
	away := f.proxy("aws/2", newTable(), r.url)
	for _, p := range []*proxy{current, away} {
		r.await(p, "on disk", func(k *adminv1.Proxy) bool { return k.GetPersistedRevision() == int64(first) })
	}
	away.stop()
	begin := r.url
	r = f.rotate(r, one, two, other)
	r.enforced(current, first, enforced)
	r = f.rotate(r, two, three, begin)
	r.enforced(current, first, enforced)
	if n := current.table.swaps.Load(); n != 1 {
		t.Errorf("rotating made a proxy apply %d snapshots", n-1)
	}
	last := f.commit(policy("reads", "/v1/**"))
	r.enforced(current, last, enforced)

	swaps := away.table.swaps.Load()
	f.start(away, r.url)
	r.enforced(away, last, enforced)
	if n := away.table.swaps.Load() - swaps; n != 2 {
		t.Errorf("who was away has applied %d snapshots, want that from disk and one more", n)
	}
	fresh := f.proxy("aws/3", newTable(), r.url)
	r.enforced(fresh, last, enforced)
}

// freeURL is an address that was free a moment ago.
func freeURL(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return "https://" + ln.Addr().String()
}

// A key that leaked signs nothing any more once it is retired: neither through etcd
// nor for who speaks as the control plane.
func TestStolenRetiredKey(t *testing.T) {
	f := newFleet(t)
	first := f.commit(clouds)
	one, two := signer(1), signer(2)
	r := f.replica("one")
	r = f.rotate(r, one, two)
	p := f.proxy("aws/1", newTable(), r.url)
	r.await(p, "on disk", func(k *adminv1.Proxy) bool {
		return k.GetEnforcement() == enforced && k.GetPersistedRevision() == int64(first)
	})

	// Written to etcd, it is not even served, and the publisher mends it.
	raw, err := clientv3.New(clientv3.Config{Endpoints: f.endpoints})
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	key := f.prefix + "/env/aws/head"
	b, err := proto.Marshal(&distributionv1.PublishedHead{Head: forged(t, one)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Put(t.Context(), key, string(b)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "etcd is mended", func() bool {
		got, err := raw.Get(t.Context(), key)
		return err == nil && len(got.Kvs) == 1 && string(got.Kvs[0].Value) != string(b)
	})
	if got := p.table.live.Load().Head().Revision; got != first {
		t.Errorf("enforces revision %d", got)
	}
	r.stop()

	// The whole control plane is the thief's, with its identity and the retired key,
	// which has no key set of ours.
	evil := *f
	evil.signing, evil.prefix = nil, f.prefix+"-evil"
	evil.newDatabase()
	evil.commit(clouds)
	evil.commit(policy("everybody", "/**"))
	theirs := evil.replica("evil", r.url)
	known := theirs.await(p, "refused", func(k *adminv1.Proxy) bool { return k.GetRefusal() != "" })
	if !strings.HasPrefix(known.GetRefusal(), "retired_key") {
		t.Errorf("refused for %q", known.GetRefusal())
	}
	// Nor does a chain of the thief's own help: the proxy knows of another.
	if _, err := evil.keys(one).Add(t.Context(), signer(9).Public(), false); err != nil {
		t.Fatal(err)
	}
	evil.signing = signer(9)
	theirs.stop()
	theirs = evil.replica("evil", r.url)
	theirs.await(p, "refused again", func(k *adminv1.Proxy) bool { return k.GetRefusal() != "" })
	if got := p.table.live.Load().Head().Revision; got != first {
		t.Errorf("enforces revision %d of the thief's", got)
	}
	p.stop()
	f.start(p, r.url)
	eventually(t, "it is enforced from disk", p.link.Enforcing)
	if got := p.table.live.Load().Head().Revision; got != first {
		t.Errorf("after a restart it enforces revision %d", got)
	}
}

// forged is a head far ahead that a key has signed.
func forged(t *testing.T, by *snapshot.Signer) *proxyv1.SignedHead {
	t.Helper()
	set := snapshot.NewSet()
	head, err := by.SignHead(snapshot.Statement{Epoch: 1, Environment: "aws", Revision: 1000, Root: set.Root()})
	if err != nil {
		t.Fatal(err)
	}
	return head.Signed()
}
