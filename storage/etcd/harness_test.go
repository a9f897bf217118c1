package etcd_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
	"github.com/sallyport/sallyport/storage/etcd"
	"github.com/sallyport/sallyport/storage/local"
	"github.com/sallyport/sallyport/storage/storagetest"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(memberVariable); text != "" {
		os.Exit(beMember(text))
	}
	code := storagetest.Main(m)
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// patience is how long a test waits for what has to come.
const patience = 30 * time.Second

func signer(seed byte) *snapshot.Signer {
	return snapshot.NewSigner(ed25519.NewKeyFromSeed(slices.Repeat([]byte{seed}, ed25519.SeedSize)))
}

// ours is the fleet's key.
var ours = signer(1)

// documents maps names to contents.
type documents map[string]string

func entry(t testing.TB, name, content string) snapshot.Entry {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&resourcev1.Document{
		Kind: "Policy", Namespace: "shop", Name: name, Spec: []byte(content),
	})
	if err != nil {
		t.Fatal(err)
	}
	e, err := snapshot.NewEntry(b)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (d documents) set(t testing.TB) *snapshot.Set {
	t.Helper()
	var entries []snapshot.Entry
	for name, content := range d {
		entries = append(entries, entry(t, name, content))
	}
	return snapshot.NewSet(entries...)
}

// with returns a copy in which a document has another content.
func (d documents) with(name, content string) documents {
	next := documents{name: content}
	for k, v := range d {
		if k != name {
			next[k] = v
		}
	}
	return next
}

func many(n int) documents {
	d := documents{}
	for i := range n {
		d[fmt.Sprintf("doc-%d", i)] = strings.Repeat("x", 100)
	}
	return d
}

// crowded returns documents that fall into one bucket, about as many bytes as
// asked for.
func crowded(t testing.TB, size int) documents {
	t.Helper()
	const each = 200 << 10
	d := documents{}
	for i := 0; len(d)*each < size; i++ {
		name := fmt.Sprintf("doc-%d", i)
		for b := range snapshot.NewSet(entry(t, name, "")).Buckets() {
			if b.Index == 7 {
				d[name] = strings.Repeat(string(rune('a'+i%26)), each)
			}
		}
	}
	return d
}

// statement is who signs what.
type statement struct {
	environment string
	epoch       snapshot.Epoch
	revision    snapshot.Revision
	signer      *snapshot.Signer
}

