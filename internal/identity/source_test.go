package identity_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/internal/identity"
)

func TestSourceStartsBeforeTheWorkloadAPI(t *testing.T) {
	path, log := socket(t), &lines{}
	src := source(t, path, identity.Config{Log: log.logger()})
	if _, err := src.SVID(); !errors.Is(err, identity.ErrNoIdentity) {
		t.Fatalf("before the Workload API: %v", err)
	}
	log.waitFor(t, 2, "workload api gave no svid")
	ended, end := context.WithCancel(t.Context())
	end()
	if err := src.Wait(ended); !errors.Is(err, identity.ErrNoIdentity) ||
		!errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "no such file") {
		t.Fatalf("waiting in vain says neither what nor why: %v", err)
	}
	if src.Ready() || !src.Expiry().IsZero() || len(src.Bundles()) != 0 {
		t.Fatal("there is something before the Workload API gave it")
	}

	is := newIssuer(t, domain, nil)
	serve(t, is, proxy, path)
	ready(t, src)
	svid, err := src.SVID()
	if err != nil || svid.ID != proxy || !svid.Expires.Equal(src.Expiry()) {
		t.Fatalf("SVID() = %+v, %v", svid, err)
	}
	if len(src.Bundles()[domain]) != 1 {
		t.Fatalf("Bundles() = %v", src.Bundles())
	}
}

func TestSourceFollowsRotation(t *testing.T) {
	is := newIssuer(t, domain, nil)
	src := identified(t, is, proxy)
	first, _ := src.SVID()
	is.Rotate()
	until(t, src, func() bool {
		next, err := src.SVID()
		return err == nil && !next.Certificate.Leaf.Equal(first.Certificate.Leaf)
	})

	// A bundle comes and goes the same way, and both are announced.
	foreign := newRogue(t)
	for _, want := range []int{1, 0} {
		if err := is.Federate("other.example", foreign.cert); want == 1 && err != nil {
			t.Fatal(err)
		}
		if want == 0 {
			_ = is.Federate("other.example")
		}
		until(t, src, func() bool { return len(src.Bundles()["other.example"]) == want })
	}
}

// The whole outage: identities outlive the Workload API until they expire, then
// everything that needs one fails with the same reason, and comes back by itself.
func TestSourceSurvivesAnOutage(t *testing.T) {
	var c clock
	is := newIssuer(t, domain, c.now)
	upstreamPath, callerPath := socket(t), socket(t)
	serve(t, is, control, upstreamPath)
	stopCaller := serve(t, is, proxy, callerPath)
	upstream := source(t, upstreamPath, identity.Config{Now: c.now})
	caller := source(t, callerPath, identity.Config{Now: c.now})
	ready(t, upstream)
	ready(t, caller)
	call := httpCall(t, upstream, caller)
	if err := call(); err != nil {
		t.Fatalf("before the outage: %v", err)
	}

	stopCaller()
	c.advance(59 * time.Minute)
	if err := call(); err != nil {
		t.Fatalf("a valid SVID does not need the Workload API: %v", err)
	}
	c.advance(2 * time.Minute)
	if err := call(); err == nil {
		t.Fatal("two expired SVIDs met")
	}
	is.Rotate()
	ready(t, upstream)
	if err := call(); !errors.Is(err, identity.ErrExpired) {
		t.Fatalf("after expiry: %v", err)
	}
	if _, err := caller.SVID(); !errors.Is(err, identity.ErrExpired) || caller.Ready() {
		t.Fatalf("SVID() after expiry: %v", err)
	}
	if caller.Expiry().IsZero() || len(caller.Bundles()) != 1 {
		t.Fatal("when it expired and whom we trusted is forgotten")
	}

	serve(t, is, proxy, callerPath)
	ready(t, caller)
	if err := call(); err != nil {
		t.Fatalf("after the outage: %v", err)
	}
}

// httpCall returns a request over a new connection from caller to upstream, as
// net/http makes it.
func httpCall(t *testing.T, upstream, caller *identity.Source) func() error {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := identity.PeerID(r.TLS)
		if err != nil && !errors.Is(err, identity.ErrPeer) {
			t.Errorf("peer: %v", err)
		}
		w.Header().Set("Peer", string(id))
	}))
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	srv.Config.TLSConfig = identity.ServerConfig(upstream, identity.Only(proxy))
	ln := srv.Listener
	go func() { _ = srv.Config.ServeTLS(ln, "", "") }()
	t.Cleanup(func() { _ = srv.Config.Close() })

	transport := &http.Transport{
		TLSClientConfig:   identity.ClientConfig(caller, identity.Only(control)),
		ForceAttemptHTTP2: true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return func() error {
		transport.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+ln.Addr().String(), nil)
		if err != nil {
			return err
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return err
		}
		if resp.ProtoMajor != 2 {
			t.Errorf("spoke %s, want HTTP/2", resp.Proto)
		}
		return resp.Body.Close()
	}
}

