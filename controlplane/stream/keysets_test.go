package stream_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// chain is a fleet's key sets, as the test signs them.
type chain []snapshot.KeySet

func (c *chain) add(t *testing.T, by *snapshot.Signer, keys ...*snapshot.Signer) snapshot.KeySet {
	t.Helper()
	var last snapshot.KeySet
	if n := len(*c); n > 0 {
		last = (*c)[n-1]
	}
	var public []snapshot.PublicKey
	for _, k := range keys {
		public = append(public, k.Public())
	}
	set, err := by.SignKeySet(last, public...)
	if err != nil {
		t.Fatal(err)
	}
	*c = append(*c, set)
	return set
}

func (c *chain) verifier(t *testing.T) *snapshot.Verifier {
	t.Helper()
	v := ours.Verifier()
	for _, set := range *c {
		if _, err := v.Extend([]*proxyv1.SignedKeySet{set.Signed()}); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

func (l *lab) publishKeySets(v *snapshot.Verifier) {
	l.Helper()
	if err := l.etcd.PublishKeySets(l.Context(), v); err != nil {
		l.Fatal(err)
	}
}

// introduced takes key sets up to a generation.
func (p *proxy) introduced(want snapshot.Generation) {
	p.Helper()
	for got := snapshot.Generation(0); got < want; {
		sets := p.next().GetKeySets().GetSets()
		if len(sets) == 0 {
			p.Fatal("not key sets")
		}
		last, err := snapshot.ParseKeySet(sets[len(sets)-1])
		if err != nil {
			p.Fatal(err)
		}
		got = last.Generation
	}
}

// Key sets reach a proxy before what they sign, and heads of a retired key do not.
func TestKeySetsAreSentFirst(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	second := signer(2)
	var c chain
	l.publish(aws(t, 5, documents{"a": "5"}))
	l.served("aws", 5)
	p := l.connect(awsID, "a", nil)
	p.updated(5, nil)
	p.ack()

	c.add(t, ours, ours, second)
	l.publishKeySets(c.verifier(t))
	p.introduced(1)
	next := statement{"aws", 6, second}.of(t, documents{"a": "6"})
	if err := l.etcd.Publish(t.Context(), c.verifier(t), next); err != nil {
		t.Fatal(err)
	}
	l.served("aws", 6)
	if u := p.next().GetUpdate(); u.GetHead() == nil || !proto.Equal(u.GetHead(), next.Head().Signed()) {
		t.Fatalf("the next message is %v", u)
	}

	c.add(t, second, second)
	l.publishKeySets(c.verifier(t))
	p.introduced(2)
	old := aws(t, 7, documents{"a": "7"})
	if err := l.etcd.Publish(t.Context(), ours.Verifier(), old); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a head of the retired key is refused", func() bool { return l.log.count("its key was retired") > 0 })
	if got := l.hub.State("aws").Snapshot.Head().Revision; got != 6 {
		t.Errorf("revision %d is served", got)
	}
	late := l.connect(awsID, "b", next)
	late.introduced(2)
}

// What is served carries the newest signature, and a proxy that has the head is sent
// nothing.
func TestHeadThatWasSignedAgain(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	second := signer(2)
	snap := aws(t, 5, documents{"a": "5"})
	l.publish(snap)
	l.served("aws", 5)
	current := l.connect(awsID, "a", snap)
	var c chain
	c.add(t, ours, ours, second)
	c.add(t, second, second)
	l.publishKeySets(c.verifier(t))
	head, err := second.SignHeadAgain(snap.Head())
	if err != nil {
		t.Fatal(err)
	}
	again, err := snapshot.Assemble(head, snap.Set())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.etcd.Publish(t.Context(), c.verifier(t), again); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new signature is served", func() bool {
		return l.hub.State("aws").Snapshot.Head().Key() == second.Public().ID()
	})
	current.introduced(2)
	l.confirmBy(second, again)
	if current.next().GetFreshness() == nil {
		t.Error("a proxy that is current was sent something else than freshness")
	}
	fresh := l.connect(awsID, "b", nil)
	fresh.introduced(2)
	if f := fresh.next(); !proto.Equal(f.GetUpdate().GetHead(), head.Signed()) {
		t.Errorf("a new proxy is sent %v", f)
	}
}

func (l *lab) confirmBy(by *snapshot.Signer, snap *snapshot.Snapshot) {
	l.Helper()
	head := snap.Head()
	f, err := by.SignFreshness(snapshot.Freshness{
		Epoch: head.Epoch, Environment: head.Environment, Revision: head.Revision, HeadDigest: head.Digest(), IssuedAt: time.Now(),
	})
	if err != nil {
		l.Fatal(err)
	}
	if err := l.etcd.PublishFreshness(l.Context(), head.Environment, f); err != nil {
		l.Fatal(err)
	}
}

// A key set of somebody else stops nothing, and is said once.
func TestForeignKeySetIsRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.publish(aws(t, 5, documents{"a": "5"}))
	l.served("aws", 5)
	var c, forged chain
	c.add(t, ours, signer(2))
	l.publishKeySets(c.verifier(t))
	eventually(t, "the set is taken", func() bool { return len(l.hub.KeySets()) == 1 })
	set := forged.add(t, ours, signer(9)) // the retired key leaked
	b, err := proto.Marshal(set.Signed())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := l.raw.Put(t.Context(), l.prefix+"/env/@keys/000001", string(b)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is refused", func() bool { return l.log.count("key set in etcd was refused") == 1 })
	}
	if got := l.hub.KeySets(); len(got) != 1 || got[0].Digest() != c[0].Digest() {
		t.Errorf("known are %d", len(got))
	}
}
