package etcd_test

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/etcd"
	"github.com/sallyport/sallyport/storage/local"
)

// noon is when rounds begin.
var noon = time.Date(2026, time.November, 26, 12, 0, 0, 0, time.UTC)

// small is a lab in an etcd of its own, with a quota.
func small(t *testing.T, quota int64) *lab {
	t.Helper()
	server, err := local.NewEtcd(local.EtcdConfig{Quota: quota, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return labAt(t, server.Endpoints())
}

// overwrite writes a key over and over, until members are as large as that; or, since
// they say so a while later than it is so, until they are full.
func (l *lab) overwrite(key string, size int64) error {
	s := l.store()
	for i := 0; ; i++ {
		if _, err := l.raw.Put(l.Context(), key, strings.Repeat(fmt.Sprint(i%10), 512<<10)); err != nil {
			return err
		}
		members, err := s.Members(l.Context())
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(members, func(m etcd.Member) bool { return m.Size < size }) {
			return nil
		}
	}
}

func (l *lab) round(k *etcd.Keeper, at time.Time) etcd.Kept {
	l.Helper()
	done, err := k.Round(l.Context(), at)
	if err != nil {
		l.Fatal(err)
	}
	return done
}

func (l *lab) member(s *etcd.Store) etcd.Member {
	l.Helper()
	members, err := s.Members(l.Context())
	if err != nil || len(members) != 1 {
		l.Fatalf("members: %+v, %v", members, err)
	}
	return members[0]
}

// History is given up five minutes after it was made, and not before.
func TestKeeperGivesHistoryUp(t *testing.T) {
	t.Parallel()
	l := small(t, 0)
	s := l.store()
	k := etcd.NewKeeper(s)
	l.put("/a", "old")
	l.put("/a", "new")
	if done := l.round(k, noon); done.Compacted != 0 {
		t.Errorf("at once: %+v", done)
	}
	r, err := l.raw.Get(t.Context(), "/a")
	if err != nil {
		t.Fatal(err)
	}
	then := r.Kvs[0].ModRevision
	l.put("/a", "later")
	if done := l.round(k, noon.Add(4*time.Minute)); done.Compacted != 0 {
		t.Errorf("early: %+v", done)
	}
	if done := l.round(k, noon.Add(5*time.Minute)); done.Compacted != then {
		t.Errorf("in time: %+v, want %d", done, then)
	}
	if r, err := l.raw.Get(t.Context(), "/a", clientv3.WithRev(then)); err != nil || string(r.Kvs[0].Value) != "new" {
		t.Errorf("what was current five minutes ago: %v", err)
	}
	if _, err := l.raw.Get(t.Context(), "/a", clientv3.WithRev(then-1)); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("what was old by then: %v", err)
	}
	// Another one may have gone further.
	if _, err := l.raw.Compact(t.Context(), l.revision()); err != nil {
		t.Fatal(err)
	}
	l.round(k, noon.Add(10*time.Minute))
}

// revision is that of etcd.
func (l *lab) revision() int64 {
	l.Helper()
	r, err := l.raw.Get(l.Context(), "x")
	if err != nil {
		l.Fatal(err)
	}
	return r.Header.Revision
}

// Chunks go that no head named in two rounds, whoever wrote them: whatever a head
// names stays, and so does what was written between.
func TestKeeperCollectsChunks(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := l.store()
	snap := at(t, 1, many(1000))
	l.publish(s, snap)
	whole := l.all(l.prefix)
	digest := strings.Repeat("ab", 32)
	stray := []string{
		l.prefix + "/chunk/aws-prod/" + digest + "/0000", l.prefix + "/chunk/aws-prod/" + digest + "/0001",
		l.prefix + "/chunk/forgotten/" + digest + "/0000",
	}
	for _, key := range stray {
		l.put(key, "x")
	}
	again := l.prefix + "/chunk/forgotten/" + digest + "/0001"
	l.put(again, "x")
	k := etcd.NewKeeper(s)
	if done := l.round(k, noon); done.Collected != 0 {
		t.Errorf("at once: %+v", done)
	}
	l.put(again, "x")
	late := l.prefix + "/chunk/aws-prod/" + strings.Repeat("cd", 32) + "/0000"
	l.put(late, "x")
	if done := l.round(k, noon); done.Collected != len(stray) {
		t.Errorf("in the next round: %+v, want %d", done, len(stray))
	}
	left := l.all(l.prefix)
	for _, key := range []string{again, late} {
		if _, there := left[key]; !there {
			t.Errorf("%s is gone", key)
		}
		delete(left, key)
	}
	if !maps.Equal(left, whole) {
		t.Error("what is published has changed")
	}
	l.wantPublished(snap)
}

// A head that is written meanwhile may name what none did.
func TestKeeperRacesAPublisher(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := l.store()
	l.publish(s, at(t, 1, many(10)))
	stray := l.prefix + "/chunk/aws-prod/" + strings.Repeat("ab", 32) + "/0000"
	l.put(stray, "x")
	k := etcd.NewKeeper(s)
	l.round(k, noon)
	racing := true
	s.Before(func() {
		if racing {
			l.putHead(l.head())
		}
	})
	if done := l.round(k, noon); done.Collected != 0 || l.all(stray)[stray].bytes != "x" {
		t.Errorf("it was removed beside a new head: %+v", done)
	}
	racing = false
	if done := l.round(k, noon); done.Collected != 1 {
		t.Errorf("in the next round: %+v", done)
	}
}

// A member that is half empty is made smaller, once.
func TestKeeperDefragments(t *testing.T) {
	t.Parallel()
	l := small(t, 128<<20)
	s := l.store()
	snap := at(t, 1, many(100))
	l.publish(s, snap)
	k := etcd.NewKeeper(s)
	if err := l.overwrite("/a", 40<<20); err != nil {
		t.Fatal(err)
	}
	l.round(k, noon)
	before := l.member(s)
	if before.Size < 40<<20 || before.Quota != 128<<20 || !before.Leader || before.Full {
		t.Errorf("before: %+v", before)
	}
	var defragmented []string
	eventually(t, "it is defragmented", func() bool {
		defragmented = append(defragmented, l.round(k, noon.Add(5*time.Minute)).Defragmented...)
		l.put("/a", "small") // what is free shows with the next write
		return len(defragmented) > 0
	})
	if len(defragmented) != 1 || defragmented[0] != l.endpoints[0] {
		t.Errorf("defragmented: %q", defragmented)
	}
	after := l.member(s)
	if after.Size > 4<<20 || after.Share() > 0.2 {
		t.Errorf("after: %+v", after)
	}
	if done := l.round(k, noon.Add(10*time.Minute)); len(done.Defragmented) != 0 {
		t.Errorf("again: %+v", done)
	}
	l.wantPublished(snap)
}

// While a member is defragmented it answers nobody: they take turns, and the leader
// comes last. Without one of them none is.
func TestKeeperTakesMembersInTurn(t *testing.T) {
	t.Parallel()
	kill, endpoints := cluster(t)
	l := labAt(t, endpoints)
	s := l.store()
	k := etcd.NewKeeper(s)
	if err := l.overwrite("/a", 16<<20); err != nil {
		t.Fatal(err)
	}
	l.round(k, noon)
	l.put("/a", "small")
	if _, err := l.raw.Compact(t.Context(), l.revision()); err != nil {
		t.Fatal(err)
	}
	var members []etcd.Member
	eventually(t, "all are empty for the most part", func() bool {
		l.put("/a", "small") // what is free shows with the next write
		var err error
		if members, err = s.Members(t.Context()); err != nil || len(members) != 3 {
			t.Fatalf("members: %+v, %v", members, err)
		}
		return !slices.ContainsFunc(members, func(m etcd.Member) bool { return m.InUse > m.Size/4 })
	})
	leader := members[slices.IndexFunc(members, func(m etcd.Member) bool { return m.Leader })].Endpoint
	done := l.round(k, noon.Add(5*time.Minute))
	if len(done.Defragmented) != 3 || done.Defragmented[2] != leader {
		t.Errorf("defragmented: %q, the leader is %s", done.Defragmented, leader)
	}

	if err := l.overwrite("/a", 16<<20); err != nil {
		t.Fatal(err)
	}
	kill[slices.IndexFunc(endpoints, func(e string) bool { return e != leader })]()
	var err error
	for _, later := range []time.Duration{10 * time.Minute, 15 * time.Minute} {
		done, err = k.Round(t.Context(), noon.Add(later))
	}
	if !errors.Is(err, storage.ErrAway) || done.Compacted == 0 || len(done.Defragmented) > 0 {
		t.Errorf("with two members: %+v, %v", done, err)
	}
}

// An etcd whose quota is used up says so, until somebody makes room.
func TestFullEtcd(t *testing.T) {
	t.Parallel()
	l := small(t, 8<<20)
	s := l.store()
	first, second := at(t, 1, many(100)), at(t, 2, many(100).with("doc-1", "other"))
	l.publish(s, first)
	if err := l.overwrite("/a", 1<<30); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Fatalf("it is not full: %v", err)
	}
	if err := s.Publish(t.Context(), ours.Verifier(), second); !errors.Is(err, storage.ErrFull) {
		t.Errorf("publish: %v", err)
	}
	if err := s.Lead(t.Context(), "a", nil); !errors.Is(err, storage.ErrFull) {
		t.Errorf("stand for election: %v", err)
	}
	if m := l.member(s); !m.Full || m.Share() < 0.8 {
		t.Errorf("the member says %+v", m)
	}
	l.wantPublished(first)

	k := etcd.NewKeeper(s)
	done, err := k.Rescue(t.Context())
	if err != nil || len(done.Defragmented) != 1 || done.Compacted == 0 {
		t.Fatalf("rescue: %+v, %v", done, err)
	}
	if m := l.member(s); m.Full || m.Share() > 0.5 {
		t.Errorf("after it the member says %+v", m)
	}
	l.publish(s, second)
	l.wantPublished(second)

	// What is current is too much: nobody but an operator can help.
	for i := 0; err == nil; i++ {
		if _, full := l.raw.Put(t.Context(), fmt.Sprint("/b/", i), strings.Repeat("x", 512<<10)); full != nil {
			_, err = k.Rescue(t.Context())
		}
	}
	if !errors.Is(err, storage.ErrFull) || !l.member(s).Full {
		t.Errorf("rescue of one that is full of what is current: %v", err)
	}
	l.remove("/b/", clientv3.WithPrefix())
	// What was taken away counts until nobody reads it any more: the keeper comes again.
	eventually(t, "it is rescued after something was taken away", func() bool {
		_, err := k.Rescue(t.Context())
		return err == nil
	})
	l.publish(s, at(t, 3, many(100)))
}

// A member that does not answer is reported with those that do, and keeps the others
// from being defragmented.
func TestMemberIsAway(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	away := &lab{T: t, endpoints: append([]string{"unix:///nowhere/etcd.sock"}, l.endpoints...), prefix: l.prefix, raw: l.raw}
	members, err := away.store().Members(t.Context())
	if len(members) != 1 || !errors.Is(err, storage.ErrAway) || !strings.Contains(err.Error(), "/nowhere/") {
		t.Errorf("members: %+v, %v", members, err)
	}
}
