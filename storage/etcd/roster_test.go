package etcd_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/etcd"
	"github.com/sallyport/sallyport/storage/storagetest"
)

// roster signs a statement about a body.
func roster(t *testing.T, by *snapshot.Signer, epoch snapshot.Epoch, sequence int64, body string) *distributionv1.SignedRoster {
	t.Helper()
	signed, err := by.SignRoster(snapshot.Roster{
		Epoch: epoch, Sequence: sequence, Digest: sha256.Sum256([]byte(body)), IssuedAt: time.Unix(1_000_000, 0),
	})
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func TestRosterIsPublished(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := l.store()
	publish := func(signed *distributionv1.SignedRoster, body string) error {
		return s.PublishRoster(t.Context(), ours.Verifier(), signed, []byte(body))
	}
	there := func(want *distributionv1.SignedRoster, body string) {
		t.Helper()
		all := l.all(l.prefix + "/env/")
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(want)
		if err != nil || all[l.prefix+"/env/@roster/statement"].bytes != string(b) || all[l.prefix+"/env/@roster/body"].bytes != body {
			t.Errorf("there is %v (%v)", all, err)
		}
	}
	first, second, confirmed := roster(t, ours, 1, 5, "a"), roster(t, ours, 1, 6, "b"), roster(t, ours, 1, 7, "b")
	if err := publish(first, "a"); err != nil {
		t.Fatal(err)
	}
	there(first, "a")
	if err := publish(second, "b"); err != nil {
		t.Fatal(err)
	}
	there(second, "b")
	written := l.all(l.prefix + "/env/@roster/body")
	if err := publish(confirmed, "b"); err != nil {
		t.Fatal(err)
	}
	there(confirmed, "b")
	if again := l.all(l.prefix + "/env/@roster/body"); again[l.prefix+"/env/@roster/body"] != written[l.prefix+"/env/@roster/body"] {
		t.Error("the same body was written again")
	}
	for name, old := range map[string]*distributionv1.SignedRoster{"an older one": first, "an older confirmation": second} {
		if err := publish(old, "a"); !errors.Is(err, storage.ErrAhead) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := publish(roster(t, signer(2), 1, 9, "c"), "c"); !errors.Is(err, snapshot.ErrSignature) {
		t.Errorf("somebody else's: %v", err)
	}
	there(confirmed, "b")
	later := roster(t, ours, 2, 1, "d")
	if err := publish(later, "d"); err != nil {
		t.Fatal(err)
	}
	there(later, "d")
}

// What anybody puts in its place is overwritten, and never taken for something else.
func TestRosterIsMended(t *testing.T) {
	t.Parallel()
	forged, err := proto.Marshal(roster(t, signer(9), 9, 9, "x"))
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(l *lab, statement, body string){
		"gone":    func(l *lab, statement, body string) { l.remove(statement); l.remove(body) },
		"damaged": func(l *lab, statement, body string) { l.put(statement, "x"); l.put(body, "y") },
		"forged":  func(l *lab, statement, _ string) { l.put(statement, string(forged)) },
		"huge": func(l *lab, statement, body string) {
			l.put(body, string(make([]byte, etcd.MaxRoster+1)))
			l.put(statement, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			s := l.store()
			f := etcd.NewFeed(s)
			run(t, f.Run)
			signed := roster(t, ours, 1, 5, "a")
			there := func() bool {
				got, body := f.Roster()
				return proto.Equal(got, signed) && bytes.Equal(body, []byte("a"))
			}
			publish := func() {
				if err := s.PublishRoster(t.Context(), ours.Verifier(), signed, []byte("a")); err != nil {
					t.Fatal(err)
				}
			}
			publish()
			eventually(t, "it is fed", there)
			spoil(l, l.prefix+"/env/@roster/statement", l.prefix+"/env/@roster/body")
			publish()
			eventually(t, "it is fed again", there)
			if heads, freshness := f.Heads(), f.Freshness(); len(heads)+len(freshness) > 0 {
				t.Errorf("it is taken for %v, %v", heads, freshness)
			}
		})
	}
}

// The key of who is elected is in the etcd of the election, and in no other.
func TestLeaderKeyIsOfOneEtcd(t *testing.T) {
	t.Parallel()
	l, elsewhere := newLab(t), labAt(t, storagetest.NewEtcd(t).Endpoints())
	s, other := l.store(), elsewhere.store()
	if key, err := s.LeaderKey(t.Context()); err == nil {
		t.Errorf("without a leader there is %q", key)
	}
	var key string
	err := s.Lead(t.Context(), "one", func(ctx context.Context) (err error) {
		key, err = s.LeaderKey(ctx)
		return err
	})
	if err != nil || !strings.HasPrefix(key, l.prefix+"/leader/") {
		t.Fatalf("the key is %q (%v)", key, err)
	}
	if err := s.Lead(t.Context(), "two", func(ctx context.Context) error {
		next, err := s.LeaderKey(ctx)
		if next == key {
			t.Error("two leaders have the same key")
		}
		for _, c := range []struct {
			store *etcd.Store
			key   string
			want  bool
		}{{s, next, true}, {s, key, false}, {other, next, false}} {
			if there, err := c.store.Has(ctx, c.key); err != nil || there != c.want {
				t.Errorf("%s is there: %v (%v), want %v", c.key, there, err, c.want)
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
