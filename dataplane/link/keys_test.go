package link_test

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/link"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// handover is who signs a key set, of the keys of which seeds.
type handover struct {
	by   byte
	keys []byte
}

func chain(t testing.TB, steps ...handover) []*proxyv1.SignedKeySet {
	t.Helper()
	var last snapshot.KeySet
	var sets []*proxyv1.SignedKeySet
	for _, s := range steps {
		var keys []snapshot.PublicKey
		for _, seed := range s.keys {
			keys = append(keys, signer(seed).Public())
		}
		set, err := signer(s.by).SignKeySet(last, keys...)
		if err != nil {
			t.Fatal(err)
		}
		sets, last = append(sets, set.Signed()), set
	}
	return sets
}

// twice is a fleet whose key was rotated two times: from 1 to 2, and to 3.
func twice(t testing.TB) []*proxyv1.SignedKeySet {
	t.Helper()
	return chain(t, handover{1, []byte{1, 2}}, handover{2, []byte{2}}, handover{2, []byte{2, 3}}, handover{3, []byte{3}})
}

func (v *conversation) introduce(sets ...*proxyv1.SignedKeySet) {
	v.tell <- &proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_KeySets{KeySets: &proxyv1.KeySets{Sets: sets}}}
}

// pinned has a process begin with the key that its settings pin, whatever another
// process has learned.
func pinned(c *link.Config) { c.Verifier = signer(1).Verifier() }

// signedAt is a snapshot at a revision that the key of a seed has signed.
func signedAt(t testing.TB, revision snapshot.Revision, seed byte) *snapshot.Snapshot {
	t.Helper()
	return place{env, 1, revision, seed}.sign(t, docs(t, map[string]string{"a": string(rune('a' + revision))}))
}

func TestProxyFollowsTheKeys(t *testing.T) {
	l := newLab(t)
	e := newTable()
	_, stop := l.start(t, e, pinned)
	v := l.stream(t)
	sets := twice(t)
	one, two := signedAt(t, 10, 1), signedAt(t, 11, 2)
	v.push(t, nil, one)
	v.introduce(sets[:1]...)
	v.push(t, one, two)
	v.introduce(sets[:2]...)
	retired := signedAt(t, 12, 1)
	v.send(slices.Collect(snapshot.Updates(two, retired))...)
	if r := v.refusal(t); r.GetReason() != "retired_key" {
		t.Errorf("a snapshot of the retired key is refused for %s", r.GetReason())
	}
	e.wantEnforced(t, two)
	v.confirm(freshness(t, two.Head(), time.Now())) // by the retired key
	eventually(t, "its confirmation is refused", func() bool { return l.metric(t, "sallyport_link_refusals_total") == 2 })
	v.introduce(sets...)
	three := signedAt(t, 12, 3)
	v.push(t, two, three)
	v.persisted(t, 12)
	if got := l.metric(t, "sallyport_key_set_generation"); got != 4 {
		t.Errorf("generation %v is shown", got)
	}
	stop()

	// It starts without a control plane, and from the network takes no step back.
	e = newTable()
	l.start(t, e, pinned)
	v = l.stream(t)
	e.wantEnforced(t, three)
	if got := l.metric(t, "sallyport_key_set_generation"); got != 4 {
		t.Errorf("after a restart generation %v is shown", got)
	}
	v.send(slices.Collect(snapshot.Updates(nil, signedAt(t, 13, 2)))...)
	if r := v.refusal(t); r.GetReason() != "retired_key" {
		t.Errorf("after a restart a snapshot of the retired key is refused for %s", r.GetReason())
	}
}

// A proxy that was away while keys changed goes on with what it has, though nobody
// would sign it any more, and is led on by the sets that it missed.
func TestProxyWasAwayForTwoRotations(t *testing.T) {
	l := newLab(t)
	old := signedAt(t, 10, 1)
	_, stop := l.start(t, newTable(), pinned)
	v := l.stream(t)
	v.push(t, nil, old)
	v.persisted(t, 10)
	stop()

	e := newTable()
	_, stop = l.start(t, e, pinned)
	v = l.stream(t)
	v.introduce(twice(t)...)
	next := signedAt(t, 11, 3)
	v.push(t, old, next)
	e.wantEnforced(t, next)
	stop()

	// What was in force when its key was retired stays so, over a restart as well.
	kept := signedAt(t, 12, 3)
	_, stop = l.start(t, newTable(), pinned)
	v = l.stream(t)
	v.push(t, next, kept)
	v.persisted(t, 12)
	v.introduce(chain(t, handover{1, []byte{1, 2}}, handover{2, []byte{2}}, handover{2, []byte{2, 3}}, handover{3, []byte{3}}, handover{3, []byte{4}})...)
	eventually(t, "the last set is taken", func() bool { return l.metric(t, "sallyport_key_set_generation") == 5 })
	stop()
	e = newTable()
	l.start(t, e, pinned)
	l.stream(t)
	e.wantEnforced(t, kept)
}

