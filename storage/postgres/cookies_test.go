package postgres_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/storage"
)

func TestCookieKeys(t *testing.T) {
	t.Parallel()
	f := open(t)
	key := func(id string, after time.Duration) storage.CookieKey {
		return storage.CookieKey{ID: []byte(id), Sealed: []byte("secret " + id), StartsAt: noon.Add(after)}
	}
	revise := func(environment string, to func([]storage.CookieKey) []storage.CookieKey) {
		t.Helper()
		err := f.ReviseCookieKeys(t.Context(), environment, func(k []storage.CookieKey) ([]storage.CookieKey, error) { return to(k), nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	want := func(environment string, want ...storage.CookieKey) {
		t.Helper()
		revise(environment, func(got []storage.CookieKey) []storage.CookieKey {
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s has %v, want %v", environment, got, want)
			}
			return got
		})
	}
	a, b, c := key("a", 2*time.Hour), key("b", time.Hour), key("c", 3*time.Hour)
	want("aws")
	revise("aws", func([]storage.CookieKey) []storage.CookieKey { return []storage.CookieKey{a, b} })
	revise("gcp", func([]storage.CookieKey) []storage.CookieKey { return []storage.CookieKey{a} })
	want("aws", b, a)
	revise("aws", func([]storage.CookieKey) []storage.CookieKey { return []storage.CookieKey{a, c} })
	want("aws", a, c)
	want("gcp", a)
	failed := errors.New("failed")
	err := f.ReviseCookieKeys(t.Context(), "aws", func([]storage.CookieKey) ([]storage.CookieKey, error) { return nil, failed })
	wantErr(t, "an error of revise", err, failed)
	want("aws", a, c)
}

// Replicas that find no key at the same time agree on one.
func TestCookieKeysAreRevisedInTurn(t *testing.T) {
	t.Parallel()
	f := open(t)
	var g errgroup.Group
	for i := range 8 {
		g.Go(func() error {
			return f.ReviseCookieKeys(t.Context(), "aws", func(k []storage.CookieKey) ([]storage.CookieKey, error) {
				if len(k) > 0 {
					return k, nil
				}
				return []storage.CookieKey{{ID: fmt.Append(nil, i), Sealed: []byte("x"), StartsAt: noon}}, nil
			})
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	err := f.ReviseCookieKeys(t.Context(), "aws", func(k []storage.CookieKey) ([]storage.CookieKey, error) {
		if len(k) != 1 {
			t.Errorf("there are %d keys", len(k))
		}
		return k, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
