package redis_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/limit/redis"
)

// A server is believed for the authorities and the host that were given, and for
// nothing else: another one would see the password.
func TestServerIsVerified(t *testing.T) {
	ours, roots := newServerTLS(t)
	_, others := newServerTLS(t)
	for _, c := range []struct {
		name   string
		config *tls.Config
		says   string // empty for one that counts
	}{
		{"the server", &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}, ""},
		{"another authority", &tls.Config{RootCAs: others, ServerName: "127.0.0.1"}, "unknown authority"},
		{"another host", &tls.Config{RootCAs: roots, ServerName: "127.0.0.2"}, "is valid for 127.0.0.1, not 127.0.0.2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked atomic.Int64
			log := &lines{}
			s := running(t, redis.Config{
				Address: ours.address, TLS: c.config, Instance: c.name, Log: slog.New(slog.NewTextHandler(log, nil)), Timeout: time.Second,
				Password: func() (string, error) {
					asked.Add(1)
					return password, nil
				},
			})
			if c.says == "" {
				until(t, "it does not count", answers(s))
				return
			}
			until(t, "it is not refused", func() bool { return log.have(c.says) })
			if answers(s)() || asked.Load() > 0 {
				t.Errorf("it counts, or the password was read: %d times", asked.Load())
			}
		})
	}
}

// running is a store that runs until the test ends.
func running(t testing.TB, c redis.Config) *redis.Store {
	t.Helper()
	s, err := redis.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

// lines are what was logged.
type lines struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *lines) have(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.all.String(), text)
}

// newServerTLS returns a server that speaks nothing but TLS, and who vouches for it.
func newServerTLS(t testing.TB) (*server, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	dir := t.TempDir()
	for name, text := range map[string][]byte{"cert.pem": certificate, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate)
	return newServerWith(t, func(port string) string {
		return fmt.Sprintf("port 0\ntls-port %s\ntls-cert-file %[2]s/cert.pem\ntls-key-file %[2]s/key.pem\ntls-auth-clients no\n", port, dir)
	}), roots
}
