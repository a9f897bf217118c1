package rotation_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/rotation"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

func TestMain(m *testing.M) { os.Exit(storagetest.Main(m)) }

func signer(seed byte) *snapshot.Signer {
	return snapshot.NewSigner(ed25519.NewKeyFromSeed(slices.Repeat([]byte{seed}, ed25519.SeedSize)))
}

func id(seed byte) string { return signer(seed).Public().ID().String() }

// fleet is a database whose proxies pin key 1.
type fleet struct {
	*testing.T
	store *postgres.Store
}

func newFleet(t *testing.T) fleet {
	t.Helper()
	s, err := postgres.New(postgres.Config{DSN: storagetest.Postgres(t, postgres.Migrate), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return fleet{t, s}
}

// with returns the keys as settings with the key of a seed have them.
func (f fleet) with(seed byte) *rotation.Keys {
	return rotation.New(rotation.Config{
		Store: f.store, Published: published(nil), Signer: signer(seed), Verifier: signer(1).Verifier(), Caller: fmt.Sprintf("operator %d", seed),
	})
}

// published is what etcd holds.
type published []*proxyv1.SignedKeySet

func (p published) KeySets(context.Context) ([]*proxyv1.SignedKeySet, error) { return p, nil }

// sign has the key of a seed sign the newest head of the security lane.
func (f fleet) sign(seed byte) {
	f.Helper()
	term, err := f.store.BeginTerm(f.Context(), "test")
	if err != nil {
		f.Fatal(err)
	}
	head, err := signer(seed).SignHead(snapshot.Statement{Epoch: 1, Environment: snapshot.SecurityLane, Revision: 1})
	if err != nil {
		f.Fatal(err)
	}
	if err := f.store.SaveHeads(f.Context(), term, []snapshot.Head{head}); err != nil {
		f.Fatal(err)
	}
}

// want fails unless it is these keys that sign; the one that signed the newest head
// has a star.
func (f fleet) want(generation snapshot.Generation, keys string) {
	f.Helper()
	s, err := f.with(1).State(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	var got []string
	for _, k := range s.Keys {
		for seed := range byte(12) {
			if id(seed) != k.ID().String() {
				continue
			}
			name := fmt.Sprint(seed)
			if len(k.Heads) > 0 {
				name += "*"
			}
			if k.Ours != (seed == 1) {
				f.Errorf("key %d is ours: %v", seed, k.Ours)
			}
			got = append(got, name)
		}
	}
	if s.Generation != generation || strings.Join(got, " ") != keys {
		f.Errorf("generation %d is of %v, want %d of %s", s.Generation, got, generation, keys)
	}
}

func TestRotation(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	add := func(by, key byte) error {
		_, err := f.with(by).Add(t.Context(), signer(key).Public(), false)
		return err
	}
	retire := func(by byte, prefix string, forced bool) error {
		_, err := f.with(by).Retire(t.Context(), prefix, forced)
		return err
	}
	refused := func(what string, err error, text string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, want %q", what, err, text)
		}
	}
	f.sign(1)
	f.want(0, "1*")
	refused("the key that signs", add(1, 1), "signs already")
	refused("by a key that does not sign yet", add(2, 2), "does not sign for the fleet")
	refused("the only key", retire(1, id(1), true), "retire it with the key that stays")
	if err := add(1, 2); err != nil {
		t.Fatal(err)
	}
	f.want(1, "1* 2")
	refused("the key that signed what is newest", retire(2, id(1), false), "the newest heads of @security are signed with key")
	f.sign(2)
	f.want(1, "1 2*")
	refused("half a name", retire(2, id(1)[:7], false), "at least 8 characters")
	refused("a key that does not sign", retire(2, id(3), false), "0 keys")
	if err := retire(2, strings.ToUpper(id(1)[:8]), false); err != nil {
		t.Fatal(err)
	}
	f.want(2, "2*")
	refused("a key that was retired", add(2, 1), "was retired")
	refused("by a key that was retired", add(1, 3), "does not sign for the fleet")
	for seed := byte(3); seed <= 9; seed++ {
		if err := add(2, seed); err != nil {
			t.Fatal(err)
		}
	}
	refused("more keys than there can be", add(2, 10), "8 keys sign, which is the most")
	if err := retire(9, id(2), true); err != nil {
		t.Errorf("forced: %v", err)
	}

	entries, err := f.store.Entries(t.Context(), 0, 1)
	if err != nil || len(entries) != 1 {
		t.Fatal(err)
	}
	if e := entries[0]; e.Caller != "operator 1" || e.Action != "add signing key" || !e.Allowed || !strings.Contains(e.Detail, id(2)) {
		t.Errorf("the audit says %+v", e)
	}
}

// A proxy that cannot follow is not left behind: it is named, and what is known of it
// is not older than what says that it is connected.
func TestProxiesThatDoNotFollow(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	now := time.Now()
	add := func(key byte, forced bool) error {
		_, err := f.with(1).Add(t.Context(), signer(key).Public(), forced)
		return err
	}
	save := func(instance, replica string, protocol int32, seen time.Time) {
		status, err := proto.Marshal(&adminv1.Proxy{Build: "v0.1", ProtocolVersion: protocol})
		if err != nil {
			t.Fatal(err)
		}
		if err := f.store.SaveProxies(t.Context(), "", []storage.Proxy{{
			ID: storage.ProxyID("spiffe://prod.example/p#" + instance), SPIFFEID: "spiffe://prod.example/p", Instance: instance,
			Environment: "aws", Replica: replica, Status: status, RegisteredAt: now, LastSeen: seen,
		}}); err != nil {
			t.Fatal(err)
		}
	}
	save("current", "one", 2, now)
	save("later", "one", 3, now)
	save("lost", "", 1, now)
	save("silent", "one", 1, now.Add(-time.Minute))
	if err := add(2, false); err != nil {
		t.Fatalf("all that are connected follow: %v", err)
	}
	save("old", "one", 1, now)
	want := "upgrade spiffe://prod.example/p#old (build v0.1)"
	if err := add(3, false); err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("one does not follow: %v, want %q", err, want)
	}
	for i := range 10 {
		save(fmt.Sprintf("old-%d", i), "one", 1, now)
	}
	if err := add(3, false); err == nil || !strings.HasSuffix(err.Error(), "p#old-8 (build v0.1) and 1 more") {
		t.Errorf("many do not follow: %v", err)
	}
	f.want(1, "1 2")
	if err := add(3, true); err != nil {
		t.Errorf("forced: %v", err)
	}
	f.want(2, "1 2 3")
}

// Of two who change keys at once one is told.
func TestTwoRotateAtOnce(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	both := rotation.New(rotation.Config{Store: stale{f.store}, Published: published(nil), Signer: signer(1), Verifier: signer(1).Verifier(), Caller: "late"})
	if _, err := f.with(1).Add(t.Context(), signer(2).Public(), false); err != nil {
		t.Fatal(err)
	}
	if _, err := both.Add(t.Context(), signer(3).Public(), false); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("the second: %v", err)
	}
	f.want(1, "1 2")
}

