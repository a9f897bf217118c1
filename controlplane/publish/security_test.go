package publish_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/controlplane/publish"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
	"github.com/sallyport/sallyport/storage"
)

// A fleet that has nothing yet has a security lane, and confirms it.
func TestSecurityLaneIsPublishedFromTheBeginning(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.wantPublished()
	eventually(t, "it is confirmed", func() bool { return l.freshness(snapshot.SecurityLane).Revision == 1 })
	l.cut(put(t, revocation("token"), "1"), put(t, revocation("key"), "1"))
	l.wantPublished()
	l.commit(environment(t, "aws", "1"))
	l.cut(put(t, revocation("token"), "2"))
	l.cut(remove(revocation("key")))
	l.wantPublished()
	if _, holds := l.published("aws"); len(holds) != 1 {
		t.Errorf("aws holds %d documents: revocations are not for it", len(holds))
	}
	eventually(t, "it is confirmed", func() bool { return l.freshness(snapshot.SecurityLane).Revision == 4 })
}

// slowTarget does not come to an end with an environment.
type slowTarget struct {
	publish.Target
	environment string
	begun       chan struct{}
}

func (s slowTarget) Publish(ctx context.Context, v *snapshot.Verifier, snap *snapshot.Snapshot) error {
	if snap.Head().Environment == s.environment {
		select {
		case s.begun <- struct{}{}:
		default:
		}
		<-ctx.Done()
	}
	return s.Target.Publish(ctx, v, snap)
}

// A revocation does not wait for a large snapshot, nor is its lane stale
// meanwhile.
func TestRevocationsDoNotWaitForSnapshots(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	begun := make(chan struct{}, 1)
	r := l.configure(func(c *publish.Config) { c.Targets[0].Target = slowTarget{c.Targets[0].Target, "aws", begun} })
	r.Every(time.Hour, 20*time.Millisecond)
	run(t, r.Run)
	l.commit(environment(t, "aws", "1"))
	await(t, "aws is under way", begun)
	for i := range 3 {
		at := l.cut(put(t, revocation("token"), fmt.Sprint(i)))
		eventually(t, "the revocation is published", func() bool { return l.publishedRevision(snapshot.SecurityLane) == at })
	}
	seen := time.Now()
	eventually(t, "it is confirmed", func() bool { return l.freshness(snapshot.SecurityLane).IssuedAt.After(seen) })
	if l.publishedRevision("aws") != 0 {
		t.Error("aws was published: nothing was shown")
	}
}

// A database that has lost revocations publishes nothing, of either lane.
func TestSecurityLaneSetBack(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(environment(t, "aws", "1"))
	r := l.start()
	l.cut(put(t, revocation("token"), "1"))
	l.wantPublished()
	r.stop()
	before := l.all()

	back := l.restored()
	back.commit(environment(t, "aws", "1"))
	back.commit(put(t, policy("p"), "1"))
	r = back.configure()
	r.Every(100*time.Millisecond, 20*time.Millisecond)
	stop := run(t, r.Run)
	eventually(t, "there are alarms", func() bool { return r.log.count("level=ERROR") > 2 })
	stop()
	if r.log.count(storage.ErrAhead.Error()) == 0 {
		t.Errorf("log: %s", r.log)
	}
	if after := l.all(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Error("something was published")
	}
}

// revoke is a revocation of a key that expires, or does not at the zero time.
func revoke(t testing.TB, name string, expires time.Time) storage.Change {
	t.Helper()
	spec := &resourcev1.Revocation{Target: &resourcev1.Revocation_Key{Key: name}}
	if !expires.IsZero() {
		spec.ExpiresAt = timestamppb.New(expires)
	}
	b, err := resource.Encode(resource.Parsed{Key: revocation(name), Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	return storage.Change{Key: revocation(name), Scope: storage.Scope{All: true}, Document: b, Digest: snapshot.DocumentDigest(b)}
}

// What has expired is removed a while later, in one sequence, and is in the
// audit.
func TestExpiredRevocationsAreRemoved(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	began := time.Date(2026, time.November, 26, 9, 0, 0, 0, time.UTC)
	var passed atomic.Int64 // minutes
	r := l.configure(func(c *publish.Config) {
		c.Now = func() time.Time { return began.Add(time.Duration(passed.Load()) * time.Minute) }
	})
	r.ExpireEvery(10 * time.Millisecond)
	run(t, r.Run)
	at := func(minutes int) time.Time { return began.Add(time.Duration(minutes) * time.Minute) }
	l.cut(revoke(t, "a", at(1)), revoke(t, "b", at(2)), revoke(t, "c", at(30)), revoke(t, "d", time.Time{}))
	l.cut(revoke(t, "e", at(1)))
	l.cut(revoke(t, "e", at(40))) // it lasts longer now
	l.cut(put(t, revocation("newer"), "of a build that knows more"))

	left := func() string {
		versions, _, err := l.store.Security().Since(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, v := range versions {
			names = append(names, v.Key.Name)
		}
		return strings.Join(names, " ")
	}
	sequence := func() snapshot.Revision {
		p, err := l.store.Security().Position(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return p.Revision
	}
	for _, c := range []struct {
		minutes  int64
		left     string
		sequence snapshot.Revision
	}{
		{7, "b c d e newer", 6}, // b has expired five minutes ago, and not more
		{8, "c d e newer", 7},
		{46, "d newer", 8},
	} {
		passed.Store(c.minutes)
		eventually(t, "what has expired is gone", func() bool { return left() == c.left })
		if got := sequence(); got != c.sequence {
			t.Errorf("after %d minutes the lane is at %d, want %d", c.minutes, got, c.sequence)
		}
		eventually(t, "that is published", func() bool { return l.publishedRevision(snapshot.SecurityLane) == c.sequence })
	}
	entries, err := l.store.Entries(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	var system []string
	for _, e := range entries {
		if e.Caller == "system" {
			system = append(system, e.Action+": "+e.Detail)
		}
	}
	want := []string{
		"remove expired revocations: security sequence 6: 1 expired",
		"remove expired revocations: security sequence 7: 1 expired",
		"remove expired revocations: security sequence 8: 2 expired",
	}
	if !slices.Equal(system, want) {
		t.Errorf("the audit says %q, want %q", system, want)
	}
}
