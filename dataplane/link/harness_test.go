package link_test

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/dataplane/link"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1/proxyv1connect"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	domain    identity.TrustDomain = "prod.example"
	controlID identity.ID          = "spiffe://prod.example/sallyport/control"
	proxyID   identity.ID          = "spiffe://prod.example/sallyport/proxy/one"
	env                            = "aws-prod"

	// patience is how long a test waits for what has to come.
	patience = 20 * time.Second
)

func signer(seed byte) *snapshot.Signer {
	return snapshot.NewSigner(ed25519.NewKeyFromSeed(slices.Repeat([]byte{seed}, ed25519.SeedSize)))
}

// docs makes documents of the form name=content.
func docs(t testing.TB, contents map[string]string) *snapshot.Set {
	t.Helper()
	var entries []snapshot.Entry
	for name, content := range contents {
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

// place is where a snapshot stands, and who signed it.
type place struct {
	env      string
	epoch    snapshot.Epoch
	revision snapshot.Revision
	seed     byte
}

func (p place) sign(t testing.TB, set *snapshot.Set) *snapshot.Snapshot {
	t.Helper()
	head, err := signer(p.seed).SignHead(snapshot.Statement{
		Epoch: p.epoch, Environment: p.env, Revision: p.revision, Root: set.Root(), Documents: set.Len(),
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

// at is the snapshot of our fleet and environment at a revision.
func at(t testing.TB, revision snapshot.Revision, contents map[string]string) *snapshot.Snapshot {
	t.Helper()
	return place{env, 1, revision, 1}.sign(t, docs(t, contents))
}

func freshness(t testing.TB, head snapshot.Head, issued time.Time) *proxyv1.SignedFreshness {
	t.Helper()
	f, err := signer(1).SignFreshness(snapshot.Freshness{
		Epoch: head.Epoch, Environment: head.Environment, Revision: head.Revision, HeadDigest: head.Digest(), IssuedAt: issued,
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// control is a control plane that does as the test tells it, honest or not. Its
// connections are real: TLS with SPIFFE identities, HTTP/2, Connect.
type control struct {
	url     string
	streams chan *conversation

	mu       sync.Mutex
	answer   *proxyv1.RegisterResponse
	register []*proxyv1.RegisterRequest
	at       []time.Time // of each registration
	// meanwhile is called once, while a proxy registers; nil for nothing.
	meanwhile func()
}

var _ proxyv1connect.ProxyServiceHandler = (*control)(nil)

func (c *control) admit(environment string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = &proxyv1.RegisterResponse{Admission: proxyv1.Admission_ADMISSION_ADMITTED, Environment: environment}
}

func (c *control) Register(_ context.Context, req *connect.Request[proxyv1.RegisterRequest]) (*connect.Response[proxyv1.RegisterResponse], error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.register, c.at = append(c.register, req.Msg), append(c.at, time.Now())
	if c.meanwhile != nil {
		c.meanwhile()
		c.meanwhile = nil
	}
	return connect.NewResponse(c.answer), nil
}

func (c *control) registered() []*proxyv1.RegisterRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.register)
}

func (c *control) Stream(ctx context.Context, conn *connect.BidiStream[proxyv1.StreamRequest, proxyv1.StreamResponse]) error {
	v := &conversation{
		heard: make(chan *proxyv1.StreamRequest, 1000), tell: make(chan *proxyv1.StreamResponse, 1000), gone: make(chan struct{}),
	}
	defer close(v.gone)
	go func() {
		defer close(v.heard)
		for {
			m, err := conn.Receive()
			if err != nil {
				return
			}
			v.heard <- m
		}
	}()
	select {
	case c.streams <- v:
	case <-ctx.Done():
	}
	for {
		select {
		case m, open := <-v.tell:
			if !open {
				return connect.NewError(connect.CodeUnavailable, errors.New("ended by the test"))
			}
			if err := conn.Send(m); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *control) Logout(context.Context, *connect.Request[proxyv1.LogoutRequest]) (*connect.Response[proxyv1.LogoutResponse], error) {
	return nil, connect.NewError(connect.CodeUnimplemented, errors.New("not asked for by the tests"))
}

// conversation is one stream, seen from the control plane.
type conversation struct {
	heard chan *proxyv1.StreamRequest
	tell  chan *proxyv1.StreamResponse
	gone  chan struct{} // closed when the stream has ended

	acked, secured *proxyv1.Ack // the last of each lane that the test heard
}

// end ends the stream, when everything was sent.
func (v *conversation) end() { close(v.tell) }

// hear returns the next message that pick takes.
func hear[T any](t testing.TB, v *conversation, pick func(*proxyv1.StreamRequest) (T, bool)) T {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case m, open := <-v.heard:
			if !open {
				t.Fatal("the proxy ended the stream")
			}
			if m.GetAck() != nil {
				v.acked = m.GetAck()
			}
			if m.GetSecurityAck() != nil {
				v.secured = m.GetSecurityAck()
			}
			if got, ok := pick(m); ok {
				return got
			}
		case <-late:
			t.Fatal("the proxy did not say what was awaited")
		}
	}
}

func (v *conversation) hello(t testing.TB) *proxyv1.Hello {
	t.Helper()
	return hear(t, v, func(m *proxyv1.StreamRequest) (*proxyv1.Hello, bool) { return m.GetHello(), m.GetHello() != nil })
}

// ack returns the next ack. A refusal instead is an error.
func (v *conversation) ack(t testing.TB) *proxyv1.Ack {
	t.Helper()
	return hear(t, v, func(m *proxyv1.StreamRequest) (*proxyv1.Ack, bool) {
		if r := m.GetRefusal(); r != nil {
			t.Fatalf("refused: %v", r)
		}
		return m.GetAck(), m.GetAck() != nil
	})
}

// persisted waits until an ack says that a revision is on the disk.
func (v *conversation) persisted(t testing.TB, revision snapshot.Revision) {
	t.Helper()
	if v.acked.GetPersistedRevision() == int64(revision) {
		return
	}
	hear(t, v, func(m *proxyv1.StreamRequest) (struct{}, bool) {
		return struct{}{}, m.GetAck().GetPersistedRevision() == int64(revision)
	})
}

func (v *conversation) refusal(t testing.TB) *proxyv1.Refusal {
	t.Helper()
	return hear(t, v, func(m *proxyv1.StreamRequest) (*proxyv1.Refusal, bool) { return m.GetRefusal(), m.GetRefusal() != nil })
}

func (v *conversation) heartbeat(t testing.TB) *proxyv1.Heartbeat {
	t.Helper()
	return hear(t, v, func(m *proxyv1.StreamRequest) (*proxyv1.Heartbeat, bool) {
		return m.GetHeartbeat(), m.GetHeartbeat() != nil
	})
}

func (v *conversation) send(parts ...*proxyv1.Update) {
	for _, u := range parts {
		v.tell <- &proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_Update{Update: u}}
	}
}

// sendSecurity sends parts in the security lane.
func (v *conversation) sendSecurity(parts ...*proxyv1.Update) {
	for _, u := range parts {
		v.tell <- &proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_Security{Security: u}}
	}
}

// secure sends what leads from base to next in the security lane, and returns
// the first ack of next.
func (v *conversation) secure(t testing.TB, base, next *snapshot.Snapshot) *proxyv1.Ack {
	t.Helper()
	v.sendSecurity(slices.Collect(snapshot.Updates(base, next))...)
	return v.securityAck(t, next, 0)
}

// securityAck returns the next ack of s in the security lane which says that at
// least the sequence is on the disk: the last one, where a disk is so fast that
// it said that as well.
func (v *conversation) securityAck(t testing.TB, s *snapshot.Snapshot, persisted snapshot.Revision) *proxyv1.Ack {
	t.Helper()
	says := func(a *proxyv1.Ack) bool {
		return a.GetRevision() == int64(s.Head().Revision) && a.GetPersistedRevision() >= int64(persisted)
	}
	if persisted > 0 && says(v.secured) {
		return v.secured
	}
	return hear(t, v, func(m *proxyv1.StreamRequest) (*proxyv1.Ack, bool) {
		if r := m.GetSecurityRefusal(); r != nil {
			t.Fatalf("refused: %v", r)
		}
		return m.GetSecurityAck(), says(m.GetSecurityAck())
	})
}

func (v *conversation) securityRefusal(t testing.TB) *proxyv1.Refusal {
	t.Helper()
	return hear(t, v, func(m *proxyv1.StreamRequest) (*proxyv1.Refusal, bool) {
		return m.GetSecurityRefusal(), m.GetSecurityRefusal() != nil
	})
}

func (v *conversation) confirm(f *proxyv1.SignedFreshness) {
	v.tell <- &proxyv1.StreamResponse{Lane: &proxyv1.StreamResponse_Freshness{Freshness: f}}
}

// push sends what leads from base to next, and returns the ack. Those that say
// meanwhile that base is on the disk are passed over.
func (v *conversation) push(t testing.TB, base, next *snapshot.Snapshot) *proxyv1.Ack {
	t.Helper()
	v.send(slices.Collect(snapshot.Updates(base, next))...)
	for {
		ack := v.ack(t)
		if base == nil || base == next || ack.GetRevision() != int64(base.Head().Revision) {
			return ack
		}
	}
}

// table enforces snapshots: it holds the digests of what is in force and
// nothing of what it was given. Test cases make it misbehave.
type table struct {
	mu        sync.Mutex
	live      map[resource.Key]snapshot.Digest
	rejects   []resource.Reject
	listeners []link.Listener
	swaps     int
	hold      chan struct{} // Enforce waits for it when not nil

	changed chan struct{}
}

func newTable() *table { return &table{changed: make(chan struct{}, 1)} }

func (e *table) Enforce(s *snapshot.Snapshot) {
	if e.hold != nil {
		<-e.hold
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.swaps++
	e.live = map[resource.Key]snapshot.Digest{}
	for entry := range s.Set().All() {
		e.live[entry.Key] = entry.Digest
	}
}

func (e *table) Enforced() link.Enforced {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.live == nil {
		return link.Enforced{}
	}
	live := maps.Clone(e.live)
	return link.Enforced{Root: snapshot.Root(maps.All(live)), Rejects: e.rejects, Live: maps.All(live)}
}

// lose forgets a document that is in force, and says nothing of it.
func (e *table) lose(key resource.Key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.live, key)
}

func (e *table) Listeners() []link.Listener {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.listeners
}

func (e *table) Changed() <-chan struct{} { return e.changed }

func (e *table) swapped() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.swaps
}

func (e *table) bind(l ...link.Listener) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.listeners = l
	e.changed <- struct{}{}
}

// wantEnforced fails unless the table enforces s, or nothing when s is nil.
func (e *table) wantEnforced(t testing.TB, s *snapshot.Snapshot) {
	t.Helper()
	want := snapshot.Digest{}
	if s != nil {
		want = s.Set().Root()
	}
	if got := e.Enforced().Root; got != want {
		t.Errorf("enforced root is %s, want %s", got.Short(), want.Short())
	}
}

// lab is a fleet of one.
type lab struct {
	issuer  *issuer.Issuer
	source  *identity.Source // the proxy's
	control *control
	dir     string
	metrics *prometheus.Registry
	cfg     link.Config

	now       func() time.Time // of identities; nil for the real one
	workloads []*workload
	rest      time.Duration
}

// workload is who gets an identity at a socket.
type workload struct {
	id   identity.ID
	path string
	stop func()
}

func newLab(t *testing.T) *lab { t.Helper(); return newLabAt(t, nil) }

// newLabAt has all identities go by a clock.
func newLabAt(t *testing.T, now func() time.Time) *lab {
	t.Helper()
	is, err := issuer.New(issuer.Config{DevelopmentOnly: true, TrustDomain: domain, Log: quiet(), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{issuer: is, dir: filepath.Join(t.TempDir(), "state"), now: now, rest: time.Millisecond}
	l.control = l.newControl(t, controlID)
	l.source = l.identify(t, proxyID)
	l.cfg = link.Config{
		ControlPlanes: []string{l.control.url}, ControlPlaneID: controlID, Identity: l.source,
		Instance: "one", Build: "test", Verifier: signer(1).Verifier(), Directory: l.dir, Log: quiet(),
	}
	return l
}

// start runs a proxy with a table until the returned function is called, or the
// test ends.
func (l *lab) start(t *testing.T, e *table, change ...func(*link.Config)) (*link.Link, func()) {
	t.Helper()
	l.metrics = prometheus.NewRegistry()
	cfg := l.cfg
	cfg.Policy, cfg.Listeners, cfg.Registerer = e, e, l.metrics
	if cfg.Security == nil {
		cfg.Security = newTable()
	}
	for _, c := range change {
		c(&cfg)
	}
	k, err := link.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	k.Rest(l.rest)
	return k, run(t, k.Run)
}

// stream returns the next stream that a proxy opens.
func (l *lab) stream(t testing.TB) *conversation { t.Helper(); return l.control.stream(t) }

func (c *control) stream(t testing.TB) *conversation {
	t.Helper()
	select {
	case v := <-c.streams:
		return v
	case <-time.After(patience):
		t.Fatal("no stream was opened")
		return nil
	}
}

// secured has a table enforce what comes in the security lane.
func secured(e *table) func(*link.Config) { return func(c *link.Config) { c.Security = e } }

// metric returns the value of a counter or a gauge, the sum over its labels.
func (l *lab) metric(t testing.TB, name string) float64 {
	t.Helper()
	families, err := l.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

// identify returns a source that has the identity.
func (l *lab) identify(t *testing.T, id identity.ID) *identity.Source {
	t.Helper()
	w := &workload{id: id, path: filepath.Join(t.TempDir(), "s")}
	l.workloads = append(l.workloads, w)
	l.attest(t, w)
	addr, err := identity.SocketAddr(w.path)
	if err != nil {
		t.Fatal(err)
	}
	src, err := identity.New(identity.Config{SocketAddr: addr, Log: quiet(), Now: l.now})
	if err != nil {
		t.Fatal(err)
	}
	run(t, src.Run)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := src.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	return src
}

// attest serves the Workload API to a workload.
func (l *lab) attest(t *testing.T, w *workload) {
	t.Helper()
	e, err := l.issuer.Listen(w.id, w.path, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.stop = run(t, e.Run)
}

// newControl serves a control plane with an identity until the test ends.
func (l *lab) newControl(t *testing.T, id identity.ID) *control {
	t.Helper()
	src := l.identify(t, id)
	c := &control{streams: make(chan *conversation)}
	c.admit(env)
	mux := http.NewServeMux()
	mux.Handle(proxyv1connect.NewProxyServiceHandler(c))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.url = "https://" + ln.Addr().String()
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: patience,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	run(t, func(ctx context.Context) error {
		context.AfterFunc(ctx, func() { _ = server.Close() })
		err := server.Serve(tls.NewListener(ln, identity.ServerConfig(src, identity.Member(domain))))
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return err
	})
	return c
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// run calls part until the returned function, or the end of the test, stops it.
func run(t *testing.T, part func(context.Context) error) (stop func()) {
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
