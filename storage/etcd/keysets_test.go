package etcd_test

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

// keySets returns a chain in which each key follows the one before it.
func keySets(t testing.TB, signers ...*snapshot.Signer) []*proxyv1.SignedKeySet {
	t.Helper()
	var last snapshot.KeySet
	var sets []*proxyv1.SignedKeySet
	for i, next := range signers[1:] {
		set, err := signers[i].SignKeySet(last, next.Public())
		if err != nil {
			t.Fatal(err)
		}
		sets, last = append(sets, set.Signed()), set
	}
	return sets
}

func knowing(t testing.TB, sets ...*proxyv1.SignedKeySet) *snapshot.Verifier {
	t.Helper()
	v := ours.Verifier()
	if n, err := v.Extend(sets); err != nil || n != len(sets) {
		t.Fatalf("%d of %d sets taken: %v", n, len(sets), err)
	}
	return v
}

func TestKeySetsArePublishedAndFed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := l.store()
	feed := l.follow(l.store(), never)
	reading := l.follow(l.store(), often)
	sets := keySets(t, ours, signer(2), signer(3))
	fed := func(want int) func() bool {
		return func() bool {
			for _, f := range []interface {
				KeySets() []*proxyv1.SignedKeySet
			}{feed, reading} {
				got := f.KeySets()
				if len(got) != want || want > 0 && !proto.Equal(got[want-1], sets[want-1]) {
					return false
				}
			}
			return true
		}
	}
	for n := range 3 {
		if err := s.PublishKeySets(t.Context(), knowing(t, sets[:n]...)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the key sets are fed", fed(n))
		if got, err := s.KeySets(t.Context()); err != nil || len(got) != n {
			t.Errorf("%d key sets are there, want %d (%v)", len(got), n, err)
		}
	}
	if err := s.PublishKeySets(t.Context(), knowing(t, sets[:1]...)); !errors.Is(err, storage.ErrAhead) {
		t.Errorf("who does not know the newest publishes: %v", err)
	}
	heads, err := s.Heads(t.Context(), ours.Verifier())
	if err != nil || len(heads) != 0 {
		t.Errorf("key sets are taken for heads: %v, %v", heads, err)
	}
}

func TestKeySetsAreMended(t *testing.T) {
	t.Parallel()
	sets := keySets(t, ours, signer(2))
	forged := keySets(t, ours, signer(9), signer(8)) // once ours leaked
	encode := func(set *proxyv1.SignedKeySet) string {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(set)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	key := func(l *lab, name string) string { return l.prefix + "/env/@keys/" + name }
	for name, spoil := range map[string]func(l *lab){
		"gone":                  func(l *lab) { l.remove(key(l, "000001")) },
		"damaged":               func(l *lab) { l.put(key(l, "000001"), "x") },
		"forged":                func(l *lab) { l.put(key(l, "000001"), encode(forged[0])) },
		"followed by a forgery": func(l *lab) { l.put(key(l, "000002"), encode(forged[1])) },
		"followed by rubbish":   func(l *lab) { l.put(key(l, "000002"), "x"); l.put(key(l, "7/head"), "y") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			s := l.store()
			v := knowing(t, sets...)
			if err := s.PublishKeySets(t.Context(), v); err != nil {
				t.Fatal(err)
			}
			spoil(l)
			if err := s.PublishKeySets(t.Context(), v); err != nil {
				t.Fatal(err)
			}
			all := l.all(key(l, ""))
			if len(all) != 1 || all[key(l, "000001")].bytes != encode(sets[0]) {
				t.Errorf("there is %v", all)
			}
			written := all[key(l, "000001")].revision
			if err := s.PublishKeySets(t.Context(), v); err != nil {
				t.Fatal(err)
			}
			if l.all(key(l, ""))[key(l, "000001")].revision != written {
				t.Error("what is there was written again")
			}
		})
	}
}
