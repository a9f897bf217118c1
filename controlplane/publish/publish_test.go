package publish_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/controlplane/publish"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

func TestCommitsArePublished(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r := l.start()
	l.commit(environment(t, "aws", "1"), environment(t, "gcp", "1"))
	l.commit(put(t, policy("everywhere"), "1"), put(t, policy("aws-only"), "1", "aws"))
	l.wantPublished()
	l.commit(put(t, policy("aws-only"), "2", "aws"))
	l.commit(enrollment(t, "for-nobody", "1"))
	l.commit(put(t, policy("everywhere"), "2"))
	l.commit(remove(policy("aws-only")))
	l.wantPublished()
	if got, want := l.newest("gcp"), snapshot.Revision(5); got != want {
		t.Errorf("gcp is at revision %d, want %d", got, want)
	}
	if head, _ := l.published("gcp"); len(head.Signed().GetCounts()) == 0 {
		t.Error("gcp is published without counts")
	}
	if r.troubles() > 0 {
		t.Errorf("trouble: %s", r.log)
	}
}

func TestBacklogIsPublished(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(environment(t, "aws", "1"), environment(t, "gcp", "1"))
	for i := range 47 { // more than two batches
		name := fmt.Sprint("p-", i%5)
		if i%3 == 0 {
			l.commit(put(t, policy(name), fmt.Sprint(i)))
		} else {
			l.commit(put(t, policy(name), fmt.Sprint(i), "aws"))
		}
	}
	l.start()
	l.wantPublished()
}

func TestEnvironments(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.commit(put(t, policy("before-all"), "1"), put(t, policy("for-later"), "1", "onprem"))
	l.commit(environment(t, "aws", "1"))
	l.wantPublished()
	l.commit(put(t, policy("moves"), "1", "aws"))

	// A new environment has what was there for it before.
	l.commit(environment(t, "onprem", "1"))
	l.wantPublished()
	if _, holds := l.published("onprem"); len(holds) != 3 {
		t.Errorf("onprem holds %d documents, want 3", len(holds))
	}

	// What changes its scope is gone from where it was.
	l.commit(put(t, policy("moves"), "2", "onprem"))
	l.wantPublished()
	if _, holds := l.published("aws"); holds[policy("moves")] != "" {
		t.Error("aws still has what has moved")
	}
	l.commit(put(t, policy("moves"), "3", "aws", "onprem"))
	l.commit(put(t, policy("moves"), "4"))
	l.wantPublished()

	// One that was deleted and comes back has what was changed meanwhile.
	l.commit(remove(environmentKey("onprem")))
	l.wantPublished()
	l.commit(put(t, policy("meanwhile"), "1"), put(t, policy("before-all"), "2"))
	l.commit(remove(policy("moves")))
	l.commit(put(t, policy("for-later"), "2", "onprem"))
	l.wantPublished()
	l.commit(environment(t, "onprem", "2"))
	l.wantPublished()
	l.commit(environment(t, "onprem", "3"), remove(policy("for-later")))
	l.commit(put(t, policy("meanwhile"), "2"))
	l.wantPublished()
}

func TestUntouchedEnvironmentsWriteNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r := l.configure()
	r.Every(50*time.Millisecond, time.Hour)
	run(t, r.Run)
	l.commit(environment(t, "aws", "1"), environment(t, "gcp", "1"))
	l.wantPublished()
	eventually(t, "both are confirmed", func() bool { return l.freshness("aws").Revision == 1 && l.freshness("gcp").Revision == 1 })
	before, err := l.raw.Get(t.Context(), l.prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		l.commit(put(t, policy("p"), fmt.Sprint(i), "aws"))
	}
	l.wantPublished()
	after, err := l.raw.Get(t.Context(), l.prefix+"/env/gcp", clientv3.WithPrefix(), clientv3.WithMinModRev(before.Header.Revision+1))
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range after.Kvs {
		if !strings.HasSuffix(string(kv.Key), "/freshness") { // which a beginning term writes again
			t.Errorf("%s was written", kv.Key)
		}
	}
}

