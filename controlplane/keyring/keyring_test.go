package keyring_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/controlplane/keyring"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

func TestMain(m *testing.M) {
	code := storagetest.Main(m)
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var start = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// Over a year, whoever looks in and whenever, there is a key to seal with that was
// known an hour before, and every session can be opened that has not expired.
func TestRotate(t *testing.T) {
	for name, every := range map[string]time.Duration{
		"looked at all the time": 10 * time.Minute, "looked at twice a day": 11 * time.Hour,
		"away for a weekend": 61 * time.Hour, "away for weeks": 17 * 24 * time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			var keys []session.Key
			known := map[session.KeyID]time.Time{}
			sealed := map[session.KeyID]time.Time{}
			for now := start; now.Before(start.AddDate(1, 0, 0)); now = now.Add(every) {
				keys = keyring.Rotate(keys, now)
				ring, err := session.NewRing("aws", keys...)
				if err != nil || !ring.Ready(now) {
					t.Fatalf("at %s: %d keys, %v", now, len(keys), err)
				}
				// Until it is looked at again, a proxy goes on with this ring.
				for at := now; at.Before(now.Add(min(every, 48*time.Hour))); at = at.Add(time.Hour) {
					inUse := newest(keys, at)
					if _, ok := known[inUse.ID]; !ok {
						known[inUse.ID] = now
					}
					sealed[inUse.ID] = at
				}
				for id, last := range sealed {
					has := slices.ContainsFunc(keys, func(k session.Key) bool { return k.ID == id })
					if !has && now.Sub(last) < session.MaxLifetime {
						t.Fatalf("at %s: the key is gone that sealed at %s", now, last)
					}
				}
				for _, k := range keys {
					if _, ok := known[k.ID]; !ok {
						known[k.ID] = now
						if len(known) > 1 && k.From.Sub(now) < time.Hour {
							t.Fatalf("at %s: a key is made that begins at %s", now, k.From)
						}
					}
				}
			}
			if len(sealed) < 20 {
				t.Errorf("%d keys were used in a year", len(sealed))
			}
		})
	}
}

func newest(keys []session.Key, at time.Time) session.Key {
	var found session.Key
	for _, k := range keys {
		if !k.From.After(at) && k.From.After(found.From) {
			found = k
		}
	}
	return found
}

func signingKey(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

func open(t *testing.T, dsn string) *postgres.Store {
	t.Helper()
	store, err := postgres.New(postgres.Config{DSN: dsn, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	return store
}

// replica runs a keyring until the test ends.
func replica(t *testing.T, store storage.CookieKeys, key ed25519.PrivateKey) *keyring.Keyring {
	t.Helper()
	k, err := keyring.New(keyring.Config{Store: store, Key: key, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return k
}

// ring waits for the keys of an environment.
func ring(t *testing.T, k *keyring.Keyring, environment string) *session.Ring {
	t.Helper()
	for {
		s := k.State(environment)
		if s.Ring != nil {
			return s.Ring
		}
		select {
		case <-s.Changed:
		case <-time.After(30 * time.Second):
			t.Fatal("there are no keys")
		}
	}
}

// Replicas agree on the keys of an environment; another environment has others;
// and the database does not tell them.
func TestReplicasShareKeys(t *testing.T) {
	dsn := storagetest.Postgres(t, postgres.Migrate)
	store := open(t, dsn)
	one, two := replica(t, store, signingKey(1)), replica(t, open(t, dsn), signingKey(1))
	aws := ring(t, one, "aws")
	if got := ring(t, two, "aws"); !slices.Equal(got.Keys(), aws.Keys()) || len(got.Keys()) != 2 {
		t.Errorf("replicas have %v and %v", aws.Keys(), got.Keys())
	}
	for _, k := range ring(t, one, "gcp").Keys() {
		if slices.Contains(aws.Keys(), k) {
			t.Error("two environments share a key")
		}
	}
	stored := func(environment string) (all []storage.CookieKey) {
		err := store.ReviseCookieKeys(t.Context(), environment, func(k []storage.CookieKey) ([]storage.CookieKey, error) {
			all = k
			return k, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	before := stored("aws")
	for _, s := range before {
		for _, k := range aws.Keys() {
			if bytes.Contains(s.Sealed, k.Secret[:]) {
				t.Error("a key is stored in the clear")
			}
		}
	}
	// What cannot be decrypted, for its key or its place, is replaced.
	if err := store.ReviseCookieKeys(t.Context(), "moved", func([]storage.CookieKey) ([]storage.CookieKey, error) { return before, nil }); err != nil {
		t.Fatal(err)
	}
	moved := ring(t, one, "moved")
	foreign := ring(t, replica(t, store, signingKey(2)), "aws")
	for _, k := range aws.Keys() {
		if slices.Contains(moved.Keys(), k) || slices.Contains(foreign.Keys(), k) {
			t.Error("a key was taken for one of another environment or fleet")
		}
	}
}

// gone is a database that cannot be reached, as long as down says so.
type gone struct {
	storage.CookieKeys
	down atomic.Bool
	keys []storage.CookieKey
}

func (g *gone) ReviseCookieKeys(_ context.Context, _ string, revise func([]storage.CookieKey) ([]storage.CookieKey, error)) error {
	if g.down.Load() {
		return storage.ErrUnavailable
	}
	keys, err := revise(g.keys)
	g.keys = keys
	return errors.Join(err)
}

// Keys are rotated by the clock alone, and those that were read stay in use while
// the database is away.
func TestKeysOutliveTheDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pass := func(d time.Duration) { <-time.After(d); synctest.Wait() }
		store := &gone{}
		store.down.Store(true)
		k, err := keyring.New(keyring.Config{Store: store, Key: signingKey(1), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		if k.State("aws").Ring != nil {
			t.Error("there are keys from nowhere")
		}
		pass(time.Minute)
		store.down.Store(false)
		pass(10 * time.Second)
		first := k.State("aws")
		if first.Ring == nil || !first.Ring.Ready(time.Now()) {
			t.Fatal("there are no keys after the database has come back")
		}
		pass(48 * time.Hour)
		select {
		case <-first.Changed:
		default:
			t.Error("two days later nobody was told of new keys")
		}
		if n := len(k.State("aws").Ring.Keys()); n != 4 {
			t.Errorf("two days later there are %d keys", n)
		}
		store.down.Store(true)
		pass(24 * time.Hour)
		if !k.State("aws").Ring.Ready(time.Now()) {
			t.Error("without the database there are no keys any more")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
