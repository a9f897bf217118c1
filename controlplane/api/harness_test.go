package api_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/controlplane/access"
	"github.com/sallyport/sallyport/controlplane/api"
	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/bundle"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

func TestMain(m *testing.M) { os.Exit(storagetest.Main(m)) }

// The callers of these tests, by SPIFFE ID.
const (
	admin  identity.ID = "spiffe://prod.example/operator/admin"
	viewer identity.ID = "spiffe://prod.example/operator/viewer"
	proxy  identity.ID = "spiffe://prod.example/proxy/aws/1"
	nobody identity.ID = "" // presents no certificate
)

// world is an API behind real TLS, on a real database.
type world struct {
	url     string
	store   *postgres.Store
	stop    func() // of the store, what it does by itself
	api     *api.API
	known   *registry.Registry
	issuer  *issuer.Issuer
	roots   *x509.CertPool
	log     *logs
	metrics *prometheus.Registry
	ready   atomic.Bool
	read    atomic.Int64 // bytes that the server has read from the network
	ahead   atomic.Int64 // of real time, in nanoseconds

	published map[string]published // by environment; not changed while it is served
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldOn(t, storagetest.Postgres(t, postgres.Migrate))
}

func newWorldOn(t testing.TB, dsn string) *world {
	t.Helper()
	return newWorldWith(t, dsn, func(s *postgres.Store) api.Store { return s })
}

func newWorldWith(t testing.TB, dsn string, wrap func(*postgres.Store) api.Store) *world {
	t.Helper()
	return newReplica(t, dsn, "one", wrap)
}

// newReplica is a world whose replica has a name.
func newReplica(t testing.TB, dsn, name string, wrap func(*postgres.Store) api.Store) *world {
	t.Helper()
	return newReplicaOf(t, dsn, name, wrap, nil)
}

// newReplicaOf is newReplica for one that edges poll.
func newReplicaOf(t testing.TB, dsn, name string, wrap func(*postgres.Store) api.Store, edges api.Edges) *world {
	t.Helper()
	w := &world{log: &logs{}, metrics: prometheus.NewRegistry(), roots: x509.NewCertPool()}
	w.ready.Store(true)
	log := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	w.store = must(postgres.New(postgres.Config{DSN: dsn, Log: log}))
	t.Cleanup(w.store.Close)
	fleet := registry.New(registry.Config{Store: w.store, Replica: name, Log: log})
	w.known = fleet
	w.api = must(api.New(api.Config{
		Store: wrap(w.store), Registry: fleet, Log: log, Metrics: w.metrics, Ready: w.ready.Load, Targets: []string{"etcd"},
		Control: must(access.NewControl([]access.Administrator{
			{Caller: access.Caller{SPIFFEID: string(admin)}, Role: access.RoleAdmin},
			{Caller: access.Caller{SPIFFEID: string(viewer)}, Role: access.RoleViewer},
		})),
		Identify: identify, Signer: signer, Verifier: signer.Verifier(), Edges: edges,
		Published: func(environment string) bundle.Bundle {
			policy, security := w.published[environment], w.published[snapshot.SecurityLane]
			return bundle.Bundle{
				Policy: policy.snapshot, Freshness: policy.freshness, Security: security.snapshot, SecurityFreshness: security.freshness,
			}
		},
		Now: func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) },
	}))
	w.issuer = must(issuer.New(issuer.Config{DevelopmentOnly: true, TrustDomain: "prod.example", Log: slog.New(slog.DiscardHandler)}))
	w.roots.AppendCertsFromPEM(w.issuer.ServerCAPEM())
	w.stop = run(t, w.store.Run)
	run(t, w.api.Run)
	w.serve(t)
	return w
}

// identify knows callers by their certificates alone.
func identify(r *http.Request) (access.Caller, error) {
	id, err := identity.PeerID(r.TLS)
	if errors.Is(err, identity.ErrNoCertificate) {
		return access.Caller{}, nil
	}
	return access.Caller{SPIFFEID: string(id)}, err
}