func (s statement) of(t testing.TB, set *snapshot.Set) *snapshot.Snapshot {
	t.Helper()
	head, err := s.signer.SignHead(snapshot.Statement{
		Epoch: s.epoch, Environment: s.environment, Revision: s.revision, Root: set.Root(), Documents: set.Len(),
	})
	if err != nil {
		t.Fatal(err)
	}
	snap, err := snapshot.Assemble(head, set)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// at is our snapshot of aws-prod at a revision.
func at(t testing.TB, revision snapshot.Revision, d documents) *snapshot.Snapshot {
	t.Helper()
	return statement{"aws-prod", 1, revision, ours}.of(t, d.set(t))
}

// lab is a key space of its own in an etcd.
type lab struct {
	*testing.T
	endpoints []string
	prefix    string
	raw       *clientv3.Client
}

func newLab(t *testing.T) *lab {
	t.Helper()
	return labAt(t, storagetest.Etcd(t).Endpoints())
}

func labAt(t *testing.T, endpoints []string) *lab {
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
	return &lab{T: t, endpoints: endpoints, prefix: "/" + strings.ToLower(rand.Text()), raw: raw}
}

// store returns a store as another process would have it.
func (l *lab) store() *etcd.Store {
	l.Helper()
	return l.logging(io.Discard)
}

func (l *lab) logging(w io.Writer) *etcd.Store {
	l.Helper()
	s, err := etcd.New(etcd.Config{
		Endpoints: l.endpoints,
		Prefix:    l.prefix,
		Log:       slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
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

func (l *lab) publish(s *etcd.Store, snap *snapshot.Snapshot) {
	l.Helper()
	if err := s.Publish(l.Context(), ours.Verifier(), snap); err != nil {
		l.Fatal(err)
	}
}

func (l *lab) headKey() string { return l.prefix + "/env/aws-prod/head" }

func (l *lab) chunkPrefix() string { return l.prefix + "/chunk/aws-prod/" }

func (l *lab) chunkKey(d snapshot.Digest, part int) string {
	return fmt.Sprintf("%s%s/%04d", l.chunkPrefix(), d, part)
}

// value is what is under a key.
type value struct {
	bytes    string
	revision int64
}

// all returns what is under a prefix.
func (l *lab) all(prefix string) map[string]value {
	l.Helper()
	r, err := l.raw.Get(l.Context(), prefix, clientv3.WithPrefix())
	if err != nil {
		l.Fatal(err)
	}
	found := map[string]value{}
	for _, kv := range r.Kvs {
		found[string(kv.Key)] = value{string(kv.Value), kv.ModRevision}
	}
	return found
}

func (l *lab) put(key, value string) {
	l.Helper()
	if _, err := l.raw.Put(l.Context(), key, value); err != nil {
		l.Fatal(err)
	}
}

func (l *lab) remove(key string, options ...clientv3.OpOption) {
	l.Helper()
	if _, err := l.raw.Delete(l.Context(), key, options...); err != nil {
		l.Fatal(err)
	}
}

// head returns the published head, as it lies there.
func (l *lab) head() *distributionv1.PublishedHead {
	l.Helper()
	var h distributionv1.PublishedHead
	if err := proto.Unmarshal([]byte(l.all(l.headKey())[l.headKey()].bytes), &h); err != nil {
		l.Fatal(err)
	}
	return &h
}

func (l *lab) putHead(h *distributionv1.PublishedHead) {
	l.Helper()
	b, err := proto.Marshal(h)
	if err != nil {
		l.Fatal(err)
	}
	l.put(l.headKey(), string(b))
}

// wantPublished fails unless another process would load exactly snap.
func (l *lab) wantPublished(snap *snapshot.Snapshot) {
	l.Helper()
	got, err := l.store().Load(l.Context(), ours.Verifier(), nil, l.head())
	if err != nil {
		l.Fatalf("load what was published: %v", err)
	}
	if got.Head().Digest() != snap.Head().Digest() {
		l.Fatalf("revision %d is published, not %d", got.Head().Revision, snap.Head().Revision)
	}
	if up, gone := got.Set().Changes(snap.Set()); len(up)+len(gone) > 0 {
		l.Fatalf("loaded documents differ: %d, and %d too many", len(up), len(gone))
	}
}

// through returns the lab as seen through a relay.
func (l *lab) through(r *relay) *lab {
	return &lab{T: l.T, endpoints: []string{"unix://" + r.ln.Addr().String()}, prefix: l.prefix, raw: l.raw}
}

// relay stands between clients and an etcd.
type relay struct {
	ln     net.Listener
	server string

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]chan struct{} // each with what is closed when it swallows everything
	done   sync.WaitGroup
}

func newRelay(t *testing.T, server *local.Etcd) *relay {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{ln: ln, server: strings.TrimPrefix(server.Endpoints()[0], "unix://"), conns: map[net.Conn]chan struct{}{}}
	r.done.Go(r.accept)
	t.Cleanup(func() {
		_ = ln.Close()
		r.cut()
		r.done.Wait()
	})
	return r
}

func (r *relay) accept() {
	for {
		client, err := r.ln.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("unix", r.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		r.mu.Lock()
		if r.closed {
			_, _ = client.Close(), server.Close()
		} else {
			silent := make(chan struct{})
			r.conns[client], r.conns[server] = silent, make(chan struct{})
			r.done.Go(func() { pass(client, server, silent) })
			r.done.Go(func() { pass(server, client, silent) })
		}
		r.mu.Unlock()
	}
}

// pass copies until one end closes; nothing any more once it is silent.
func pass(from, to net.Conn, silent <-chan struct{}) {
	defer func() { _, _ = from.Close(), to.Close() }()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		select {
		case <-silent:
			continue
		default:
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

// cut ends every connection, and all new ones until open.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for c := range r.conns {
		_ = c.Close()
	}
	clear(r.conns)
}

func (r *relay) open() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = false
}

// swallow lets nothing through any more on the connections that there are.
func (r *relay) swallow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, silent := range r.conns {
		close(silent)
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

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}
