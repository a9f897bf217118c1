package link_test

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/decisions"
	"github.com/sallyport/sallyport/controlplane/keyring"
	"github.com/sallyport/sallyport/controlplane/logout"
	"github.com/sallyport/sallyport/controlplane/publish"
	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/controlplane/stream"
	"github.com/sallyport/sallyport/dataplane/link"
	"github.com/sallyport/sallyport/dataplane/vault"
	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/revocation"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
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

const (
	domain    identity.TrustDomain = "prod.example"
	controlID identity.ID          = "spiffe://prod.example/sallyport/control"

	// patience is how long a test waits for what has to come.
	patience = 30 * time.Second
)

func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(slices.Repeat([]byte{seed}, ed25519.SeedSize))
}

func signer(seed byte) *snapshot.Signer { return snapshot.NewSigner(key(seed)) }

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
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	late := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-late:
			t.Fatalf("it never came to: %s", what)
		case <-tick.C:
		}
	}
}

// fleet is a database, an etcd and an authority over identities.
type fleet struct {
	*testing.T
	issuer    *issuer.Issuer
	database  *postgres.Store
	records   *postgres.Decisions
	lost      *atomic.Bool // records cannot be kept now
	endpoints []string
	prefix    string
	signer    *snapshot.Signer // whose key is pinned
	// signing is what replicas sign with that are started from now on; nil: signer.
	signing *snapshot.Signer
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	is, err := issuer.New(issuer.Config{DevelopmentOnly: true, TrustDomain: domain, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{
		T: t, issuer: is, lost: &atomic.Bool{},
		endpoints: storagetest.Etcd(t).Endpoints(), prefix: "/" + strings.ToLower(rand.Text()),
		signer: signer(1),
	}
	f.newDatabase()
	return f
}

// newDatabase gives the fleet an empty database.
func (f *fleet) newDatabase() {
	f.Helper()
	f.open(storagetest.Postgres(f, postgres.Migrate))
}

// open gives the fleet a database.
func (f *fleet) open(dsn string) {
	f.Helper()
	var err error
	f.database, err = postgres.New(postgres.Config{DSN: dsn, MaxConns: 4, Log: quiet()})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(f.database.Close)
	if f.records, err = postgres.NewDecisions(postgres.Config{DSN: dsn, MaxConns: 2, Log: quiet()}); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(f.records.Close)
	run(f.T, f.database.Run)
}

// SaveDecisions is that of the database, while that is there.
func (f *fleet) SaveDecisions(ctx context.Context, r storage.Records) error {
	if f.lost.Load() {
		return storage.ErrUnavailable
	}
	return f.records.SaveDecisions(ctx, r)
}

// KeepDecisions is that of the database.
func (f *fleet) KeepDecisions(ctx context.Context, from, until time.Time) error {
	return f.records.KeepDecisions(ctx, from, until)
}

// commit commits resources in YAML as one revision.
func (f *fleet) commit(yaml string) snapshot.Revision {
	f.Helper()
	located, problems := resource.ParseYAML([]byte(yaml))
	c := storage.Commit{Caller: "test"}
	for _, l := range located {
		p, found := resource.Decode(l.Resource)
		problems.Join(l.Index, found)
		if found.Total > 0 {
			continue
		}
		document, err := resource.Encode(p)
		if err != nil {
			f.Fatal(err)
		}
		all, environments := p.Scope()
		c.Changes = append(c.Changes, storage.Change{
			Key: p.Key, Scope: storage.Scope{All: all, Environments: environments},
			Document: document, Digest: snapshot.DocumentDigest(document),
		})
	}
	if problems.Total > 0 {
		f.Fatal(problems.Kept)
	}
	return f.change(c)
}

// commitNewer commits a policy with a field that this build does not know.
func (f *fleet) commitNewer(key resource.Key) snapshot.Revision {
	f.Helper()
	spec := protowire.AppendString(protowire.AppendTag(nil, 2000, protowire.BytesType), "from a newer build")
	document, err := proto.Marshal(&resourcev1.Document{Kind: string(key.Kind), Namespace: key.Namespace, Name: key.Name, Spec: spec})
	if err != nil {
		f.Fatal(err)
	}
	return f.change(storage.Commit{Caller: "test", Changes: []storage.Change{{
		Key: key, Scope: storage.Scope{All: true}, Document: document, Digest: snapshot.DocumentDigest(document),
	}}})
}

func (f *fleet) remove(key resource.Key) snapshot.Revision {
	f.Helper()
	return f.change(storage.Commit{Caller: "test", Changes: []storage.Change{{Key: key, Delete: true}}})
}

func (f *fleet) change(c storage.Commit) snapshot.Revision {
	f.Helper()
	done, err := f.database.Commit(f.Context(), c, func([]storage.Version) error { return nil })
	if err != nil {
		f.Fatal(err)
	}
	return done.Revision
}

// identify returns a source that has the identity.
func (f *fleet) identify(id identity.ID) *identity.Source {
	f.Helper()
	src, err := identity.New(identity.Config{SocketAddr: f.workload(id, ""), Log: quiet()})
	if err != nil {
		f.Fatal(err)
	}
	run(f.T, src.Run)
	ctx, cancel := context.WithTimeout(f.Context(), patience)
	defer cancel()
	if err := src.Wait(ctx); err != nil {
		f.Fatal(err)
	}
	return src
}

// workload serves the Workload API of the identity, and returns its address.
func (f *fleet) workload(id identity.ID, path string) string {
	f.Helper()
	if path == "" {
		path = filepath.Join(f.TempDir(), "s")
	}
	e, err := f.issuer.Listen(id, path, 0)
	if err != nil {
		f.Fatal(err)
	}
	run(f.T, e.Run)
	addr, err := identity.SocketAddr(path)
	if err != nil {
		f.Fatal(err)
	}
	return addr
}

// replica is one replica of the control plane, but for its API.
type replica struct {
	*testing.T
	url      string
	registry *registry.Registry
	service  *stream.Service
	records  *decisions.Service
	metrics  *prometheus.Registry // of registry
	// stop ends it as a crash would: without a word.
	stop func()
}

// replica starts one. An address that is given is listened on.
func (f *fleet) replica(name string, address ...string) *replica {
	f.Helper()
	store, err := etcd.New(etcd.Config{Endpoints: f.endpoints, Prefix: f.prefix, Log: quiet()})
	if err != nil {
		f.Fatal(err)
	}
	feed := etcd.NewFeed(store)
	verifier := f.signer.Verifier()
	hub := stream.NewHub(feed, store, verifier, quiet())
	r := &replica{T: f.T, metrics: prometheus.NewRegistry()}
	r.registry = registry.New(registry.Config{Store: f.database, Replica: name, Log: quiet(), Registerer: r.metrics})
	keys, err := keyring.New(keyring.Config{Store: f.database, Key: key(1), Log: quiet()})
	if err != nil {
		f.Fatal(err)
	}
	pool, err := authn.New(authn.Config{Log: quiet()})
	if err != nil {
		f.Fatal(err)
	}
	logouts := logout.New(logout.Config{States: hub, Keys: keys, Pool: pool, Security: f.database.Security(), Log: quiet()})
	r.service = stream.NewService(stream.Config{
		Hub: hub, Registry: r.registry, Keys: keys, LoggedOut: logouts.CutOff, Log: quiet(),
	})
	publisher := publish.New(publish.Config{
		Store: f.database, Election: store, Targets: []publish.Place{{Name: "etcd", Target: store}}, Security: f.database.Security(),
		Signer: cmp.Or(f.signing, f.signer), Verifier: verifier, Holder: name, Log: quiet(),
	})
	if r.records, err = f.takeRecords(hub, r.registry); err != nil {
		f.Fatal(err)
	}
	var stops []func()
	for _, part := range []func(context.Context) error{
		feed.Run, hub.Run, r.registry.Run, publisher.Run, keys.Run, pool.Run, r.serve(f.identify(controlID), address...),
	} {
		stops = append(stops, run(f.T, part))
	}
	r.stop = func() {
		for _, stop := range slices.Backward(stops) {
			stop()
		}
	}
	f.Cleanup(func() {
		r.stop()
		_ = store.Close()
	})
	return r
}

func (f *fleet) takeRecords(hub *stream.Hub, reg *registry.Registry) (*decisions.Service, error) {
	nyms, err := decisions.NewPseudonyms(key(1))
	if err != nil {
		return nil, err
	}
	return decisions.New(decisions.Config{Sink: f, Registry: reg, States: hub, Pseudonyms: nyms, Log: quiet()})
}

func (r *replica) serve(src *identity.Source, address ...string) func(context.Context) error {
	r.Helper()
	at := "127.0.0.1:0"
	if len(address) > 0 {
		at = strings.TrimPrefix(address[0], "https://")
	}
	ln, err := net.Listen("tcp", at)
	if err != nil {
		r.Fatal(err)
	}
	r.url = "https://" + ln.Addr().String()
	mux := http.NewServeMux()
	mux.Handle(r.service.Handler())
	mux.Handle(r.records.Handler())
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: patience, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	config := identity.ServerConfig(src, r.registry.Authorizer(domain))
	return func(ctx context.Context) error {
		context.AfterFunc(ctx, func() { _ = server.Close() })
		if err := server.Serve(tls.NewListener(ln, config)); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}

// proxy returns what the replica knows of a proxy; nil if nothing.
func (r *replica) proxy(p *proxy) *adminv1.Proxy {
	known, err := r.registry.Proxy(r.Context(), registry.ProxyID(string(p.id), p.instance))
	if err != nil {
		return nil
	}
	return known
}

// await waits until the replica knows of the proxy what ok says.
func (r *replica) await(p *proxy, what string, ok func(*adminv1.Proxy) bool) *adminv1.Proxy {
	r.Helper()
	var known *adminv1.Proxy
	r.Cleanup(func() {
		if r.Failed() {
			r.Logf("waited for %s; last known was %s", what, prototext.Format(known))
		}
	})
	eventually(r.T, what, func() bool {
		known = r.proxy(p)
		return known != nil && ok(known)
	})
	return known
}

// enforced waits until the replica has proof that the proxy enforces exactly a
// revision, or what it is said to do instead.
func (r *replica) enforced(p *proxy, revision snapshot.Revision, want adminv1.Enforcement) *adminv1.Proxy {
	r.Helper()
	return r.await(p, fmt.Sprintf("revision %d is %s", revision, want), func(known *adminv1.Proxy) bool {
		return known.GetRevision() == int64(revision) && known.GetEnforcement() == want &&
			known.GetConnection() == adminv1.Connection_CONNECTION_CONNECTED
	})
}

// drifting is what the replica's alarm says: how many proxies drift.
func (r *replica) drifting() float64 {
	r.Helper()
	families, err := r.metrics.Gather()
	if err != nil {
		r.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "sallyport_drifting_proxies" {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	r.Fatal("there is no alarm")
	return 0
}

const (
	enforced = adminv1.Enforcement_ENFORCEMENT_ENFORCED
	rejects  = adminv1.Enforcement_ENFORCEMENT_ENFORCED_WITH_REJECTS
	drift    = adminv1.Enforcement_ENFORCEMENT_DRIFT
)

// proxy is a link with a compiled table, and no gateway.
type proxy struct {
	id       identity.ID
	instance string
	dir      string
	link     *link.Link
	table    *table
	cuts     *cuts
	cookies  atomic.Pointer[session.Ring]
	dropped  atomic.Int64 // records
	stop     func()
}

// stateKey returns a file with the key of every proxy's secrets.
func (f *fleet) stateKey() string {
	f.Helper()
	file := filepath.Join(f.TempDir(), "state-key")
	if err := os.WriteFile(file, []byte(base64.StdEncoding.EncodeToString(make([]byte, vault.KeySize))), 0o600); err != nil {
		f.Fatal(err)
	}
	return file
}

func (f *fleet) vault() *vault.Vault {
	f.Helper()
	v, err := vault.Open(f.stateKey())
	if err != nil {
		f.Fatal(err)
	}
	return v
}

// proxy starts one that knows the replicas.
func (f *fleet) proxy(path string, e *table, replicas ...string) *proxy {
	f.Helper()
	p := &proxy{id: identity.ID("spiffe://prod.example/proxy/" + path), instance: "one", dir: f.TempDir(), table: e, cuts: &cuts{}}
	f.start(p, replicas...)
	return p
}

// start starts a proxy, again after it was stopped.
func (f *fleet) start(p *proxy, replicas ...string) {
	f.Helper()
	f.startWith(p, f.vault(), replicas...)
}

// startWith starts one that has its secrets sealed by a vault, or keeps none.
func (f *fleet) startWith(p *proxy, v *vault.Vault, replicas ...string) {
	f.Helper()
	l, err := link.New(link.Config{
		ControlPlanes: replicas, ControlPlaneID: controlID, Identity: f.identify(p.id),
		Instance: p.instance, Build: "test", Verifier: f.signer.Verifier(), Directory: p.dir,
		Policy: p.table, Security: p.cuts, Listeners: p.table, UseCookieKeys: p.cookies.Store, RecordsDropped: p.dropped.Load, Log: quiet(),
		Heartbeat: 50 * time.Millisecond, Vault: v,
	})
	if err != nil {
		f.Fatal(err)
	}
	p.link, p.stop = l, run(f.T, l.Run)
}

// table enforces what the compiler makes of snapshots.
type table struct {
	live    atomic.Pointer[compile.Table]
	swaps   atomic.Int64
	changed chan struct{}
	// compile is what makes a table; that of a faulty build when not nil.
	compile func(live *compile.Table, s *snapshot.Snapshot) *compile.Table
}

func newTable() *table { return &table{changed: make(chan struct{}, 1), compile: compile.Compile} }

func (e *table) Enforce(s *snapshot.Snapshot) {
	e.swaps.Add(1)
	e.live.Store(e.compile(e.live.Load(), s))
}

func (e *table) Enforced() link.Enforced {
	live := e.live.Load()
	if live == nil {
		return link.Enforced{}
	}
	return link.Enforced{Root: live.EnforcedRoot(), Rejects: live.Rejects(), Live: live.Live()}
}

// cuts is who is cut off.
type cuts struct {
	live atomic.Pointer[revocation.Set]
}

func (c *cuts) Enforce(s *snapshot.Snapshot) { c.live.Store(revocation.Compile(c.live.Load(), s)) }

func (c *cuts) Enforced() link.Enforced {
	live := c.live.Load()
	if live == nil {
		return link.Enforced{}
	}
	return link.Enforced{Root: live.EnforcedRoot(), Rejects: live.Rejects()}
}

func (e *table) Listeners() []link.Listener {
	return []link.Listener{{Namespace: "edge", Name: "https", Address: "127.0.0.1:1"}}
}

func (e *table) Changed() <-chan struct{} { return e.changed }

// names returns what the snapshot holds that was compiled last.
func (e *table) names() []string {
	var names []string
	for entry := range e.live.Load().Snapshot().Set().All() {
		names = append(names, entry.Key.String())
	}
	slices.Sort(names)
	return names
}
