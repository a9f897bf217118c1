package stream_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/controlplane/stream"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1/proxyv1connect"
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

const (
	domain    identity.TrustDomain = "prod.example"
	controlID identity.ID          = "spiffe://prod.example/sallyport/control"
	awsID     identity.ID          = "spiffe://prod.example/proxy/aws/one"
	gcpID     identity.ID          = "spiffe://prod.example/proxy/gcp/one"
	nobodyID  identity.ID          = "spiffe://prod.example/nobody"
)

func signer(seed byte) *snapshot.Signer {
	return snapshot.NewSigner(ed25519.NewKeyFromSeed(slices.Repeat([]byte{seed}, ed25519.SeedSize)))
}

// ours is the fleet's key.
var ours = signer(1)

// documents maps names to contents.
type documents map[string]string

func (d documents) set(t testing.TB) *snapshot.Set {
	t.Helper()
	var entries []snapshot.Entry
	for name, content := range d {
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
		entries = append(entries, e)
	}
	return snapshot.NewSet(entries...)
}

// statement is who signs what.
type statement struct {
	environment string
	revision    snapshot.Revision
	signer      *snapshot.Signer
}

func (s statement) of(t testing.TB, d documents) *snapshot.Snapshot {
	t.Helper()
	set := d.set(t)
	head, err := s.signer.SignHead(snapshot.Statement{
		Epoch: 1, Environment: s.environment, Revision: s.revision, Root: set.Root(), Documents: set.Len(),
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

// aws is our snapshot of aws at a revision.
func aws(t testing.TB, revision snapshot.Revision, d documents) *snapshot.Snapshot {
	t.Helper()
	return statement{"aws", revision, ours}.of(t, d)
}

// security is our snapshot of the security lane at a sequence.
func security(t testing.TB, sequence snapshot.Revision, d documents) *snapshot.Snapshot {
	t.Helper()
	return statement{snapshot.SecurityLane, sequence, ours}.of(t, d)
}

func freshness(t testing.TB, snap *snapshot.Snapshot, at time.Time) *proxyv1.SignedFreshness {
	t.Helper()
	head := snap.Head()
	f, err := ours.SignFreshness(snapshot.Freshness{
		Epoch: head.Epoch, Environment: head.Environment, Revision: head.Revision, HeadDigest: head.Digest(), IssuedAt: at,
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// lab is a replica with what it stands on. The test is the publisher.
type lab struct {
	testing.TB
	issuer   *issuer.Issuer
	database *postgres.Store
	etcd     *etcd.Store
	prefix   string
	raw      *clientv3.Client

	feed     *etcd.Feed
	hub      *stream.Hub
	registry *registry.Registry
	service  *stream.Service
	shown    chan string // what proxies have proven to know
	log      *lines
	address  string

	distrusted atomic.Bool // certificates that were taken would not be any more
}

// newLab starts a replica, with a security lane that is empty.
func newLab(t testing.TB, change ...func(*stream.Service)) *lab {
	t.Helper()
	l := build(t)
	l.enroll("aws", "spiffe://prod.example/proxy/aws/*", "aws")
	l.enroll("gcp", "spiffe://prod.example/proxy/gcp/*", "gcp")
	for _, f := range change {
		f(l.service)
	}
	l.publish(security(t, 1, nil))
	l.follow()
	l.served(snapshot.SecurityLane, 1)
	l.serve()
	run(t, l.registry.Run)
	eventually(t, "enrollments are known", l.registry.Ready)
	return l
}

// build makes a replica of which nothing runs yet.
func build(t testing.TB) *lab {
	t.Helper()
	l := &lab{TB: t, prefix: "/" + strings.ToLower(rand.Text()), log: &lines{}, shown: make(chan string, 100)}
	log := slog.New(slog.NewTextHandler(l.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if l.issuer, err = issuer.New(issuer.Config{DevelopmentOnly: true, TrustDomain: domain, Log: quiet()}); err != nil {
		t.Fatal(err)
	}
	if l.database, err = postgres.New(postgres.Config{DSN: storagetest.Postgres(t, postgres.Migrate), Log: quiet()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.database.Close)
	run(t, l.database.Run)
	l.raw = storagetest.Etcd(t)
	endpoints := l.raw.Endpoints()
	if l.raw, err = clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()}); err != nil {
		t.Fatal(err)
	}
	if l.etcd, err = etcd.New(etcd.Config{Endpoints: endpoints, Prefix: l.prefix, Log: log}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(l.etcd.Close(), l.raw.Close()); err != nil {
			t.Error(err)
		}
	})
	l.feed = etcd.NewFeed(l.etcd)
	l.hub = stream.NewHub(l.feed, l.etcd, ours.Verifier(), log)
	l.registry = registry.New(registry.Config{Store: l.database, Replica: "a", Log: log})
	shown := func(h snapshot.Head, proxy string) {
		l.shown <- fmt.Sprintf("%s %s@%d", proxy, h.Environment, h.Revision)
	}
	l.service = stream.NewService(stream.Config{Hub: l.hub, Registry: l.registry, Shown: shown, Recheck: l.recheck, Log: log})
	return l
}

func (l *lab) recheck(*tls.ConnectionState) error {
	if l.distrusted.Load() {
		return errors.New("not trusted")
	}
	return nil
}

// follow runs feed and hub.
func (l *lab) follow() {
	l.Helper()
	run(l, l.feed.Run)
	run(l, l.hub.Run)
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// serve listens for proxies as a replica does.
func (l *lab) serve() {
	l.Helper()
	path := filepath.Join(l.TempDir(), "s")
	endpoint, err := l.issuer.Listen(controlID, path, 0)
	if err != nil {
		l.Fatal(err)
	}
	run(l, endpoint.Run)
	source, err := identity.New(identity.Config{SocketAddr: endpoint.Addr(), TrustDomain: domain, Log: quiet()})
	if err != nil {
		l.Fatal(err)
	}
	run(l, source.Run)
	ctx, cancel := context.WithTimeout(l.Context(), patience)
	defer cancel()
	if err := source.Wait(ctx); err != nil {
		l.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(l.service.Handler())
	l.address = l.listen(mux, identity.ServerConfig(source, identity.Member(domain)))
}

// listen serves until the test ends and returns the address.
func (l *lab) listen(h http.Handler, c *tls.Config) string {
	l.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.Fatal(err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: patience, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	run(l, func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { _ = server.Close() })
		defer stop()
		if err := server.Serve(tls.NewListener(ln, c)); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return ln.Addr().String()
}

// commit makes a revision.
func (l *lab) commit(changes ...storage.Change) {
	l.Helper()
	position, err := l.database.Position(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	if _, err := l.database.Commit(l.Context(), storage.Commit{
		Caller: "test", Action: "/Apply", Base: position.Revision, Changes: changes,
	}, func([]storage.Version) error { return nil }); err != nil {
		l.Fatal(err)
	}
}

func enrollmentKey(name string) resource.Key {
	return resource.Key{Kind: resource.KindEnrollment, Name: name}
}

func (l *lab) enroll(name, pattern, environment string, labels ...string) {
	l.Helper()
	spec := &resourcev1.Enrollment{SpiffeId: pattern, Environment: environment, Labels: map[string]string{}}
	for _, text := range labels {
		key, value, _ := strings.Cut(text, "=")
		spec.Labels[key] = value
	}
	b, err := resource.Encode(resource.Parsed{Key: enrollmentKey(name), Spec: spec})
	if err != nil {
		l.Fatal(err)
	}
	l.commit(storage.Change{Key: enrollmentKey(name), Document: b, Digest: snapshot.DocumentDigest(b)})
}

func (l *lab) publish(snap *snapshot.Snapshot) {
	l.Helper()
	if err := l.etcd.Publish(l.Context(), ours.Verifier(), snap); err != nil {
		l.Fatal(err)
	}
}

// publishRaw puts any head below an environment.
func (l *lab) publishRaw(environment string, p *distributionv1.PublishedHead) {
	l.Helper()
	b, err := proto.Marshal(p)
	if err != nil {
		l.Fatal(err)
	}
	if _, err := l.raw.Put(l.Context(), l.prefix+"/env/"+environment+"/head", string(b)); err != nil {
		l.Fatal(err)
	}
}

func (l *lab) published(environment string) *distributionv1.PublishedHead {
	l.Helper()
	r, err := l.raw.Get(l.Context(), l.prefix+"/env/"+environment+"/head")
	if err != nil || len(r.Kvs) == 0 {
		l.Fatalf("no head: %v", err)
	}
	var p distributionv1.PublishedHead
	if err := proto.Unmarshal(r.Kvs[0].Value, &p); err != nil {
		l.Fatal(err)
	}
	return &p
}

// served waits until the hub serves a revision.
func (l *lab) served(environment string, revision snapshot.Revision) {
	l.Helper()
	late := time.After(patience)
	for {
		state := l.hub.State(environment)
		if state.Snapshot.Head().Revision == revision {
			return
		}
		select {
		case <-state.Changed:
		case <-late:
			l.Fatalf("revision %d of %s is served, not %d", state.Snapshot.Head().Revision, environment, revision)
		}
	}
}

// known returns what the registry knows of a proxy.
func (l *lab) known(id identity.ID, instance string) *adminv1.Proxy {
	p, err := l.registry.Proxy(l.Context(), registry.ProxyID(string(id), instance))
	if err != nil {
		return nil
	}
	return p
}

// enforcement waits until the registry says how a proxy enforces.
func (l *lab) enforcement(id identity.ID, instance string, want adminv1.Enforcement) {
	l.Helper()
	eventually(l, fmt.Sprintf("%s#%s is %s", id, instance, want), func() bool { return l.known(id, instance).GetEnforcement() == want })
}

// client is a proxy's connection.
type client struct {
	proxyv1connect.ProxyServiceClient
	transport *http.Transport
}

// client returns a connection of its own for an identity.
func (l *lab) client(id identity.ID, ttl time.Duration, change ...func(*http.Transport)) *client {
	l.Helper()
	certificate, err := l.issuer.Issue(id, ttl)
	if err != nil {
		l.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(l.issuer.BundlePEM())
	return l.clientWith(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate},
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
			return err
		},
	}, l.address, change...)
}

func (l *lab) clientWith(c *tls.Config, address string, change ...func(*http.Transport)) *client {
	l.Helper()
	var http2 http.Protocols
	http2.SetHTTP2(true)
	transport := &http.Transport{TLSClientConfig: c, Protocols: &http2, DisableCompression: true}
	for _, f := range change {
		f(transport)
	}
	l.Cleanup(transport.CloseIdleConnections)
	return &client{
		ProxyServiceClient: proxyv1connect.NewProxyServiceClient(&http.Client{Transport: transport}, "https://"+address,
			connect.WithAcceptCompression("gzip", nil, nil), connect.WithReadMaxBytes(snapshot.MaxPart+64<<10)),
		transport: transport,
	}
}

// proxy is one end of a stream.
type proxy struct {
	*lab
	instance string
	stream   *connect.BidiStreamForClient[proxyv1.StreamRequest, proxyv1.StreamResponse]
	cancel   context.CancelFunc
	heard    chan *proxyv1.StreamResponse
	ended    chan error // why the stream ended

	assembly, lane snapshot.Assembly
	current        *snapshot.Snapshot
}

// connect opens a stream as an identity, and says hello. The proxy knows the
// security lane as it begins.
func (l *lab) connect(id identity.ID, instance string, current *snapshot.Snapshot) *proxy {
	l.Helper()
	return l.stream(l.client(id, time.Hour), instance, current)
}

func (l *lab) stream(c *client, instance string, current *snapshot.Snapshot) *proxy {
	l.Helper()
	hello := &proxyv1.Hello{Instance: instance, Security: ackOf(security(l, 1, nil))}
	if current != nil {
		hello.Current = ackOf(current)
	}
	return l.begin(c, hello, current)
}

func (l *lab) begin(c *client, hello *proxyv1.Hello, current *snapshot.Snapshot) *proxy {
	l.Helper()
	p := l.dial(c)
	p.instance, p.current = hello.GetInstance(), current
	p.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_Hello{Hello: hello}})
	go p.receive()
	return p
}

// dial opens a stream and says nothing.
func (l *lab) dial(c *client) *proxy {
	l.Helper()
	ctx, cancel := context.WithCancel(l.Context())
	p := &proxy{
		lab: l, stream: c.Stream(ctx), cancel: cancel,
		heard: make(chan *proxyv1.StreamResponse, 10_000), ended: make(chan error, 1),
	}
	l.Cleanup(func() {
		cancel()
		_ = p.stream.CloseRequest() // it may have ended
		_ = p.stream.CloseResponse()
	})
	return p
}

func (p *proxy) receive() {
	defer close(p.heard)
	for {
		m, err := p.stream.Receive()
		if err != nil {
			p.ended <- err
			return
		}
		p.heard <- m
	}
}

func (p *proxy) say(m *proxyv1.StreamRequest) {
	p.Helper()
	if err := p.stream.Send(m); err != nil {
		p.Fatal(err)
	}
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

func (p *proxy) ack(change ...func(*proxyv1.Ack)) {
	p.Helper()
	p.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_Ack{Ack: ackOf(p.current, change...)}})
}

func (p *proxy) refuse(revision snapshot.Revision) {
	p.Helper()
	p.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_Refusal{Refusal: &proxyv1.Refusal{
		Epoch: 1, Revision: int64(revision), Reason: "root_mismatch", Detail: "test",
	}}})
}

func (p *proxy) beat() {
	p.Helper()
	p.say(&proxyv1.StreamRequest{Message: &proxyv1.StreamRequest_Heartbeat{Heartbeat: &proxyv1.Heartbeat{}}})
}

// next returns the next message.
func (p *proxy) next() *proxyv1.StreamResponse {
	p.Helper()
	select {
	case m, ok := <-p.heard:
		if !ok {
			p.Fatalf("the stream has ended: %v", <-p.ended)
		}
		return m
	case <-time.After(patience):
		p.Fatal("nothing was said")
	}
	return nil
}

// updated takes an update, without answering it, and fails unless it is to the
// revision and builds on the root of base (nil: nothing). It returns how many
// documents came.
func (p *proxy) updated(revision snapshot.Revision, base *snapshot.Snapshot) (count int) {
	p.Helper()
	for {
		u := p.next().GetUpdate()
		if u == nil {
			p.Fatal("not an update")
		}
		root := base.Head().Root
		if full := len(u.GetBaseRoot()) == 0; full != (base == nil) || !full && string(u.GetBaseRoot()) != string(root[:]) {
			p.Fatalf("the update builds on %x", u.GetBaseRoot())
		}
		count += len(u.GetDocuments())
		next, err := p.assembly.Add(ours.Verifier(), p.current, u)
		if err != nil {
			p.Fatal(err)
		}
		if next == nil {
			continue
		}
		if next.Head().Revision != revision {
			p.Fatalf("the update is to revision %d, not to %d", next.Head().Revision, revision)
		}
		p.current = next
		return count
	}
}

// over waits for the end of the stream, whatever comes before it, and fails
// unless it has the code and says so.
func (p *proxy) over(code connect.Code, text string) {
	p.Helper()
	late := time.After(patience)
	for {
		select {
		case _, ok := <-p.heard:
			if ok {
				continue
			}
			if err := <-p.ended; connect.CodeOf(err) != code || !strings.Contains(err.Error(), text) {
				p.Errorf("the stream ended with %v, want %v %q", err, code, text)
			}
			return
		case <-late:
			p.Fatal("the stream does not end")
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
