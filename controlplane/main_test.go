package controlplane_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/controlplane/controlplanetest"
	"github.com/sallyport/sallyport/internal/identity"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

func TestMain(m *testing.M) { os.Exit(storagetest.Main(m)) }

// logs gathers what is logged, at every level.
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

func (l *logs) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// client calls with the SVID of id, if any.
func client(t *testing.T, p *controlplanetest.Plane, id identity.ID) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p.Issuer.ServerCAPEM())
	config := &tls.Config{RootCAs: roots}
	if id != "" {
		svid, err := p.Issuer.Issue(id, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{svid}
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, strings.TrimSpace(string(b))
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for !condition() {
		select {
		case <-ctx.Done():
			t.Fatalf("not in time: %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// saveLaggard records a proxy of aws, of another replica, that enforces nothing.
func saveLaggard(t *testing.T, p *controlplanetest.Plane) error {
	t.Helper()
	dsn, err := os.ReadFile(p.Settings.Database.URLFile)
	if err != nil {
		return err
	}
	store, err := postgres.New(postgres.Config{DSN: string(dsn), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer store.Close()
	now := time.Now()
	status, err := proto.Marshal(&adminv1.Proxy{
		Id: "spiffe://prod.example/proxy/aws#1", Environment: "aws", Instance: "1",
		Connection: adminv1.Connection_CONNECTION_CONNECTED, LastSeenAt: timestamppb.New(now),
	})
	if err != nil {
		return err
	}
	return store.SaveProxies(t.Context(), "", []storage.Proxy{{
		ID: "spiffe://prod.example/proxy/aws#1", SPIFFEID: "spiffe://prod.example/proxy/aws", Instance: "1",
		Environment: "aws", Replica: "two", Status: status, RegisteredAt: now, LastSeen: now,
	}})
}

// saveKeys records a lost proxy of aws that has signed with these keys.
func saveKeys(t *testing.T, p *controlplanetest.Plane, points ...[]byte) error {
	t.Helper()
	dsn, err := os.ReadFile(p.Settings.Database.URLFile)
	if err != nil {
		return err
	}
	store, err := postgres.New(postgres.Config{DSN: string(dsn), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer store.Close()
	now := time.Now()
	status, err := proto.Marshal(&adminv1.Proxy{
		Id: "spiffe://prod.example/proxy/aws/1#1", SpiffeId: string(controlplanetest.Proxy), Environment: "aws", Instance: "1",
		LastSeenAt: timestamppb.New(now), AssertionKeys: points,
	})
	if err != nil {
		return err
	}
	return store.SaveProxies(t.Context(), "", []storage.Proxy{{
		ID: "spiffe://prod.example/proxy/aws/1#1", SPIFFEID: string(controlplanetest.Proxy), Instance: "1",
		Environment: "aws", Status: status, RegisteredAt: now, LastSeen: now,
	}})
}
