package identity_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/identity/issuer"
)

// bufferSize is of connections in memory, for time that is not real. They need a
// buffer: TLS says goodbye in both directions at once.
const bufferSize = 1 << 14

// followed is a Source and the bundle endpoint of partner.example.
type followed struct {
	*identity.Source
	t      *testing.T
	issuer *issuer.Issuer
	answer atomic.Value // string
	asked  chan time.Time
}

func newFollowed(t *testing.T) *followed {
	t.Helper()
	f := &followed{t: t, issuer: newIssuer(t, partner, time.Now), asked: make(chan time.Time, 64)}
	listener, roots := bufconn.Listen(bufferSize), x509.NewCertPool()
	roots.AppendCertsFromPEM(f.issuer.ServerCAPEM())
	web := &http.Server{ErrorLog: nowhere(), Handler: f, TLSConfig: &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{must(f.issuer.IssueServerCertificate([]string{"bundles.example"}, 150*time.Hour))},
	}}
	run(t, func(ctx context.Context) error {
		context.AfterFunc(ctx, func() { _ = listener.Close() }) // never fails
		_ = web.ServeTLS(listener, "", "")                      // ends with the listener
		return web.Close()
	})
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return listener.DialContext(ctx) }
	f.Source = must(identity.New(identity.Config{
		SocketAddr: "unix:///nowhere", TrustDomain: domain, Log: slog.New(slog.DiscardHandler),
		Endpoints: func(bool) *http.Transport {
			return &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}
		},
	}))
	return f
}

func (f *followed) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	f.asked <- time.Now()
	answer, _ := f.answer.Load().(string)
	_, _ = io.WriteString(w, answer) // the source may be gone
}

// next returns how long after the last question comes the next.
func (f *followed) next(last *time.Time) time.Duration {
	f.t.Helper()
	var now time.Time
	select {
	case now = <-f.asked:
	case <-time.After(100 * time.Hour):
		f.t.Fatal("not asked any more")
	}
	gap := now.Sub(*last)
	*last = now
	return gap
}

// Bundles are fetched as often as they want it, within bounds, and sooner after a
// failure.
func TestRefreshOfBundles(t *testing.T) {
	for name, c := range map[string]struct{ hint, least, most time.Duration }{
		"without a hint":  {0, 4 * time.Minute, 5 * time.Minute},
		"an hour":         {time.Hour, 48 * time.Minute, time.Hour},
		"a second":        {time.Second, time.Minute, time.Minute},
		"a minute":        {time.Minute, time.Minute, time.Minute},
		"a year":          {365 * 24 * time.Hour, 19*time.Hour + 12*time.Minute, 24 * time.Hour},
		"before the past": {-time.Hour, time.Minute, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, last := newFollowed(t), time.Now()
				f.answer.Store(published(t, 1, c.hint, f.issuer))
				stop := run(t, func(ctx context.Context) error { return identity.Follow(ctx, f.Source) })
				f.Federate([]identity.Federated{{TrustDomain: partner, Endpoint: identity.Endpoint{URL: "https://bundles.example/", Profile: identity.WebProfile}}})
				if gap := f.next(&last); gap != 0 {
					t.Errorf("first asked after %s", gap)
				}
				for range 3 {
					if gap := f.next(&last); gap < c.least || gap > c.most {
						t.Errorf("asked again after %s", gap)
					}
				}
				f.answer.Store("{}")
				_ = f.next(&last) // with it
				for want := time.Second; want <= 5*time.Minute; want *= 2 {
					if gap := f.next(&last); gap != want {
						t.Errorf("asked again %s after a failure, want %s", gap, want)
					}
				}
				if gap := f.next(&last); gap != 5*time.Minute {
					t.Errorf("asked again %s after many failures", gap)
				}
				if len(f.Bundles()[partner]) != 1 {
					t.Error("the last good bundle is gone")
				}
				f.answer.Store(published(t, 1, c.hint, f.issuer))
				_ = f.next(&last) // with it
				if gap := f.next(&last); gap < c.least || gap > c.most {
					t.Errorf("asked again after %s, once it was well", gap)
				}
				f.Federate(nil)
				synctest.Wait()
				<-time.After(100 * time.Hour)
				if len(f.asked) > 0 {
					t.Error("asked for what is not federated any more")
				}
				stop()
			})
		})
	}
}