func TestForeignKeySetsAreRefused(t *testing.T) {
	l := newLab(t)
	e := newTable()
	l.start(t, e, pinned)
	v := l.stream(t)
	one := signedAt(t, 10, 1)
	v.push(t, nil, one)
	sets := twice(t)
	v.introduce(sets[:2]...)
	for i, c := range []struct {
		what string
		sets []*proxyv1.SignedKeySet
	}{
		{"another second set", chain(t, handover{1, []byte{1, 2}}, handover{1, []byte{9}})},
		{"another first set, once the first key leaked", chain(t, handover{1, []byte{9}}, handover{9, []byte{9}}, handover{9, []byte{9}})},
		{"a set of the retired key", []*proxyv1.SignedKeySet{third(t, sets[1], 1)}},
		{"a set of a key that never was", []*proxyv1.SignedKeySet{third(t, sets[1], 9)}},
		{"a gap", sets[3:]},
		{"nothing", []*proxyv1.SignedKeySet{nil}},
	} {
		v.introduce(c.sets...)
		eventually(t, c.what+" is refused", func() bool { return l.metric(t, "sallyport_link_refusals_total") == float64(i+1) })
		if got := l.metric(t, "sallyport_key_set_generation"); got != 2 {
			t.Errorf("after %s generation %v is known", c.what, got)
		}
	}
	v.push(t, one, signedAt(t, 11, 2)) // and goes on
}

// third is a set after another one, signed with a key that may not.
func third(t testing.TB, after *proxyv1.SignedKeySet, seed byte) *proxyv1.SignedKeySet {
	t.Helper()
	set, err := snapshot.ParseKeySet(after)
	if err != nil {
		t.Fatal(err)
	}
	key := signer(seed)
	honest, err := signer(2).SignKeySet(set, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	// The same bytes, with a signature of theirs over something else.
	head, err := key.SignHead(snapshot.Statement{Epoch: 1, Environment: env, Revision: 1})
	if err != nil {
		t.Fatal(err)
	}
	return &proxyv1.SignedKeySet{Set: honest.Signed().GetSet(), Signature: head.Signed().GetSignature(), KeyId: head.Signed().GetKeyId()}
}

// A file of key sets that is damaged, or of another fleet, is left alone, and the
// proxy learns anew.
func TestDamagedKeySets(t *testing.T) {
	l := newLab(t)
	_, stop := l.start(t, newTable(), pinned)
	v := l.stream(t)
	one := signedAt(t, 10, 1)
	v.push(t, nil, one)
	v.introduce(twice(t)...)
	two := signedAt(t, 11, 3)
	v.push(t, one, two)
	v.persisted(t, 11)
	stop()
	whole := l.read(t, "key-sets")
	for name, b := range map[string][]byte{"empty": nil, "torn": whole[:len(whole)/2], "flipped": append([]byte{whole[0] ^ 1}, whole[1:]...)} {
		t.Run(name, func(t *testing.T) {
			l.write(t, "key-sets", b)
			e := newTable()
			_, stop := l.start(t, e, pinned)
			defer stop()
			v := l.stream(t)
			v.introduce(twice(t)...)
			v.push(t, nil, two)
			e.wantEnforced(t, two)
		})
	}
}

// A disk that fails keeps no proxy from following, and is tried again.
func TestKeySetsAreWrittenAgain(t *testing.T) {
	l := newLab(t)
	l.start(t, newTable(), pinned)
	v := l.stream(t)
	one := signedAt(t, 10, 1)
	v.push(t, nil, one)
	if err := os.Mkdir(l.file("key-sets"), 0o700); err != nil {
		t.Fatal(err)
	}
	v.introduce(twice(t)...)
	two := signedAt(t, 11, 3)
	v.push(t, one, two)
	if err := os.Remove(l.file("key-sets")); err != nil {
		t.Fatal(err)
	}
	v.confirm(freshness(t, two.Head(), time.Now()))
	eventually(t, "they are written", func() bool { _, err := os.Stat(l.file("key-sets")); return err == nil })
}
