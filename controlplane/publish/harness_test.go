package publish_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/publish"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/etcd"
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

// patience is how long a test waits for what has to come.
const patience = 30 * time.Second

// signer is the fleet's.
var signer = snapshot.NewSigner(ed25519.NewKeyFromSeed(slices.Repeat([]byte{1}, ed25519.SeedSize)))

// lab is a database and an etcd.
type lab struct {
	testing.TB
	dsn       string
	endpoints []string
	prefix    string
	raw       *clientv3.Client
	store     *postgres.Store // for the test's own use

	// model is what every environment, and the security lane, should hold at each
	// of its revisions.
	model    map[string]map[snapshot.Revision]map[resource.Key]string
	live     map[resource.Key]storage.Change
	revision snapshot.Revision
}

func newLab(t testing.TB) *lab {
	t.Helper()
	return labAt(t, storagetest.Postgres(t, postgres.Migrate), storagetest.Etcd(t).Endpoints())
}

func labAt(t testing.TB, dsn string, endpoints []string) *lab {
	t.Helper()
	raw, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := raw.Close(); err != nil {
			t.Error(err)
		}
	})
	l := &lab{TB: t, dsn: dsn, endpoints: endpoints, prefix: "/" + strings.ToLower(rand.Text()), raw: raw}
	l.reset()
	l.store = l.open(slog.DiscardHandler)
	return l
}

// restored is the lab with a database that has nothing yet.
func (l *lab) restored() *lab {
	l.Helper()
	next := labAt(l.TB, storagetest.Postgres(l.TB, postgres.Migrate), l.endpoints)
	next.prefix = l.prefix
	return next
}

func (l *lab) reset() {
	l.model = map[string]map[snapshot.Revision]map[resource.Key]string{snapshot.SecurityLane: {1: {}}}
	l.live, l.revision = map[resource.Key]storage.Change{}, 0
}

// open returns a store as a replica would have it.
func (l *lab) open(h slog.Handler) *postgres.Store {
	l.Helper()
	s, err := postgres.New(postgres.Config{DSN: l.dsn, Log: slog.New(h)})
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(s.Close)
	run(l, s.Run)
	return s
}

func (l *lab) target() *etcd.Store {
	l.Helper()
	s, err := etcd.New(etcd.Config{Endpoints: l.endpoints, Prefix: l.prefix, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() {
		if err := s.Close(); err != nil {
			l.Error(err)
		}
	})
	return s
}

// replica is a publisher with what a test may do to it.
type replica struct {
	*publish.Publisher
	log  *lines
	stop func()
}

// configure makes a replica that does not run yet.
func (l *lab) configure(change ...func(*publish.Config)) *replica {
	l.Helper()
	log := &lines{}
	handler := slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})
	store := l.open(slog.DiscardHandler)
	home := l.target()
	c := publish.Config{
		Store: store, Election: home, Targets: []publish.Place{{Name: "etcd", Target: home}}, Security: store.Security(), Signer: signer,
		Holder: strings.ToLower(rand.Text()), Log: slog.New(handler),
	}
	for _, f := range change {
		f(&c)
	}
	return &replica{Publisher: publish.New(c), log: log}
}

// terms is how many terms it has begun, but for those that followed because the lease
// ran out: on a machine that pauses it may at any time.
func (r *replica) terms() int {
	const lost = "the election may be lost"
	return r.log.count("became publisher") - r.log.count(lost) + r.log.count(lost+": campaign")
}

// troubles is of what it has complained, but for its lease.
func (r *replica) troubles() int {
	return r.log.count("level=WARN") + r.log.count("level=ERROR") - r.log.count("the election may be lost")
}

// start runs a replica until it is stopped, or the test ends.
func (l *lab) start(change ...func(*publish.Config)) *replica {
	l.Helper()
	r := l.configure(change...)
	r.stop = run(l, r.Run)
	return r
}