func TestFreshness(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var clock atomic.Int64
	clock.Store(1_800_000_000)
	now := func() time.Time { return time.Unix(clock.Load(), 0) }
	r := l.configure(func(c *publish.Config) { c.Now = now })
	r.Every(time.Hour, 20*time.Millisecond)
	run(t, r.Run)
	l.commit(environment(t, "aws", "1"))
	l.wantPublished()
	for range 3 {
		at := now()
		eventually(t, "it is confirmed again", func() bool { return l.freshness("aws").IssuedAt.Equal(at) })
		clock.Add(10)
	}
	head, _ := l.published("aws")
	want := snapshot.Freshness{Epoch: 1, Environment: "aws", Revision: 1, HeadDigest: head.Digest()}
	got := l.freshness("aws")
	got.IssuedAt = time.Time{}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// A head is confirmed with the first of a term, and from then on when its time comes:
// a statement confirms the heads after it as well.
func TestFreshnessComesWithTheFirstHead(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var clock atomic.Int64
	clock.Store(1_800_000_000)
	r := l.configure(func(c *publish.Config) { c.Now = func() time.Time { return time.Unix(clock.Load(), 0) } })
	r.Every(time.Hour, time.Hour)
	run(t, r.Run)
	first := l.commit(environment(t, "aws", "1"))
	eventually(t, "the head is confirmed", func() bool { return l.freshness("aws").Revision >= first })
	change := func(to string) {
		t.Helper()
		revision := l.commit(put(t, policy("p"), to))
		eventually(t, "it is published", func() bool {
			cursor, err := l.store.Cursor(t.Context(), "etcd", "aws")
			return err == nil && cursor == revision
		})
	}
	// What begins a term may confirm twice, behind what is published just then.
	change("early")
	change("settled")
	confirmed := l.freshness("aws").Revision
	clock.Add(3599)
	for i := range 3 {
		change(fmt.Sprint(i))
		if f := l.freshness("aws"); f.Revision != confirmed {
			t.Errorf("revision %d was confirmed apart, though %d was not long ago", f.Revision, confirmed)
		}
	}
	clock.Add(1)
	revision := l.commit(put(t, policy("p"), "later"))
	eventually(t, "the head is confirmed", func() bool { return l.freshness("aws").Revision == revision })
}

func TestWhatIsDeletedFromEtcdComesBack(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r := l.configure()
	r.Every(100*time.Millisecond, 100*time.Millisecond)
	run(t, r.Run)
	l.commit(environment(t, "aws", "1"), environment(t, "gcp", "1"), put(t, policy("p"), "1"), put(t, policy("q"), "1"))
	l.wantPublished()
	eventually(t, "both are confirmed", func() bool { return l.freshness("aws").Revision == 1 && l.freshness("gcp").Revision == 1 })
	whole := l.all()
	for key := range whole {
		if _, err := l.raw.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		eventually(t, key+" is there again", func() bool { return l.all()[key] != "" })
	}
	if _, err := l.raw.Delete(t.Context(), l.prefix+"/", clientv3.WithPrefix()); err != nil { // the election as well
		t.Fatal(err)
	}
	eventually(t, "everything is there again", func() bool { return len(l.all()) == len(whole) })
	l.commit(put(t, policy("p"), "2"))
	l.wantPublished()
}

func TestEtcdWiped(t *testing.T) {
	t.Parallel()
	server := storagetest.NewEtcd(t)
	l := labAt(t, storagetest.Postgres(t, postgres.Migrate), server.Endpoints())
	l.start()
	l.commit(environment(t, "aws", "1"), put(t, policy("p"), "1"))
	l.wantPublished()
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(server.DataDir()); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	l.wantPublished()
	t.Logf("rebuilt after %s", time.Since(began).Round(time.Millisecond))
	l.commit(put(t, policy("p"), "2"))
	l.wantPublished()
}

func TestEtcdRestoredFromAnOldBackup(t *testing.T) {
	t.Parallel()
	server := storagetest.NewEtcd(t)
	l := labAt(t, storagetest.Postgres(t, postgres.Migrate), server.Endpoints())
	r := l.start()
	l.commit(environment(t, "aws", "1"), put(t, policy("p"), "1"))
	l.wantPublished()
	r.stop()
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(server.DataDir()+".old", os.DirFS(server.DataDir())); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r = l.start()
	for i := range 5 {
		l.commit(put(t, policy("p"), fmt.Sprint("later ", i)))
	}
	l.wantPublished()
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(server.DataDir()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(server.DataDir()+".old", server.DataDir()); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wantPublished()
	if r.log.count("level=ERROR") > 0 {
		t.Errorf("an alarm: %s", r.log)
	}
}

func TestEtcdDownWhileCommitting(t *testing.T) {
	t.Parallel()
	server := storagetest.NewEtcd(t)
	l := labAt(t, storagetest.Postgres(t, postgres.Migrate), server.Endpoints())
	r := l.start()
	l.commit(environment(t, "aws", "1"))
	l.wantPublished()
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		l.commit(put(t, policy("p"), fmt.Sprint(i)))
	}
	eventually(t, "the publisher has given up", func() bool { return r.log.count("publishing ended") > 0 })
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wantPublished()
}

// A database that is away, or a term that cannot begin, is tried again, but
// not all the time.
func TestPostgresDown(t *testing.T) {
	t.Parallel()
	server := storagetest.NewPostgres(t)
	if err := server.CreateDatabase(t.Context(), "fleet", ""); err != nil {
		t.Fatal(err)
	}
	if err := postgres.Migrate(t.Context(), server.DSN("fleet")); err != nil {
		t.Fatal(err)
	}
	l := labAt(t, server.DSN("fleet"), storagetest.Etcd(t).Endpoints())
	r := l.start()
	l.commit(environment(t, "aws", "1"))
	l.wantPublished()
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	eventually(t, "it was tried eight times", func() bool { return r.log.count("publishing ended") >= 8 })
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("it was tried eight times in %s", took)
	}
	if l.publishedRevision("aws") != 1 {
		t.Error("what is published has changed")
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "commits are taken", func() bool { _, err := l.store.Position(t.Context()); return err == nil })
	l.commit(put(t, policy("p"), "1"))
	l.wantPublished()
}