// serve serves the API as the control plane does.
func (w *world) serve(t testing.TB) {
	t.Helper()
	endpoint := must(w.issuer.Listen("spiffe://prod.example/controlplane", filepath.Join(t.TempDir(), "s"), 0))
	source := must(identity.New(identity.Config{SocketAddr: endpoint.Addr(), Log: slog.New(slog.DiscardHandler)}))
	run(t, endpoint.Run)
	run(t, source.Run)
	if err := source.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	certificate := must(w.issuer.IssueServerCertificate([]string{"127.0.0.1"}, time.Hour))
	ln := must(net.Listen("tcp", "127.0.0.1:0"))
	server := &http.Server{Handler: w.api.Handler(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	go func() {
		_ = server.Serve(tls.NewListener(counting{ln, &w.read}, identity.ListenerConfig(source,
			func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &certificate, nil })))
	}()
	t.Cleanup(func() { _ = server.Close() })
	w.url = "https://" + ln.Addr().String()
}

// run runs a part until the test ends, or until it is stopped.
func run(t testing.TB, part func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- part(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// counting counts what is read from the network.
type counting struct {
	net.Listener
	read *atomic.Int64
}

func (c counting) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	return countingConn{conn, c.read}, err
}

type countingConn struct {
	net.Conn
	read *atomic.Int64
}

func (c countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

// client returns an HTTP client with the certificate of a caller.
func (w *world) client(t testing.TB, id identity.ID) *http.Client {
	t.Helper()
	config := &tls.Config{RootCAs: w.roots}
	if id != nobody {
		config.Certificates = []tls.Certificate{must(w.issuer.Issue(id, time.Hour))}
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func (w *world) config(t testing.TB, id identity.ID, options ...connect.ClientOption) adminv1connect.ConfigServiceClient {
	t.Helper()
	return adminv1connect.NewConfigServiceClient(w.client(t, id), w.url, options...)
}

func (w *world) fleet(t testing.TB, id identity.ID, options ...connect.ClientOption) adminv1connect.FleetServiceClient {
	t.Helper()
	return adminv1connect.NewFleetServiceClient(w.client(t, id), w.url, options...)
}

// apply applies resources in YAML, or ends the test.
func (w *world) apply(t testing.TB, yaml string) *adminv1.ApplyResponse {
	t.Helper()
	res, err := w.config(t, admin).Apply(t.Context(), connect.NewRequest(&adminv1.ApplyRequest{Resources: resources(t, yaml)}))
	if err != nil {
		t.Fatal(explain(err))
	}
	return res.Msg
}

func resources(t testing.TB, yaml string) []*adminv1.Resource {
	t.Helper()
	located, problems := resource.ParseYAML([]byte(yaml))
	if problems.Total > 0 {
		t.Fatal(problems.Kept[0])
	}
	var all []*adminv1.Resource
	for _, l := range located {
		all = append(all, l.Resource)
	}
	return all
}

// explain shows an error with the problems that it carries.
func explain(err error) string {
	text := err.Error()
	for _, p := range problems(err).GetProblems() {
		text += fmt.Sprintf("\n%d %s %s %d:%d %s: %s", p.GetIndex(), p.GetResource(), p.GetField(), p.GetLine(), p.GetColumn(), p.GetReason(), p.GetMessage())
	}
	return text
}

func problems(err error) *adminv1.Problems {
	var e *connect.Error
	if !errors.As(err, &e) {
		return nil
	}
	for _, d := range e.Details() {
		if v, err := d.Value(); err == nil {
			if p, ok := v.(*adminv1.Problems); ok {
				return p
			}
		}
	}
	return nil
}

// answer is what plain HTTP shows of an answer.
type answer struct {
	status  int
	header  http.Header
	Code    string
	Message string
	Details []struct {
		Type  string
		Debug json.RawMessage
	}
	text string
}

// curl sends a body as a stranger with curl would.
func (w *world) curl(t testing.TB, id identity.ID, method, procedure, contentType string, body io.Reader) answer {
	t.Helper()
	req := must(http.NewRequestWithContext(t.Context(), method, w.url+procedure, body))
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := w.client(t, id).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text := must(io.ReadAll(res.Body))
	a := answer{status: res.StatusCode, header: res.Header, text: string(text)}
	_ = json.Unmarshal(text, &a) // not every answer is an error
	return a
}

// post sends JSON.
func (w *world) post(t testing.TB, id identity.ID, procedure, body string) answer {
	t.Helper()
	return w.curl(t, id, http.MethodPost, procedure, "application/json", strings.NewReader(body))
}

// logs gathers what was logged.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
