package publish_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/publish"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
)

// retaining makes a replica that keeps a day of history, a month from now.
func (l *lab) retaining() *replica {
	l.Helper()
	return l.start(func(c *publish.Config) {
		r := publish.NewRetention(publish.RetentionConfig{
			History: l.store, For: 24 * time.Hour, Log: c.Log,
			Now: func() time.Time { return time.Now().Add(30 * 24 * time.Hour) },
		})
		r.Every(10 * time.Millisecond)
		c.Meanwhile = append(c.Meanwhile, r.Run)
	})
}

// has records a proxy that enforces one revision, and has another on disk.
func (l *lab) has(environment string, enforced, persisted snapshot.Revision) {
	l.Helper()
	status, err := proto.Marshal(&adminv1.Proxy{Revision: int64(enforced), PersistedRevision: int64(persisted)})
	if err != nil {
		l.Fatal(err)
	}
	if err := l.store.SaveProxies(l.Context(), "", []storage.Proxy{{ID: "spiffe://a.example/p#1", Environment: environment, Status: status}}); err != nil {
		l.Fatal(err)
	}
}

// What is in force stays when history is forgotten, and publishing goes on: of this
// publisher, and of one that takes over with nothing in memory.
func TestHistoryIsTrimmed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	first := l.start()
	l.commit(environment(t, "aws", "1"), environment(t, "old", "1"), put(t, policy("everywhere"), "1"), put(t, policy("a"), "1", "aws"))
	l.commit(put(t, policy("a"), "2", "aws"))
	l.commit(put(t, policy("a"), "3", "aws"), remove(environmentKey("old")))
	for i := 4; i <= 8; i++ {
		l.commit(put(t, policy("a"), fmt.Sprint(i), "aws"), put(t, policy("everywhere"), fmt.Sprint(i)))
	}
	l.wantPublished()
	l.has("aws", 4, 2)
	first.stop()

	r := l.retaining()
	eventually(t, "history begins at the newest revision", func() bool {
		begins, err := l.store.Begins(t.Context())
		return err == nil && begins == 8
	})
	eventually(t, "what nobody has is collected", func() bool {
		past, err := l.store.History(t.Context(), policy("a"), 0, storage.Page{Limit: 100})
		return err == nil && len(past) == 3
	})
	for at, kept := range map[snapshot.Revision]bool{1: false, 2: true, 3: false, 4: true, 5: false, 8: true} {
		versions, err := l.store.EnvironmentState(t.Context(), "aws", at)
		var gone *storage.ForgottenError
		if errors.As(err, &gone) == kept || kept && len(versions) != len(l.model["aws"][at]) {
			t.Errorf("aws at %d: %d documents, %v", at, len(versions), err)
		}
	}
	// Nobody serves the one that was deleted, and a publisher still starts from it.
	if versions, err := l.store.EnvironmentState(t.Context(), "old", 8); err != nil || len(versions) != 1 {
		t.Errorf("old: %d documents, %v", len(versions), err)
	}
	l.commit(put(t, policy("a"), "9", "aws"))
	l.wantPublished()
	r.stop()
	l.start()
	l.commit(put(t, policy("b"), "10", "aws"))
	l.wantPublished()
}

// Of the security lane goes what was superseded before what any proxy has, and
// publishing goes on.
func TestHistoryOfTheSecurityLaneIsTrimmed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	first := l.start()
	l.commit(environment(t, "aws", "1"))
	for i := range 6 {
		l.cut(put(t, revocation("token"), fmt.Sprint(i)))
	}
	l.wantPublished()
	status, err := proto.Marshal(&adminv1.Proxy{Security: &adminv1.SecurityLane{Sequence: 6, PersistedSequence: 4}})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.store.SaveProxies(t.Context(), "", []storage.Proxy{{ID: "spiffe://a.example/p#1", Environment: "aws", Status: status}}); err != nil {
		t.Fatal(err)
	}
	first.stop()
	r := l.retaining()
	var gone *storage.ForgottenError
	eventually(t, "it begins with what the proxy has on disk", func() bool {
		_, err := l.store.EnvironmentState(t.Context(), snapshot.SecurityLane, 3)
		return errors.As(err, &gone) && gone.Begins == 4
	})
	for at := snapshot.Revision(4); at <= 7; at++ {
		if versions, err := l.store.EnvironmentState(t.Context(), snapshot.SecurityLane, at); err != nil || len(versions) != 1 {
			t.Errorf("at %d: %d documents, %v", at, len(versions), err)
		}
	}
	r.stop()
	l.start()
	l.cut(put(t, revocation("token"), "7"))
	l.wantPublished()
}

// A record of a proxy that is not understood keeps everything.
func TestHistoryOfUnknownProxies(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(environment(t, "aws", "1"))
	l.commit(put(t, policy("a"), "2", "aws"))
	if err := l.store.SaveProxies(t.Context(), "", []storage.Proxy{{ID: "spiffe://a.example/p#1", Environment: "aws", Status: []byte("\xff")}}); err != nil {
		t.Fatal(err)
	}
	r := l.retaining()
	l.wantPublished()
	eventually(t, "it is told", func() bool { return r.log.count("history was not trimmed") > 1 })
	if begins, err := l.store.Begins(t.Context()); err != nil || begins != 1 {
		t.Errorf("history begins at %d, %v", begins, err)
	}
}