// document makes the bytes of a resource.
func document(t testing.TB, key resource.Key, content string) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&resourcev1.Document{
		Kind: string(key.Kind), Namespace: key.Namespace, Name: key.Name, Spec: []byte(content),
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// put is a change that makes or replaces a resource; without environments it
// is for all of them.
func put(t testing.TB, key resource.Key, content string, environments ...string) storage.Change {
	t.Helper()
	b := document(t, key, content)
	scope := storage.Scope{All: len(environments) == 0, Environments: environments}
	return storage.Change{Key: key, Scope: scope, Document: b, Digest: snapshot.DocumentDigest(b)}
}

func remove(key resource.Key) storage.Change { return storage.Change{Key: key, Delete: true} }

func policy(name string) resource.Key {
	return resource.Key{Kind: resource.KindPolicy, Namespace: "shop", Name: name}
}

func revocation(name string) resource.Key {
	return resource.Key{Kind: resource.KindRevocation, Name: name}
}

func environmentKey(name string) resource.Key {
	return resource.Key{Kind: resource.KindEnvironment, Name: name}
}

func environment(t testing.TB, name, content string) storage.Change {
	t.Helper()
	return put(t, environmentKey(name), content, name)
}

func enrollment(t testing.TB, name, content string) storage.Change {
	t.Helper()
	c := put(t, resource.Key{Kind: resource.KindEnrollment, Name: name}, content)
	c.Scope = storage.Scope{}
	return c
}

// commit applies changes, and remembers what every environment should hold.
func (l *lab) commit(changes ...storage.Change) snapshot.Revision {
	l.Helper()
	done, err := l.store.Commit(l.Context(), storage.Commit{Caller: "test", Action: "/Apply", Base: l.revision, Changes: changes},
		func([]storage.Version) error { return nil })
	if err != nil {
		l.Fatal(err)
	}
	l.remember(done.Revision, changes)
	return done.Revision
}

// wantRefused checks that nothing is committed, since the database was set back.
func (l *lab) wantRefused(changes ...storage.Change) {
	l.Helper()
	_, err := l.store.Commit(l.Context(), storage.Commit{Caller: "test", Action: "/Apply", Changes: changes},
		func([]storage.Version) error { return nil })
	if !errors.Is(err, storage.ErrAhead) {
		l.Errorf("a commit: %v, want %v", err, storage.ErrAhead)
	}
}

func (l *lab) remember(revision snapshot.Revision, changes []storage.Change) {
	touched := map[string]bool{}
	touch := func(c storage.Change) {
		for name := range l.model {
			if _, exists := l.live[environmentKey(name)]; exists && c.Scope.Includes(name) {
				touched[name] = true
			}
		}
	}
	for _, c := range changes {
		touch(l.live[c.Key])
	}
	for _, c := range changes {
		if c.Delete {
			delete(l.live, c.Key)
			continue
		}
		l.live[c.Key] = c
		if name := c.Key.Name; c.Key.Kind == resource.KindEnvironment && l.model[name] == nil {
			l.model[name] = map[snapshot.Revision]map[resource.Key]string{}
		}
	}
	for _, c := range changes {
		touch(c)
	}
	for name := range touched {
		holds := map[resource.Key]string{}
		for key, c := range l.live {
			if c.Scope.Includes(name) && key.Kind != resource.KindEnrollment {
				holds[key] = string(c.Document)
			}
		}
		l.model[name][revision] = holds
	}
	l.revision = revision
}

// cut commits changes to the security lane.
func (l *lab) cut(changes ...storage.Change) snapshot.Revision {
	l.Helper()
	done, err := l.store.Security().Commit(l.Context(), storage.Commit{Caller: "test", Action: "/Apply", Changes: changes},
		func([]storage.Version) error { return nil })
	if err != nil {
		l.Fatal(err)
	}
	lane := l.model[snapshot.SecurityLane]
	lane[done.Revision] = maps.Clone(lane[l.newest(snapshot.SecurityLane)])
	for _, c := range changes {
		if lane[done.Revision][c.Key] = string(c.Document); c.Delete {
			delete(lane[done.Revision], c.Key)
		}
	}
	return done.Revision
}

// newest returns the last revision of an environment in the model.
func (l *lab) newest(name string) snapshot.Revision {
	return slices.Max(append(slices.Collect(maps.Keys(l.model[name])), 0))
}

// published returns the head and the documents that another replica would
// serve; zero if there is none.
func (l *lab) published(name string) (snapshot.Head, map[resource.Key]string) {
	l.Helper()
	r, err := l.raw.Get(l.Context(), l.prefix+"/env/"+name+"/head")
	if err != nil || len(r.Kvs) == 0 {
		return snapshot.Head{}, nil
	}
	var p distributionv1.PublishedHead
	if err := proto.Unmarshal(r.Kvs[0].Value, &p); err != nil {
		return snapshot.Head{}, nil
	}
	snap, err := l.target().Load(l.Context(), signer.Verifier(), nil, &p)
	if err != nil {
		return snapshot.Head{}, nil
	}
	holds := map[resource.Key]string{}
	for e := range snap.Set().All() {
		holds[e.Key] = string(e.Document)
	}
	return snap.Head(), holds
}

// publishedRevision is cheaper than published.
func (l *lab) publishedRevision(name string) snapshot.Revision {
	r, err := l.raw.Get(l.Context(), l.prefix+"/env/"+name+"/head")
	if err != nil || len(r.Kvs) == 0 {
		return 0
	}
	return revisionOf(r.Kvs[0].Value)
}

func revisionOf(published []byte) snapshot.Revision {
	var p distributionv1.PublishedHead
	if err := proto.Unmarshal(published, &p); err != nil {
		return 0
	}
	head, err := signer.Verifier().VerifyHead(p.GetHead())
	if err != nil {
		return 0
	}
	return head.Revision
}

// freshness returns the statement of an environment; zero if there is none.
func (l *lab) freshness(name string) snapshot.Freshness {
	r, err := l.raw.Get(l.Context(), l.prefix+"/env/"+name+"/freshness")
	if err != nil || len(r.Kvs) == 0 {
		return snapshot.Freshness{}
	}
	return freshnessOf(r.Kvs[0].Value)
}

// confirmations returns how many statements there were of the security lane: one with
// each head, and one when a term begins.
func (l *lab) confirmations(name string) int64 {
	r, err := l.raw.Get(l.Context(), l.prefix+"/env/"+name+"/freshness")
	if err != nil || len(r.Kvs) == 0 {
		return 0
	}
	return r.Kvs[0].Version
}

func freshnessOf(value []byte) snapshot.Freshness {
	var s proxyv1.SignedFreshness
	if err := proto.Unmarshal(value, &s); err != nil {
		return snapshot.Freshness{}
	}
	f, err := signer.Verifier().VerifyFreshness(&s)
	if err != nil {
		return snapshot.Freshness{}
	}
	return f
}

// wantPublished waits until every environment of the model is published, and
// then fails unless its whole history is in the database as it should be: no
// revision skipped, doubled or reordered.
func (l *lab) wantPublished() {
	l.Helper()
	for name := range l.model {
		eventually(l, fmt.Sprintf("%s is published at revision %d", name, l.newest(name)), func() bool {
			return l.publishedRevision(name) == l.newest(name)
		})
		_, holds := l.published(name)
		if !maps.Equal(holds, l.model[name][l.newest(name)]) {
			l.Errorf("%s at revision %d: published are %d documents, want %d", name, l.newest(name), len(holds), len(l.model[name][l.newest(name)]))
		}
		l.wantHistory(name)
	}
}

func (l *lab) wantHistory(name string) {
	l.Helper()
	before := snapshot.Head{}
	for _, revision := range slices.Sorted(maps.Keys(l.model[name])) {
		recorded, err := l.store.Head(l.Context(), name, revision)
		if err != nil || recorded.Revision != revision {
			l.Fatalf("%s: head of revision %d: %d, %v", name, revision, recorded.Revision, err)
		}
		head, err := signer.Verifier().VerifyHead(recorded.Signed)
		if err != nil {
			l.Fatal(err)
		}
		var entries []snapshot.Entry
		for _, b := range l.model[name][revision] {
			e, err := snapshot.NewEntry([]byte(b))
			if err != nil {
				l.Fatal(err)
			}
			entries = append(entries, e)
		}
		want := snapshot.Statement{
			Epoch: 1, Environment: name, Revision: revision, Previous: before.Digest(),
			Root: snapshot.NewSet(entries...).Root(), Documents: len(entries),
		}
		if head.Statement != want {
			l.Errorf("%s: head of revision %d is %+v, want %+v", name, revision, head.Statement, want)
		}
		before = head
	}
	all, err := l.store.EnvironmentRevisions(l.Context(), name, 0, 10_000)
	if err != nil || len(all) != len(l.model[name]) {
		l.Errorf("%s has %d revisions, want %d (%v)", name, len(all), len(l.model[name]), err)
	}
}

// all returns what is under the lab's prefix, but for the election.
func (l *lab) all() map[string]string {
	l.Helper()
	r, err := l.raw.Get(l.Context(), l.prefix+"/", clientv3.WithPrefix())
	if err != nil {
		l.Fatal(err)
	}
	found := map[string]string{}
	for _, kv := range r.Kvs {
		if !strings.Contains(string(kv.Key), "/leader") {
			found[string(kv.Key)] = string(kv.Value)
		}
	}
	return found
}

// depose takes the election from whoever has it. On a machine that pauses for longer
// than a lease nobody may have it any more, who had it.
func (l *lab) depose() {
	l.Helper()
	r, err := l.raw.Get(l.Context(), l.prefix+"/leader", clientv3.WithFirstCreate()...)
	if err != nil {
		l.Fatal(err)
	}
	if len(r.Kvs) == 0 {
		return
	}
	_, err = l.raw.Revoke(l.Context(), clientv3.LeaseID(r.Kvs[0].Lease))
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) { // it has given up meanwhile
		l.Fatal(err)
	}
}

