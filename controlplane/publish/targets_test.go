package publish_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/sallyport/sallyport/controlplane/publish"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/local"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

// beside is the lab with another etcd: the same database, and the same model.
func (l *lab) beside(endpoints []string) *lab {
	l.Helper()
	raw, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = raw.Close() })
	other := *l
	other.endpoints, other.raw = endpoints, raw
	return &other
}

// twoClouds is a lab with an etcd that can be stopped, for the target "gcp".
func twoClouds(t *testing.T) (home, gcp *lab, server *local.Etcd) {
	t.Helper()
	server = storagetest.NewEtcd(t)
	home = newLab(t)
	gcp = home.beside(server.Endpoints())
	return home, gcp, server
}

// and has a publisher publish to a second target.
func (l *lab) and(gcp *lab) func(*publish.Config) {
	l.Helper()
	place := publish.Place{Name: "gcp", Target: gcp.target()}
	return func(c *publish.Config) { c.Targets = append(c.Targets, place) }
}

func (l *lab) lag(target string) storage.Lag {
	l.Helper()
	lags, err := l.store.Lags(l.Context(), []string{target})
	if err != nil || len(lags) != 1 {
		l.Fatalf("lags: %v, %v", lags, err)
	}
	return lags[0]
}

// trouble returns what is recorded of a target; of an empty one, of all.
func (l *lab) trouble(target string) (all []storage.Trouble) {
	l.Helper()
	troubles, err := l.store.Troubles(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	return slices.DeleteFunc(troubles, func(t storage.Trouble) bool { return t.Target != target })
}

// A target that is away holds up neither the others nor the term, and catches up by
// itself when it is back.
func TestTargetIsAway(t *testing.T) {
	t.Parallel()
	home, gcp, server := twoClouds(t)
	r := home.configure(home.and(gcp))
	r.Every(100*time.Millisecond, 50*time.Millisecond)
	run(t, r.Run)
	home.commit(environment(t, "aws", "1"), environment(t, "gcp", "1"), put(t, policy("p"), "1"))
	home.wantPublished()
	gcp.wantPublished()
	eventually(t, "nothing is missing", func() bool { return home.lag("gcp") == storage.Lag{Target: "gcp"} })

	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"2", "3"} {
		home.commit(put(t, policy("p"), content))
		home.wantPublished()
	}
	revoked := home.cut(put(t, revocation("token"), "1"))
	seen := time.Now()
	eventually(t, "all is confirmed at home", func() bool {
		return home.publishedRevision(snapshot.SecurityLane) == revoked && home.freshness("aws").IssuedAt.After(seen)
	})
	if l := home.lag("gcp"); l.Revisions != 5 || l.Since.IsZero() {
		t.Errorf("gcp lacks %+v, want two revisions of two environments and one sequence", l)
	}
	wantLogged(t, r, "target cannot be published to")
	wantLogged(t, r, storage.ErrAway.Error())
	eventually(t, "both lanes are recorded to fail", func() bool {
		all := home.trouble("gcp")
		return len(all) == 2 && all[0].Lane != all[1].Lane && strings.Contains(all[0].Error, storage.ErrAway.Error())
	})
	if all := append(home.trouble("etcd"), home.trouble("")...); len(all) > 0 {
		t.Errorf("of the others it is recorded that %+v", all)
	}

	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	gcp.wantPublished()
	wantLogged(t, r, "target is published to again")
	eventually(t, "nothing is missing", func() bool { return home.lag("gcp") == storage.Lag{Target: "gcp"} })
	eventually(t, "nothing is wrong", func() bool { return len(home.trouble("gcp")) == 0 })
	if n := r.terms(); n != 1 {
		t.Errorf("there were %d terms", n)
	}
}

// A target that takes what it is given and never answers is not waited for.
func TestTargetNeverAnswers(t *testing.T) {
	t.Parallel()
	home, gcp, _ := twoClouds(t)
	begun := make(chan struct{}, 1)
	home.start(home.and(gcp), func(c *publish.Config) { c.Targets[1].Target = slowTarget{c.Targets[1].Target, "aws", begun} })
	home.commit(environment(t, "aws", "1"))
	await(t, "gcp has aws under way", begun)
	for _, content := range []string{"1", "2", "3"} {
		home.commit(put(t, policy("p"), content))
		home.wantPublished()
	}
	if at := gcp.publishedRevision("aws"); at != 0 {
		t.Errorf("gcp has revision %d of aws: nothing was shown", at)
	}
}

// A target that is away when a term begins is not waited for, which here would be for
// ever.
func TestTargetIsAwayFromTheBeginning(t *testing.T) {
	t.Parallel()
	home, gcp, server := twoClouds(t)
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	home.commit(environment(t, "aws", "1"))
	slow := late{asked: make(chan struct{}, 1), tell: make(chan struct{})}
	home.start(home.and(gcp), func(c *publish.Config) {
		slow.Target = c.Targets[1].Target
		c.Targets[1].Target = slow
	})
	home.wantPublished()
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(slow.tell)
	gcp.wantPublished()
}

// Without the etcd that elects it, nobody publishes: whoever asks can know why, until
// somebody does again.
func TestEndOfATermIsRecorded(t *testing.T) {
	t.Parallel()
	server := storagetest.NewEtcd(t)
	home := labAt(t, storagetest.Postgres(t, postgres.Migrate), server.Endpoints())
	home.start()
	home.commit(environment(t, "aws", "1"))
	home.wantPublished()
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end is recorded", func() bool { return len(home.trouble("")) > 0 })
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is wrong", func() bool { return len(home.trouble("")) == 0 })
	home.commit(put(t, policy("p"), "1"))
	home.wantPublished()
}