// One environment's trouble does not hold up the others, and ends no term.
func TestOneEnvironmentInTrouble(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r := l.configure()
	r.Every(50*time.Millisecond, 50*time.Millisecond)
	l.commit(environment(t, "aws", "1"), environment(t, "gcp", "1"))
	stop := run(t, r.Run)
	eventually(t, "aws is confirmed", func() bool { return l.freshness("aws").Revision == 1 })
	stop()
	terms := r.terms()
	damaged := put(t, policy("p"), "1", "aws")
	l.commit(damaged)
	conn, err := pgx.Connect(t.Context(), l.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	set := func(b []byte) {
		t.Helper()
		tag, err := conn.Exec(t.Context(), "update resource_version set document = $1 where kind = 'Policy' and name = 'p'", b)
		if err != nil || tag.RowsAffected() != 1 {
			t.Fatal(tag, err)
		}
	}
	set(document(t, policy("p"), "forged"))
	run(t, r.Run)
	for i := range 3 {
		revision := l.commit(put(t, policy("q"), fmt.Sprint(i), "gcp"))
		eventually(t, "gcp is published and confirmed", func() bool {
			return l.publishedRevision("gcp") == revision && l.freshness("gcp").Revision == revision
		})
	}
	eventually(t, "there is an alarm", func() bool { return r.log.count("level=ERROR") > 0 })
	if all := l.trouble(""); len(all) != 1 || all[0].Lane != "policy" || !strings.HasPrefix(all[0].Error, "environment aws: ") {
		t.Errorf("it is recorded that %+v", all)
	}
	at := time.Now()
	if _, err := l.raw.Delete(t.Context(), l.prefix+"/env/aws/head"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "gcp is still confirmed", func() bool { return l.freshness("gcp").IssuedAt.After(at.Add(200 * time.Millisecond)) })
	if got := l.publishedRevision("aws"); got != 1 {
		t.Errorf("aws is published at revision %d, want what was good", got)
	}
	if f := l.freshness("aws"); f.Revision != 1 || f.IssuedAt.After(at) {
		t.Errorf("revision %d of aws was confirmed at %s: it is not the newest", f.Revision, f.IssuedAt)
	}
	if n := r.terms() - terms; n != 1 {
		t.Errorf("there were %d terms", n)
	}
	if n := r.log.count("environment was not published"); n != 2 {
		t.Errorf("%d complaints, want one and an alarm: %s", n, r.log)
	}
	set(damaged.Document)
	l.wantPublished()
	eventually(t, "it is said", func() bool { return r.log.count("environment is published again") == 1 })
}

func TestDatabaseSetBack(t *testing.T) {
	t.Parallel()
	history := func(l *lab, n int) {
		for _, c := range [][]storage.Change{
			{environment(t, "aws", "1")},
			{environment(t, "gcp", "1")},
			{put(t, policy("p"), "1")},
			{put(t, policy("p"), "2", "aws")},
			{put(t, policy("p"), "3", "aws")},
		}[:n] {
			l.commit(c...)
		}
	}
	for name, c := range map[string]struct {
		restore func(l *lab)
		want    error
	}{
		"to nothing":                  {func(*lab) {}, storage.ErrAhead},
		"before an environment":       {func(l *lab) { history(l, 1) }, storage.ErrAhead},
		"by one revision":             {func(l *lab) { history(l, 4) }, storage.ErrAhead},
		"and went on to the same":     {func(l *lab) { history(l, 4); l.commit(put(t, policy("p"), "other", "aws")) }, storage.ErrAhead},
		"and went on beyond":          {func(l *lab) { history(l, 3); history2(t, l, 9) }, storage.ErrAhead},
		"and went on in another part": {func(l *lab) { history(l, 4); l.commit(put(t, policy("q"), "1", "gcp")) }, storage.ErrAhead},
		"to the very same":            {func(l *lab) { history(l, 5) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			r := l.start()
			history(l, 5)
			l.wantPublished()
			r.stop()
			before := l.all()

			back := l.restored()
			c.restore(back)
			r = back.configure()
			r.Every(100*time.Millisecond, 20*time.Millisecond)
			stop := run(t, r.Run)
			if c.want == nil {
				back.commit(put(t, policy("p"), "4"))
				back.cut(put(t, revocation("token"), "1"))
				back.wantPublished()
				return
			}
			eventually(t, "there is an alarm", func() bool { return r.log.count("level=ERROR") > 0 })
			if r.log.count(c.want.Error()) == 0 {
				t.Errorf("log: %s", r.log)
			}
			back.wantRefused(environment(t, "new", "1"))
			alarms := r.log.count("level=ERROR")
			eventually(t, "there is another alarm", func() bool { return r.log.count("level=ERROR") > alarms+1 })
			stop()
			if !maps.Equal(before, l.all()) {
				t.Error("something was published")
			}
		})
	}
}

func history2(t *testing.T, l *lab, to int) {
	t.Helper()
	for l.revision < snapshot.Revision(to) {
		l.commit(put(t, policy("p"), fmt.Sprint("fork ", l.revision), "aws"))
	}
}

// The database is set back below a publisher that has the later state in
// memory.
func TestDatabaseSetBackMeanwhile(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.commit(environment(t, "aws", "1"))
	l.commit(put(t, policy("p"), "1"))
	back := l.restored()
	back.commit(environment(t, "aws", "1"))

	s := &faulty{Store: l.open(discard)}
	r := l.configure(func(c *publish.Config) { c.Store = s })
	r.Every(50*time.Millisecond, 50*time.Millisecond)
	run(t, r.Run)
	l.wantPublished()
	seen := time.Now()
	eventually(t, "it has looked around", func() bool { return l.freshness("aws").IssuedAt.After(seen.Add(300 * time.Millisecond)) })
	if _, err := back.store.BeginTerm(t.Context(), "before"); err != nil { // it was restored with this very term
		t.Fatal(err)
	}
	s.replace(back.open(discard))
	eventually(t, "there is an alarm", func() bool { return r.log.count("level=ERROR") > 0 })
	eventually(t, "the term has ended", func() bool { return r.log.count("publishing ended") > 0 })
	confirmed := l.freshness("aws")
	alarms := r.log.count("level=ERROR")
	eventually(t, "there is another alarm", func() bool { return r.log.count("level=ERROR") > alarms+1 })
	if l.freshness("aws") != confirmed || l.publishedRevision("aws") != 2 {
		t.Error("something was published")
	}
}

// After a recovery the new epoch replaces what the lost history had.
func TestNewEpoch(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r := l.start()
	l.commit(environment(t, "aws", "1"))
	for i := range 5 {
		l.commit(put(t, policy("p"), fmt.Sprint(i)))
	}
	l.wantPublished()
	r.stop()
	back := l.restored()
	conn, err := pgx.Connect(t.Context(), back.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	if _, err := conn.Exec(t.Context(), "update fleet set epoch = 2"); err != nil {
		t.Fatal(err)
	}
	back.commit(environment(t, "aws", "1"))
	back.commit(put(t, policy("p"), "recovered"))
	r = back.start()
	eventually(t, "the new epoch is published", func() bool {
		head, _ := back.published("aws")
		return head.Position() == snapshot.Position{Epoch: 2, Revision: 2}
	})
	if r.log.count("level=ERROR") > 0 {
		t.Errorf("an alarm: %s", r.log)
	}
}