// elected reports whether somebody has the election.
func (l *lab) elected() bool { return len(l.candidates()) > 0 }

// candidates returns the keys of those who stand for election; the first has
// it.
func (l *lab) candidates() (keys []string) {
	r, err := l.raw.Get(l.Context(), l.prefix+"/leader", clientv3.WithPrefix(),
		clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend))
	if err != nil {
		return nil
	}
	for _, kv := range r.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys
}

// wantForward fails if a head in etcd ever went back since from.
func (l *lab) wantForward(name string, from int64) {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), patience)
	defer cancel()
	last := l.publishedRevision(name)
	watch := l.raw.Watch(ctx, l.prefix+"/env/"+name+"/head", clientv3.WithRev(from))
	for at := snapshot.Revision(0); at < last; {
		r, ok := <-watch
		if !ok || r.Err() != nil {
			l.Fatalf("watch ended: %v", r.Err())
		}
		for _, e := range r.Events {
			now := revisionOf(e.Kv.Value)
			if now <= at {
				l.Fatalf("%s: revision %d was published after %d", name, now, at)
			}
			at = now
		}
	}
}

// wantNoneConfirmed fails if any statement says that a revision but the newest
// was that after a time.
func (l *lab) wantNoneConfirmed(name string, from int64, after time.Time) {
	l.Helper()
	key := l.prefix + "/env/" + name + "/freshness"
	last, err := l.raw.Get(l.Context(), key)
	if err != nil || len(last.Kvs) == 0 {
		l.Fatalf("no freshness: %v", err)
	}
	ctx, cancel := context.WithTimeout(l.Context(), patience)
	defer cancel()
	watch := l.raw.Watch(ctx, key, clientv3.WithRev(from))
	for at := int64(0); at < last.Kvs[0].ModRevision; {
		r, ok := <-watch
		if !ok || r.Err() != nil {
			l.Fatalf("watch ended: %v", r.Err())
		}
		for _, e := range r.Events {
			at = e.Kv.ModRevision
			if f := freshnessOf(e.Kv.Value); f.IssuedAt.After(after) && f.Revision != l.newest(name) {
				l.Errorf("%s: revision %d was confirmed %s too late", name, f.Revision, f.IssuedAt.Sub(after))
			}
		}
	}
}

// run calls part until the returned function, or the end of the test, stops it.
func run(t testing.TB, part func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := part(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	late := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-late:
			t.Fatalf("it never came to: %s", what)
		case <-tick.C:
		}
	}
}

// lines is a log that can be read meanwhile.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lines) count(text string) int { return strings.Count(l.String(), text) }