// The election is in one etcd alone. In the others it is the heads themselves that
// keep a publisher that was deposed from taking anything back.
func TestDeposedPublisherTakesNothingBackElsewhere(t *testing.T) {
	t.Parallel()
	home, gcp, _ := twoClouds(t)
	from, err := gcp.raw.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	home.commit(environment(t, "aws", "1"))
	s := &faulty{Store: home.open(discard)}
	frozen, thaw := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s.at = func(ctx context.Context, step string) context.Context {
		if step == "before Publish" {
			once.Do(func() { close(frozen) })
			<-thaw
		}
		return context.WithoutCancel(ctx)
	}
	first := home.configure(home.and(gcp), func(c *publish.Config) { c.Targets[1].Target = faultyTarget{c.Targets[1].Target, s} })
	stop := run(t, first.Run)
	await(t, "it freezes", frozen)
	home.depose()
	home.start(home.and(gcp))
	for _, content := range []string{"1", "2", "3"} {
		home.commit(put(t, policy("p"), content))
	}
	home.wantPublished()
	gcp.wantPublished()
	close(thaw)
	stop()
	gcp.wantPublished()
	gcp.wantForward("aws", from.Header.Revision+1)
	if first.log.count("level=ERROR") > 0 {
		t.Errorf("a false alarm: %s", first.log)
	}
}

// late is a target that takes its time to tell what it has.
type late struct {
	publish.Target
	asked chan struct{}
	tell  chan struct{}
}

func (l late) Heads(ctx context.Context, v *snapshot.Verifier) ([]snapshot.Head, error) {
	select {
	case l.asked <- struct{}{}:
	default:
	}
	select {
	case <-l.tell:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return l.Target.Heads(ctx, v)
}

// What any target has shows that the database was set back, and nothing is published
// to those that have lost it, or are new.
func TestAnyTargetShowsThatTheDatabaseWasSetBack(t *testing.T) {
	t.Parallel()
	home, gcp, _ := twoClouds(t)
	r := home.start(home.and(gcp))
	home.commit(environment(t, "aws", "1"))
	home.commit(put(t, policy("p"), "1"))
	home.wantPublished()
	gcp.wantPublished()
	r.stop()
	if _, err := home.raw.Delete(t.Context(), home.prefix+"/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	back := home.restored()
	back.commit(environment(t, "aws", "other"))
	slow := late{asked: make(chan struct{}, 1), tell: make(chan struct{})}
	r = back.configure(back.and(gcp), func(c *publish.Config) {
		slow.Target = c.Targets[1].Target
		c.Targets[1].Target = slow
	})
	r.SurveyWithin(time.Hour)
	stop := run(t, r.Run)
	await(t, "gcp is asked", slow.asked)
	close(slow.tell)
	eventually(t, "there is an alarm", func() bool { return r.log.count("level=ERROR") > 0 })
	wantLogged(t, r, storage.ErrAhead.Error())
	back.wantRefused(environment(t, "new", "1"))
	stop()
	if at := back.publishedRevision("aws"); at != 0 {
		t.Errorf("revision %d was published beside what was lost", at)
	}
	seen, err := back.store.Sightings(t.Context())
	if err != nil || len(seen) == 0 || seen[0].Witness != "gcp" {
		t.Errorf("seen: %v, %v", seen, err)
	}
}

// A replica asks every target before the first change is made, and goes on asking
// one that was away.
func TestReplicaComparesWithEveryTarget(t *testing.T) {
	t.Parallel()
	home, gcp, server := twoClouds(t)
	r := home.start(home.and(gcp))
	home.commit(environment(t, "aws", "1"))
	home.wantPublished()
	gcp.wantPublished()
	r.stop()
	if _, err := home.raw.Delete(t.Context(), home.prefix+"/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	back := home.restored()
	line := back.timeline(func(c *publish.TimelineConfig) {
		c.Targets = append(c.Targets, publish.Place{Name: "gcp", Target: gcp.target()})
	})
	run(t, line.Run)
	if err := line.Compared(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := back.store.Settled(t.Context()); err != nil {
		t.Fatalf("with gcp away: %v", err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is noticed", func() bool { return back.store.Settled(t.Context()) != nil })
	back.wantRefused(environment(t, "aws", "1"))
}

// The cursors of a target that the settings do not name any more are forgotten, so
// that they hold no history back. When it is named again it gets what is newest.
func TestTargetsThatAreGone(t *testing.T) {
	t.Parallel()
	home, gcp, _ := twoClouds(t)
	r := home.start(home.and(gcp))
	home.commit(environment(t, "aws", "1"))
	home.wantPublished()
	gcp.wantPublished()
	eventually(t, "there is a cursor", func() bool { return home.lag("gcp").Revisions == 0 })
	r.stop()
	r = home.start()
	wantLogged(t, r, `msg="target is not published to any more" target=gcp`)
	home.commit(put(t, policy("p"), "1"))
	home.wantPublished()
	for target, want := range map[string]snapshot.Revision{"etcd": 2, "gcp": 0} {
		eventually(t, "the cursor of "+target, func() bool {
			at, err := home.store.Cursor(t.Context(), target, "aws")
			return err == nil && at == want
		})
	}
	if n := r.log.count("not published to any more"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
	r.stop()
	home.start(home.and(gcp))
	gcp.wantPublished()
}