// stale is the store as it was before anybody else changed it.
type stale struct{ *postgres.Store }

func (stale) KeySets(context.Context, snapshot.Generation) ([]*proxyv1.SignedKeySet, error) {
	return nil, nil
}

// A database from before rotations gets the sets back that etcd has, if the operator
// knows all of the keys.
func TestAdopt(t *testing.T) {
	t.Parallel()
	f, restored := newFleet(t), newFleet(t)
	for _, step := range []func() (snapshot.KeySet, error){
		func() (snapshot.KeySet, error) { return f.with(1).Add(t.Context(), signer(2).Public(), false) },
		func() (snapshot.KeySet, error) { return f.with(2).Retire(t.Context(), id(1), false) },
		func() (snapshot.KeySet, error) { return f.with(2).Add(t.Context(), signer(3).Public(), false) },
	} {
		if _, err := step(); err != nil {
			t.Fatal(err)
		}
	}
	sets, err := f.store.KeySets(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	adopt := func(there []*proxyv1.SignedKeySet, ids ...string) error {
		k := rotation.New(rotation.Config{Store: restored.store, Published: published(there), Signer: signer(2), Verifier: signer(1).Verifier(), Caller: "test"})
		return k.Adopt(t.Context(), ids)
	}
	thief, err := signer(1).SignKeySet(snapshot.KeySet{}, signer(2).Public(), signer(9).Public())
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		there []*proxyv1.SignedKeySet
		ids   []string
		want  string
	}{
		"nothing is there":             {nil, []string{id(2)}, "no later key set than generation 0"},
		"one key is not named":         {sets, []string{id(2)[:12]}, "key " + id(3) + " (Ed25519) would sign as well"},
		"a thief's, beside ours":       {[]*proxyv1.SignedKeySet{thief.Signed()}, []string{id(2)}, "key " + id(9) + " (Ed25519) would sign as well"},
		"a key that would not sign":    {sets, []string{id(2), id(3), id(1)}, "0 keys that sign begin with"},
		"sets that do not follow":      {sets[1:], []string{id(2)}, "no later key set than generation 0"},
		"a set that nobody has signed": {[]*proxyv1.SignedKeySet{sets[0], thief.Signed()}, []string{id(2)}, "another one of generation 1 is known"},
	} {
		if err := adopt(c.there, c.ids...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
	restored.want(0, "1")
	// One of two etcds is behind the other.
	if err := adopt(slices.Concat(sets[:1], sets), id(2)[:12], id(3)); err != nil {
		t.Fatal(err)
	}
	restored.want(3, "2 3")
	if err := adopt(sets, id(2), id(3)); err == nil || !strings.Contains(err.Error(), "no later key set than generation 3") {
		t.Errorf("again: %v", err)
	}
}

func TestAnotherRootIsPinned(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	if _, err := f.with(1).Add(t.Context(), signer(2).Public(), false); err != nil {
		t.Fatal(err)
	}
	k := rotation.New(rotation.Config{Store: f.store, Published: published(nil), Signer: signer(2), Verifier: signer(2).Verifier(), Caller: "test"})
	if _, err := k.State(t.Context()); err == nil || !strings.Contains(err.Error(), "is root_public_key_file what proxies pin?") {
		t.Errorf("state: %v", err)
	}
}
