package registry_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/identity/issuer"
	"github.com/sallyport/sallyport/internal/proof"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
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

// patience is how long a test waits for what has to come.
const patience = 30 * time.Second

const (
	one = "spiffe://prod.example/proxy/aws/one"
	two = "spiffe://prod.example/proxy/aws/two"
)

// clock runs with real time and can be put forward.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time           { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) advance(by time.Duration) { c.ahead.Add(int64(by)) }

// lab is a database that replicas share.
type lab struct {
	testing.TB
	dsn   string
	clock clock
	store *postgres.Store // for the test's own use

	issuer *issuer.Issuer // of prod.example; nil for none
	svids  proof.SVIDs    // that trusts it
}

func newLab(t testing.TB) *lab {
	t.Helper()
	return labAt(t, storagetest.Postgres(t, postgres.Migrate))
}

func labAt(t testing.TB, dsn string) *lab {
	t.Helper()
	l := &lab{TB: t, dsn: dsn}
	l.store = l.open()
	return l
}

func (l *lab) open() *postgres.Store {
	l.Helper()
	s, err := postgres.New(postgres.Config{DSN: l.dsn, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(s.Close)
	run(l, s.Run)
	return s
}

// replica is a registry that runs.
type replica struct {
	*registry.Registry
	log     *lines
	metrics *prometheus.Registry
	stop    func()
}

func (l *lab) start(name string) *replica {
	l.Helper()
	log, metrics := &lines{}, prometheus.NewRegistry()
	r := registry.New(registry.Config{
		Store: l.open(), Replica: name, Now: l.clock.now, Registerer: metrics, SVIDs: l.svids,
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	return &replica{Registry: r, log: log, metrics: metrics, stop: run(l, r.Run)}
}

// ready is start for a replica that has read the enrollments.
func (l *lab) ready(name string) *replica {
	l.Helper()
	r := l.start(name)
	eventually(l, name+" is ready", r.Ready)
	return r
}

// enroll is an Enrollment.
func enroll(t testing.TB, name, pattern, environment string, labels ...string) storage.Change {
	t.Helper()
	spec := &resourcev1.Enrollment{SpiffeId: pattern, Environment: environment}
	for _, l := range labels {
		key, value, _ := strings.Cut(l, "=")
		if spec.Labels == nil {
			spec.Labels = map[string]string{}
		}
		spec.Labels[key] = value
	}
	return enrollWith(t, name, spec)
}

func enrollWith(t testing.TB, name string, spec *resourcev1.Enrollment) storage.Change {
	t.Helper()
	b, err := resource.Encode(resource.Parsed{Key: enrollmentKey(name), Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	return storage.Change{Key: enrollmentKey(name), Document: b, Digest: snapshot.DocumentDigest(b)}
}

func enrollmentKey(name string) resource.Key {
	return resource.Key{Kind: resource.KindEnrollment, Name: name}
}

func (l *lab) commit(changes ...storage.Change) {
	l.Helper()
	position, err := l.store.Position(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	if _, err := l.store.Commit(l.Context(), storage.Commit{
		Caller: "test", Action: "/Apply", Base: position.Revision, Changes: changes,
	}, func([]storage.Version) error { return nil }); err != nil {
		l.Fatal(err)
	}
}

// admitted waits until a SPIFFE ID is admitted to the environment, or to none.
func (l *lab) admitted(r *replica, id, environment string) registry.Admission {
	l.Helper()
	late := time.After(patience)
	for {
		a, err := r.Admit(id)
		if (err == nil) == (environment != "") && a.Environment == environment {
			return a
		}
		select {
		case <-a.Changed:
		case <-late:
			l.Fatalf("%s is admitted to %q: %v", id, a.Environment, err)
		}
	}
}

// open opens a session as the stream does.
func open(t testing.TB, r *replica, id, instance string) *registry.Session {
	t.Helper()
	a, err := r.Admit(id)
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Open(registry.Registration{SPIFFEID: id, Instance: instance}, a)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func document(t testing.TB, name string) snapshot.Entry {
	t.Helper()
	b, err := proto.Marshal(&resourcev1.Document{Kind: "Policy", Namespace: "shop", Name: name})
	if err != nil {
		t.Fatal(err)
	}
	e, err := snapshot.NewEntry(b)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// at is the snapshot of aws at a revision.
func at(t testing.TB, revision snapshot.Revision, names ...string) *snapshot.Snapshot {
	t.Helper()
	return of(t, "aws", revision, names...)
}

// of is the snapshot of an environment at a revision, or of the security lane.
func of(t testing.TB, environment string, revision snapshot.Revision, names ...string) *snapshot.Snapshot {
	t.Helper()
	var entries []snapshot.Entry
	for _, name := range names {
		entries = append(entries, document(t, name))
	}
	set := snapshot.NewSet(entries...)
	signer := snapshot.NewSigner(ed25519.NewKeyFromSeed(slices.Repeat([]byte{1}, ed25519.SeedSize)))
	head, err := signer.SignHead(snapshot.Statement{
		Epoch: 1, Environment: environment, Revision: revision, Root: set.Root(), Documents: set.Len(),
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := snapshot.Assemble(head, set)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ackOf is an honest statement, but for the changes.
func ackOf(s *snapshot.Snapshot, change ...func(*proxyv1.Ack)) *proxyv1.Ack {
	head := s.Head()
	digest, root := head.Digest(), head.Root
	ack := &proxyv1.Ack{
		Epoch: int64(head.Epoch), Revision: int64(head.Revision), HeadDigest: digest[:],
		ReceivedRoot: root[:], EnforcedRoot: root[:],
	}
	for _, f := range change {
		f(ack)
	}
	return ack
}

// rejecting is the statement of a proxy that rejected some documents.
func rejecting(s *snapshot.Snapshot, names ...string) func(*proxyv1.Ack) {
	return func(ack *proxyv1.Ack) {
		var keys []resource.Key
		for _, name := range names {
			keys = append(keys, resource.Key{Kind: "Policy", Namespace: "shop", Name: name})
			ack.Rejects = append(ack.Rejects, &proxyv1.Reject{
				Key: &proxyv1.DocumentKey{Kind: "Policy", Namespace: "shop", Name: name}, Reason: "too new",
			})
		}
		root := s.Set().Without(keys)
		ack.EnforcedRoot = root[:]
	}
}

// proxy returns what a replica knows.
func (l *lab) proxy(r *replica, id, instance string) *adminv1.Proxy {
	l.Helper()
	p, err := r.Proxy(l.Context(), registry.ProxyID(id, instance))
	if err != nil {
		return nil
	}
	return p
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
