package roster_test

import (
	"context"
	"testing"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
)

// background runs a part until the test ends.
func background(t *testing.T, part func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- part(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func keySets(sets ...snapshot.KeySet) (signed []*proxyv1.SignedKeySet) {
	for _, s := range sets {
		signed = append(signed, s.Signed())
	}
	return signed
}

func commit(t *testing.T, s *postgres.Store, changes ...storage.Change) {
	t.Helper()
	position, err := s.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), storage.Commit{
		Caller: "test", Action: "/Apply", Base: position.Revision, Changes: changes,
	}, func([]storage.Version) error { return nil }); err != nil {
		t.Fatal(err)
	}
}

func rule(t *testing.T, s *postgres.Store, subject string, revise func(*storage.Ruling)) {
	t.Helper()
	e := storage.AuditEntry{Caller: "test", Action: "/Rule", Allowed: true}
	if err := s.Rule(t.Context(), subject, e, func(r storage.Ruling, _ int) (storage.Ruling, error) {
		revise(&r)
		return r, nil
	}); err != nil {
		t.Fatal(err)
	}
}
