package issuer_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const web identity.ID = "spiffe://prod.example/web"

func config() issuer.Config {
	return issuer.Config{DevelopmentOnly: true, TrustDomain: "prod.example", Log: slog.New(slog.DiscardHandler)}
}

func newIssuer(t *testing.T, cfg issuer.Config) *issuer.Issuer {
	t.Helper()
	is, err := issuer.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return is
}

// serve opens the Workload API of id at path, and returns how to stop it.
func serve(t *testing.T, is *issuer.Issuer, id identity.ID, path string) (stop func()) {
	t.Helper()
	e, err := is.Listen(id, path, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := e.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// open serves web and returns its address.
func open(t *testing.T, is *issuer.Issuer) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	serve(t, is, web, path)
	return "unix://" + path
}

// client is go-spiffe's own, which every SPIFFE workload in Go uses.
func client(t *testing.T, addr string) *workloadapi.Client {
	t.Helper()
	c, err := workloadapi.New(t.Context(), workloadapi.WithAddr(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// contexts hands on what a watch receives.
type contexts struct{ got chan *workloadapi.X509Context }

func (c contexts) OnX509ContextUpdate(x *workloadapi.X509Context) { c.got <- x }
func (c contexts) OnX509ContextWatchError(error)                  {}

func (c contexts) next(t *testing.T) *workloadapi.X509Context {
	t.Helper()
	select {
	case x := <-c.got:
		return x
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was pushed")
		return nil
	}
}

func watch(t *testing.T, addr string) contexts {
	t.Helper()
	c := contexts{got: make(chan *workloadapi.X509Context, 16)}
	cl := client(t, addr)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = cl.WatchX509Context(ctx, c) }()
	t.Cleanup(func() { cancel(); <-done })
	return c
}

func TestNewRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*issuer.Config){
		"not asked for":       func(c *issuer.Config) { c.DevelopmentOnly = false },
		"no trust domain":     func(c *issuer.Config) { c.TrustDomain = "" },
		"a bad trust domain":  func(c *issuer.Config) { c.TrustDomain = "Prod.example" },
		"no log":              func(c *issuer.Config) { c.Log = nil },
		"a negative lifetime": func(c *issuer.Config) { c.TTL = -time.Hour },
		"too short":           func(c *issuer.Config) { c.TTL = 3 * time.Second },
		"too long":            func(c *issuer.Config) { c.TTL = 365 * 24 * time.Hour },
	} {
		cfg := config()
		spoil(&cfg)
		if _, err := issuer.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestFetchX509SVID(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	cfg := config()
	cfg.TTL, cfg.Now = 20*time.Minute, func() time.Time { return at }
	is := newIssuer(t, cfg)
	addr := open(t, is)
	x, err := client(t, addr).FetchX509Context(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	svid := x.DefaultSVID()
	id, _, err := x509svid.Verify(svid.Certificates, x.Bundles, x509svid.WithTime(at))
	if err != nil || id.String() != string(web) || len(x.SVIDs) != 1 {
		t.Fatalf("%d SVIDs, the first is %s, %v", len(x.SVIDs), id, err)
	}
	leaf := svid.Certificates[0]
	if !leaf.NotAfter.Equal(at.Add(20*time.Minute)) || !leaf.NotBefore.Before(at) || leaf.Subject.CommonName != "" {
		t.Errorf("valid from %s to %s for %s", leaf.NotBefore, leaf.NotAfter, leaf.Subject)
	}
	if key, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		t.Errorf("the key is a %T", leaf.PublicKey)
	}
	bundle, err := client(t, addr).FetchX509Bundles(t.Context())
	if err != nil || bundle.Len() != 1 || !bundle.Bundles()[0].Equal(x.Bundles.Bundles()[0]) {
		t.Errorf("FetchX509Bundles: %v, %v", bundle, err)
	}
}

func TestRotatesAtHalfLife(t *testing.T) {
	cfg := config()
	cfg.TTL = 4 * time.Second
	addr := open(t, newIssuer(t, cfg))
	w := watch(t, addr)
	first := w.next(t).DefaultSVID().Certificates[0]
	second := w.next(t).DefaultSVID().Certificates[0]
	if time.Now().After(first.NotAfter) {
		t.Error("renewed only after expiry")
	}
	if !second.NotAfter.After(first.NotAfter) || second.SerialNumber.Cmp(first.SerialNumber) == 0 {
		t.Errorf("the second SVID lasts until %s, the first until %s", second.NotAfter, first.NotAfter)
	}
}

func TestPushes(t *testing.T) {
	is := newIssuer(t, config())
	addr := open(t, is)
	w := watch(t, addr)
	first := w.next(t)

	is.Rotate()
	second := w.next(t)
	if second.DefaultSVID().Certificates[0].Equal(first.DefaultSVID().Certificates[0]) {
		t.Error("Rotate pushed the same SVID")
	}

	cfg := config()
	cfg.TrustDomain = "other.example"
	path := filepath.Join(t.TempDir(), "s")
	serve(t, newIssuer(t, cfg), "spiffe://other.example/web", path)
	foreign, err := client(t, "unix://"+path).FetchX509Bundles(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	roots := foreign.Bundles()[0].X509Authorities()
	if err := is.Federate("other.example", roots...); err != nil {
		t.Fatal(err)
	}
	td := spiffeid.RequireTrustDomainFromString("other.example")
	if b, ok := w.next(t).Bundles.Get(td); !ok || !b.HasX509Authority(roots[0]) {
		t.Error("Federate did not reach the workload")
	}
	if set, err := client(t, addr).FetchX509Bundles(t.Context()); err != nil || !set.Has(td) || set.Len() != 2 {
		t.Errorf("FetchX509Bundles after Federate: %v", err)
	}
	if err := is.Federate("other.example"); err != nil {
		t.Fatal(err)
	}
	if w.next(t).Bundles.Has(td) {
		t.Error("the trust did not end")
	}
	if is.Federate("prod.example", roots...) == nil || is.Federate("", roots...) == nil {
		t.Error("federated with ourselves or nobody")
	}
}

// The header keeps a forged request from elsewhere out (Workload Endpoint section 3).
func TestSecurityHeader(t *testing.T) {
	addr := open(t, newIssuer(t, config()))
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	api := workload.NewSpiffeWorkloadAPIClient(conn)
	first := func(s interface{ RecvMsg(any) error }, m any, err error) error {
		if err != nil {
			return err
		}
		return s.RecvMsg(m)
	}
	calls := map[string]struct {
		call func(context.Context) error
		with codes.Code // with the header
	}{
		"FetchX509SVID": {func(ctx context.Context) error {
			s, err := api.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
			return first(s, &workload.X509SVIDResponse{}, err)
		}, codes.OK},
		"FetchX509Bundles": {func(ctx context.Context) error {
			s, err := api.FetchX509Bundles(ctx, &workload.X509BundlesRequest{})
			return first(s, &workload.X509BundlesResponse{}, err)
		}, codes.OK},
		"FetchJWTSVID": {func(ctx context.Context) error {
			_, err := api.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: []string{"a"}})
			return err
		}, codes.OK},
		"FetchJWTBundles": {func(ctx context.Context) error {
			s, err := api.FetchJWTBundles(ctx, &workload.JWTBundlesRequest{})
			return first(s, &workload.JWTBundlesResponse{}, err)
		}, codes.OK},
		"ValidateJWTSVID": {func(ctx context.Context) error {
			_, err := api.ValidateJWTSVID(ctx, &workload.ValidateJWTSVIDRequest{Audience: "a", Svid: "b"})
			return err
		}, codes.InvalidArgument},
	}
	headers := map[string]metadata.MD{
		"none":  nil,
		"false": metadata.Pairs("workload.spiffe.io", "false"),
		"True":  metadata.Pairs("workload.spiffe.io", "True"),
		"twice": metadata.Pairs("workload.spiffe.io", "true", "workload.spiffe.io", "true"),
		"true":  metadata.Pairs("workload.spiffe.io", "true"),
	}
	for rpc, c := range calls {
		for name, md := range headers {
			ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(t.Context(), md))
			want := codes.InvalidArgument
			if name == "true" {
				want = c.with
			}
			if got := status.Code(c.call(ctx)); got != want {
				t.Errorf("%s with header %q: %s, want %s", rpc, name, got, want)
			}
			cancel()
		}
	}
}

func TestStopClosesAndRemoves(t *testing.T) {
	is := newIssuer(t, config())
	path := filepath.Join(t.TempDir(), "s")
	stop := serve(t, is, web, path)
	w := watch(t, "unix://"+path)
	w.next(t)
	stop()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
	// The same place can be served again, and the same watch gets on by itself.
	serve(t, is, web, path)
	w.next(t)
}

func TestListen(t *testing.T) {
	is := newIssuer(t, config())
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	live, err := net.Listen("unix", filepath.Join(dir, "live"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = live.Close() })
	datagrams, err := net.ListenPacket("unixgram", filepath.Join(dir, "datagrams"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = datagrams.Close() })

	for name, c := range map[string]struct {
		id   identity.ID
		path string
		want string
	}{
		"another trust domain": {"spiffe://other.example/web", filepath.Join(dir, "s"), "not of the trust domain"},
		"no ID":                {"", filepath.Join(dir, "s"), "SPIFFE ID"},
		"relative":             {web, "s", "not absolute"},
		"too long":             {web, filepath.Join(dir, strings.Repeat("a", 100)), "at most 103"},
		"a file":               {web, file, "no socket"},
		"in use":               {web, live.Addr().String(), "in use"},
		"another kind":         {web, datagrams.LocalAddr().String(), "wrong type"},
		"no directory":         {web, filepath.Join(dir, "none", "s"), "no such file"},
	} {
		if _, err := is.Listen(c.id, c.path, 0); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "kept" {
		t.Errorf("the file that was in the way: %q, %v", got, err)
	}
	if _, err := os.Lstat(datagrams.LocalAddr().String()); err != nil {
		t.Errorf("the socket of another kind: %v", err)
	}
	conn, err := net.Dial("unix", live.Addr().String())
	if err != nil {
		t.Fatalf("the socket that was in use: %v", err)
	}
	_ = conn.Close()
}

func TestListenModeAndStaleSocket(t *testing.T) {
	is := newIssuer(t, config())
	path := filepath.Join(t.TempDir(), "s")
	stale, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false) // as kill -9 leaves it
	if err := stale.Close(); err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[fs.FileMode]fs.FileMode{0: 0o600, 0o666: 0o666} {
		e, err := is.Listen(web, path, mode)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want || e.Addr() != "unix://"+path {
			t.Errorf("mode %o: %v at %s, %v", mode, info.Mode(), e.Addr(), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := e.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

func TestIssue(t *testing.T) {
	is := newIssuer(t, config())
	cert, err := is.Issue(web, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(is.BundlePEM())
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{
		Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		t.Errorf("an SVID does not verify: %v", err)
	}
	for name, err := range map[string]error{
		"another trust domain":   second(is.Issue("spiffe://other.example/web", time.Minute)),
		"no ID":                  second(is.Issue("", time.Minute)),
		"no lifetime":            second(is.Issue(web, 0)),
		"outlives the authority": second(is.Issue(web, 400*24*time.Hour)),
		"server without names":   second(is.IssueServerCertificate(nil, time.Hour)),
	} {
		if err == nil {
			t.Errorf("%s: issued", name)
		}
	}
}

func second(_ tls.Certificate, err error) error { return err }

// The listeners' authority and the SPIFFE authority must not stand in for each other.
func TestServerCertificate(t *testing.T) {
	is := newIssuer(t, config())
	cert, err := is.IssueServerCertificate([]string{"gate.example", "127.0.0.1", "::1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	chain, key, err := issuer.EncodePEM(cert)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = tls.X509KeyPair(chain, key); err != nil {
		t.Fatalf("the PEM does not load: %v", err)
	}
	servers, svids := x509.NewCertPool(), x509.NewCertPool()
	servers.AppendCertsFromPEM(is.ServerCAPEM())
	svids.AppendCertsFromPEM(is.BundlePEM())
	for _, name := range []string{"gate.example", "127.0.0.1", "::1"} {
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: servers, DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: svids}); err == nil {
		t.Error("the SPIFFE authority vouches for a server certificate")
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{
		Roots: servers, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err == nil {
		t.Error("a server certificate is good for a client")
	}
	block, _ := pem.Decode(is.ServerCAPEM())
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil || !slices.Equal(ca.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) {
		t.Errorf("the listeners' authority is good for %v, %v", ca.ExtKeyUsage, err)
	}
}