func TestSourceKeepsItsTrustDomain(t *testing.T) {
	path := socket(t)
	stop := serve(t, newIssuer(t, "other.example", nil), "spiffe://other.example/web", path)
	log := &lines{}
	src := source(t, path, identity.Config{TrustDomain: domain, Log: log.logger()})
	log.wait(t, "workload api gave no svid")
	if _, err := src.SVID(); !errors.Is(err, identity.ErrNoIdentity) || !strings.Contains(err.Error(), "other.example") {
		t.Fatalf("an SVID of another trust domain: %v", err)
	}
	stop()
	serve(t, newIssuer(t, domain, nil), proxy, path)
	ready(t, src)
}

// denying is a Workload API that has no identity for its caller.
type denying struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	code codes.Code
}

func (d denying) FetchX509SVID(
	*workload.X509SVIDRequest, grpc.ServerStreamingServer[workload.X509SVIDResponse],
) error {
	return status.Error(d.code, "no identity issued")
}

func deny(t *testing.T, path string, code codes.Code) (stop func()) {
	t.Helper()
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(srv, denying{code: code})
	return run(t, func(ctx context.Context) error {
		defer context.AfterFunc(ctx, srv.Stop)()
		return srv.Serve(ln)
	})
}

func TestSourceDropsAWithdrawnIdentity(t *testing.T) {
	path := socket(t)
	is := newIssuer(t, domain, nil)
	stop := serve(t, is, proxy, path)
	src := source(t, path, identity.Config{})
	ready(t, src)
	stop()
	if !src.Ready() {
		t.Fatal("an outage is not a withdrawal")
	}
	stop = deny(t, path, codes.PermissionDenied)
	until(t, src, func() bool { return !src.Ready() })
	if _, err := src.SVID(); !errors.Is(err, identity.ErrNoIdentity) {
		t.Fatalf("after the withdrawal: %v", err)
	}
	if len(src.Bundles()) != 1 {
		t.Fatal("whom we trust was withdrawn with who we are")
	}
	stop()
	serve(t, is, proxy, path)
	ready(t, src)
}

// go-spiffe gives a watch up on these; a Source must not.
func TestSourceOutlivesFinalErrors(t *testing.T) {
	for _, code := range []codes.Code{codes.InvalidArgument, codes.Canceled} {
		t.Run(code.String(), func(t *testing.T) {
			path := socket(t)
			stop := deny(t, path, code)
			log := &lines{}
			src := source(t, path, identity.Config{Log: log.logger()})
			log.wait(t, "workload api gave no svid")
			stop()
			serve(t, newIssuer(t, domain, nil), proxy, path)
			ready(t, src)
		})
	}
}

// However long the Workload API is away, the next try is never far.
func TestSourceKeepsTrying(t *testing.T) {
	log := &lines{}
	source(t, socket(t), identity.Config{Log: log.logger(), RetryCap: 20 * time.Millisecond})
	log.waitFor(t, 10, "workload api gave no svid")
	if n := strings.Count(log.String(), "level=WARN"); n != 1 {
		t.Errorf("one outage warned %d times", n)
	}
}

func TestSourceRaisesTheAlarm(t *testing.T) {
	for _, c := range []struct {
		age  time.Duration // of an SVID that is valid for an hour
		want string
	}{
		{40 * time.Minute, "svid was not renewed"},
		{61 * time.Minute, "svid expired"},
	} {
		t.Run(c.age.String(), func(t *testing.T) {
			path := socket(t)
			serve(t, newIssuer(t, domain, nil), proxy, path)
			log := &lines{}
			source(t, path, identity.Config{
				Log: log.logger(),
				Now: func() time.Time { return time.Now().Add(c.age) },
			})
			log.wait(t, c.want)
		})
	}
}

// lines is a log that can be waited on.
type lines struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	wrote chan struct{}
}

func (l *lines) logger() *slog.Logger {
	l.wrote = make(chan struct{}, 1)
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.wrote <- struct{}{}:
	default:
	}
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *lines) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Reset()
}

func (l *lines) wait(t *testing.T, text string) { t.Helper(); l.waitFor(t, 1, text) }

func (l *lines) waitFor(t *testing.T, n int, text string) {
	t.Helper()
	ctx := in(t, 10*time.Second)
	for strings.Count(l.String(), text) < n {
		select {
		case <-l.wrote:
		case <-ctx.Done():
			t.Fatalf("not logged %d times %q: %s", n, text, l)
		}
	}
}
