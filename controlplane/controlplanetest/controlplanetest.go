// Package controlplanetest runs a whole replica of the control plane for tests:
// on a real Postgres and a real etcd, with identities from a real Workload API
// and tokens of a real issuer.
//
// A package that uses it lets its binary end in order, as package storagetest
// asks for.
package controlplanetest

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/controlplane"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
	"github.com/sallyport/sallyport/storage/postgres"
	"github.com/sallyport/sallyport/storage/storagetest"
)

// Who there is. Tokens of the subjects are those of the issuer.
const (
	ID     identity.ID = "spiffe://prod.example/controlplane"
	Admin  identity.ID = "spiffe://prod.example/operator/admin"
	Viewer identity.ID = "spiffe://prod.example/operator/viewer"
	Proxy  identity.ID = "spiffe://prod.example/proxy/aws/1"

	AdminSubject  = "alice"
	ViewerSubject = "victor"
	Audience      = "sallyport"
)

// startWithin bounds the wait for a replica to be ready.
const startWithin = 30 * time.Second

// Plane is one replica with all that it needs.
type Plane struct {
	Settings     controlplane.Settings
	SettingsFile string
	CAFile       string // who vouches for the admin listener's certificate
	Dir          string
	Issuer       *issuer.Issuer
	Server       *controlplane.Server

	t      testing.TB
	tokens *ecdsa.PrivateKey
	iss    string
	stop   func()
}

// New prepares a replica with a database and a key space of its own. It is not
// started.
func New(t testing.TB) *Plane {
	t.Helper()
	p := Prepare(t)
	p.Settings.Database.URLFile = p.write("database-url", []byte(storagetest.Postgres(t, postgres.Migrate)))
	p.Save()
	return p
}

// Prepare is New without a database: Settings.Database.URLFile names no file.
// Save writes the settings.
func Prepare(t testing.TB) *Plane {
	t.Helper()
	p := &Plane{t: t, Dir: dir(t)}
	p.Issuer = must(issuer.New(issuer.Config{DevelopmentOnly: true, TrustDomain: ID.TrustDomain(), Log: slog.New(slog.DiscardHandler)}))
	p.CAFile = p.write("admin-ca.pem", p.Issuer.ServerCAPEM())
	certificate, key := must2(issuer.EncodePEM(must(p.Issuer.IssueServerCertificate([]string{"127.0.0.1"}, time.Hour))))
	p.serveKeys()
	s := &p.Settings
	s.Replica = "one"
	s.Workload = controlplane.Workload{Socket: p.Socket(ID), TrustDomain: string(ID.TrustDomain())}
	s.Etcd.Endpoints, s.Etcd.Prefix = storagetest.Etcd(t).Endpoints(), "/"+strings.ToLower(rand.Text())
	s.SigningKeyFile = p.write("signing-key.pem", signingKey())
	s.Admin = controlplane.Admin{
		Address:         "127.0.0.1:0",
		CertificateFile: p.write("admin.pem", certificate),
		PrivateKeyFile:  p.write("admin-key.pem", key),
		IdentityProviders: []controlplane.IdentityProvider{
			{Issuer: p.iss, JWKSURL: p.iss + "/keys", Audiences: []string{Audience}},
		},
		Administrators: []controlplane.Administrator{
			{SPIFFEID: string(Admin), Role: "admin"},
			{SPIFFEID: string(Viewer), Role: "viewer"},
			{Issuer: p.iss, Subject: AdminSubject, Role: "admin"},
			{Issuer: p.iss, Subject: ViewerSubject, Role: "viewer"},
		},
	}
	s.Proxies.Address, s.Health.Address = "127.0.0.1:0", "127.0.0.1:0"
	return p
}

// dir is a folder whose sockets have short paths.
func dir(t testing.TB) string {
	t.Helper()
	d := must(os.MkdirTemp("", "sp"))
	t.Cleanup(func() { _ = os.RemoveAll(d) })
	return d
}

// Save writes the settings to SettingsFile.
func (p *Plane) Save() {
	p.SettingsFile = p.write("controlplane.yaml", must(yaml.Marshal(p.Settings)))
}

func (p *Plane) write(name string, content []byte) string {
	p.t.Helper()
	path := filepath.Join(p.Dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

func signingKey() []byte {
	_, key := must2(ed25519.GenerateKey(rand.Reader))
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))})
}

// Socket returns the Workload API of a workload, which is served until the test
// ends.
func (p *Plane) Socket(id identity.ID) string {
	p.t.Helper()
	path := filepath.Join(p.Dir, filepath.Base(string(id))+".sock")
	endpoint, err := p.Issuer.Listen(id, path, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	p.run(endpoint.Run)
	return path
}

// run runs a part until the test ends or the returned function is called.
func (p *Plane) run(part func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(p.t.Context()))
	done := make(chan error, 1)
	go func() { done <- part(ctx) }()
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			p.t.Errorf("stop: %v", err)
		}
	}
	p.t.Cleanup(stop)
	return stop
}

// serveKeys publishes the key that Token signs with.
func (p *Plane) serveKeys() {
	p.tokens = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	point := must(p.tokens.PublicKey.Bytes())
	b64 := base64.RawURLEncoding.EncodeToString
	keys := fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","use":"sig","kid":"one","x":%q,"y":%q}]}`, b64(point[1:33]), b64(point[33:]))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(keys)) // who asked may have gone
	}))
	p.t.Cleanup(server.Close)
	p.iss = server.URL
}

// Token returns a token that is about the subject and for the audience.
func (p *Plane) Token(subject, audience string, validFor time.Duration) string {
	p.t.Helper()
	now := time.Now()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"iss": p.iss, "sub": subject, "aud": audience, "iat": now.Add(-time.Hour).Unix(), "exp": now.Add(validFor).Unix(),
	})
	token.Header["kid"] = "one"
	return must(token.SignedString(p.tokens))
}

// Start runs the replica and waits until it is ready.
func (p *Plane) Start(log *slog.Logger) {
	p.t.Helper()
	p.Run(log)
	for began := time.Now(); !p.Ready(); <-time.After(10 * time.Millisecond) {
		if time.Since(began) > startWithin {
			p.t.Fatal("the control plane is not ready")
		}
	}
}

// Run runs the replica until Stop, or the end of the test.
func (p *Plane) Run(log *slog.Logger) {
	p.t.Helper()
	server, err := controlplane.New(p.Settings, log)
	if err != nil {
		p.t.Fatal(err)
	}
	p.Server, p.stop = server, p.run(server.Run)
	for began := time.Now(); server.Addr(controlplane.ListenerHealth) == nil; <-time.After(time.Millisecond) {
		if time.Since(began) > startWithin {
			p.t.Fatal("the control plane does not listen")
		}
	}
}

// Stop stops the replica in good order.
func (p *Plane) Stop() { p.stop() }

// Ready asks the replica whether it is.
func (p *Plane) Ready() bool {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.HealthURL()+"/readyz", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	res, err := p.client().Do(req)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	return res.StatusCode == http.StatusOK
}

func (p *Plane) client() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
}

// URL is where the API is.
func (p *Plane) URL() string { return "https://" + p.Server.Addr(controlplane.ListenerAdmin).String() }

// HealthURL is where health and metrics are.
func (p *Plane) HealthURL() string {
	return "http://" + p.Server.Addr(controlplane.ListenerHealth).String()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func must2[A, B any](a A, b B, err error) (A, B) {
	if err != nil {
		panic(err)
	}
	return a, b
}
