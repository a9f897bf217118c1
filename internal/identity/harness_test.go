package identity_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	domain  identity.TrustDomain = "prod.example"
	control identity.ID          = "spiffe://prod.example/sallyport/control"
	proxy   identity.ID          = "spiffe://prod.example/sallyport/proxy/one"
)

// clock runs with real time and can be put forward.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time           { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) advance(by time.Duration) { c.ahead.Add(int64(by)) }
func quiet() *slog.Logger                 { return slog.New(slog.DiscardHandler) }
func nowhere() *log.Logger                { return slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo) }
func socket(t *testing.T) string          { t.Helper(); return filepath.Join(t.TempDir(), "s") }
func anyone(identity.ID) error            { return nil }
func in(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func newIssuer(t *testing.T, td identity.TrustDomain, now func() time.Time) *issuer.Issuer {
	t.Helper()
	is, err := issuer.New(issuer.Config{DevelopmentOnly: true, TrustDomain: td, Log: quiet(), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return is
}

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

// serve opens the Workload API of id at path.
func serve(t *testing.T, is *issuer.Issuer, id identity.ID, path string) (stop func()) {
	t.Helper()
	e, err := is.Listen(id, path, 0)
	if err != nil {
		t.Fatal(err)
	}
	return run(t, e.Run)
}

// source starts a Source at path with what cfg leaves to it.
func source(t *testing.T, path string, cfg identity.Config) *identity.Source {
	t.Helper()
	addr, err := identity.SocketAddr(path)
	if err != nil {
		t.Fatal(err)
	}
	cfg.SocketAddr = addr
	if cfg.Log == nil {
		cfg.Log = quiet()
	}
	if cfg.RetryCap == 0 {
		cfg.RetryCap = 50 * time.Millisecond
	}
	src, err := identity.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	run(t, src.Run)
	return src
}

// identified is a Source that has the identity id from is.
func identified(t *testing.T, is *issuer.Issuer, id identity.ID) *identity.Source {
	t.Helper()
	path := socket(t)
	serve(t, is, id, path)
	src := source(t, path, identity.Config{})
	ready(t, src)
	return src
}

func ready(t *testing.T, src *identity.Source) {
	t.Helper()
	if err := src.Wait(in(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
}

// until waits until the Source's state satisfies ok.
func until(t *testing.T, src *identity.Source, ok func() bool) {
	t.Helper()
	ctx := in(t, 20*time.Second)
	for {
		changed := src.Changed()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal("the source never got there")
		}
	}
}

// outcome is what both ends of one connection saw.
type outcome struct {
	server    tls.ConnectionState
	serverErr error
	clientErr error
}

// connect makes one connection and sends a byte each way: with TLS 1.3 a client
// learns only from its first read whether the server took its certificate.
func connect(t *testing.T, server, client *tls.Config) outcome {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var out outcome
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := ln.Accept()
		if err != nil {
			out.serverErr = err
			return
		}
		conn := tls.Server(raw, server)
		defer conn.Close()
		if out.serverErr = conn.HandshakeContext(t.Context()); out.serverErr == nil {
			out.server = conn.ConnectionState()
			_, _ = conn.Write([]byte("k"))
		}
	}()
	out.clientErr = ping(ln.Addr().String(), client)
	<-done
	return out
}

func ping(addr string, client *tls.Config) error {
	if client.ServerName == "" && !client.InsecureSkipVerify {
		client = client.Clone()
		client.ServerName = "localhost"
	}
	conn, err := tls.Dial("tcp", addr, client)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.ReadFull(conn, make([]byte, 1))
	return err
}

// rogue is an authority that signs whatever it is asked to.
type rogue struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newRogue(t *testing.T) *rogue {
	t.Helper()
	r := &rogue{}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	cert := r.sign(t, template)
	r.cert, r.key = cert.Leaf, cert.PrivateKey.(*ecdsa.PrivateKey)
	return r
}

// sign signs template, with itself when the rogue has no certificate yet.
func (r *rogue) sign(t *testing.T, template *x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := r.cert, r.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// leaf is a faultless SVID for names, spoilt by spoil.
func (r *rogue) leaf(t *testing.T, spoil func(*x509.Certificate), names ...string) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, n := range names {
		u, err := url.Parse(n)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, u)
	}
	if spoil != nil {
		spoil(template)
	}
	return r.sign(t, template)
}
