package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/sallyport/sallyport/internal/token"
)

// maxSocketPath is what every system we run on takes as the path of a unix socket,
// its terminating zero not counted (Linux 107 bytes, the BSDs 103).
const maxSocketPath = 103

// defaultRetryCap bounds the wait between two attempts to reach the Workload API.
const defaultRetryCap = 10 * time.Second

// Config is what a Source needs. SocketAddr and Log are required.
type Config struct {
	// SocketAddr is where the Workload API listens, in the form of the
	// SPIFFE_ENDPOINT_SOCKET variable: unix:///path or tcp://ip:port.
	SocketAddr string
	// TrustDomain, when set, is the only one whose SVIDs are taken as our own.
	// It does not restrict whose peers can be verified.
	TrustDomain TrustDomain
	Log         *slog.Logger
	// JWTBundles asks the Workload API for the keys of JWT-SVIDs as well.
	JWTBundles bool
	// RetryCap bounds the wait before the Workload API is tried again; 10 s when zero.
	RetryCap time.Duration
	// Endpoints makes the transport to a bundle endpoint, which is used once; private
	// is the Endpoint's. What the transport may reach, and which authorities it knows,
	// is its own. When nil, bundles of endpoints are refused.
	Endpoints func(private bool) *http.Transport
	// Registerer takes the metrics; they are not shown when it is nil.
	Registerer prometheus.Registerer
	// Now is time.Now when nil. It decides what has expired, ours and peers'.
	Now func() time.Time
}

// SVID is an X.509-SVID of this process. It is never changed after it was handed
// out: a renewed one is another value.
type SVID struct {
	ID ID
	// Certificate holds chain, leaf and private key. It is shared: read only.
	Certificate *tls.Certificate
	NotBefore   time.Time
	// Expires is the first instant at which any certificate of the chain is no
	// longer valid.
	Expires time.Time
}

// Source keeps this process' SVID and the trust bundles of its own and federated
// trust domains current from the Workload API. It serves what it has while the
// Workload API is away, until that has expired. It is safe for concurrent use.
type Source struct {
	cfg     Config
	metrics *metrics

	// jwt is nil before the first message, and written under mu.
	jwt atomic.Pointer[JWTBundles]

	// followed has room for one: federated is not what follow has seen.
	followed chan struct{}

	mu        sync.Mutex
	federated []*federation
	// ownJWT are the keys that the Workload API has sent, with a nil KeySet where
	// they cannot be used; nil before the first message.
	ownJWT map[TrustDomain]*token.KeySet

	// material is never nil after New and never changed in place. It is written
	// under mu.
	material atomic.Pointer[material]
}

// material is all that one message of the Workload API said, with what Federate
// was told.
type material struct {
	svid    *SVID                // nil: none yet, or withdrawn
	own     *x509bundle.Set      // as the Workload API says
	bundles *x509bundle.Set      // with the federated ones
	domains map[TrustDomain]bool // of bundles
	// authorities is every authority of every bundle. It only finds chains:
	// which authority may speak for which trust domain is decided by bundles.
	authorities *x509.CertPool
	// cause is why the Workload API has nothing newer, nil while it answers.
	cause error
	// changed is closed when svid or bundles are replaced.
	changed chan struct{}
}

// New checks cfg. It starts nothing and talks to nobody: until Run has reached the
// Workload API, every use of the Source fails with ErrNoIdentity.
func New(cfg Config) (*Source, error) {
	if cfg.Log == nil {
		return nil, errors.New("new identity source: Log is required")
	}
	if err := checkAddr(cfg.SocketAddr); err != nil {
		return nil, fmt.Errorf("new identity source: %w", err)
	}
	if cfg.RetryCap < 0 {
		return nil, fmt.Errorf("new identity source: RetryCap %s is negative", cfg.RetryCap)
	}
	if cfg.RetryCap == 0 {
		cfg.RetryCap = defaultRetryCap
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register metrics of bundle endpoints: %w", err)
	}
	s := &Source{cfg: cfg, metrics: m, followed: make(chan struct{}, 1)}
	s.material.Store(&material{
		own:         x509bundle.NewSet(),
		bundles:     x509bundle.NewSet(),
		authorities: x509.NewCertPool(),
		changed:     make(chan struct{}),
	})
	return s, nil
}

// SocketAddr turns the absolute path of a unix socket into the address that
// Config.SocketAddr takes. It refuses a path that is too long to bind or dial.
func SocketAddr(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("socket path %q is not absolute", path)
	}
	if len(path) > maxSocketPath {
		return "", fmt.Errorf("socket path %q has %d bytes, at most %d are allowed", path, len(path), maxSocketPath)
	}
	return (&url.URL{Scheme: "unix", Path: path}).String(), nil
}

func checkAddr(addr string) error {
	if err := workloadapi.ValidateAddress(addr); err != nil {
		return fmt.Errorf("socket address %q: %w", addr, err)
	}
	u, err := url.Parse(addr)
	if err != nil {
		return fmt.Errorf("socket address %q: %w", addr, err)
	}
	if u.Scheme != "unix" {
		return nil
	}
	if u.Host != "" {
		return fmt.Errorf("socket address %q: want three slashes before the path", addr)
	}
	_, err = SocketAddr(u.Path)
	return err
}

// SVID returns our current SVID. It fails with ErrNoIdentity before the first one
// and after the Workload API took it back, and with ErrExpired once it ran out;
// the first renewed one ends both.
func (s *Source) SVID() (SVID, error) {
	m := s.material.Load()
	switch {
	case m.svid == nil && m.cause != nil:
		return SVID{}, fmt.Errorf("%w: %w", ErrNoIdentity, m.cause)
	case m.svid == nil:
		return SVID{}, ErrNoIdentity
	case !s.cfg.Now().Before(m.svid.Expires):
		return SVID{}, fmt.Errorf("%w: %s was valid until %s",
			ErrExpired, m.svid.ID, m.svid.Expires.Format(time.RFC3339))
	}
	return *m.svid, nil
}

// Expiry returns when our SVID expires or has expired, and the zero time when
// there is none.
func (s *Source) Expiry() time.Time {
	if m := s.material.Load(); m.svid != nil {
		return m.svid.Expires
	}
	return time.Time{}
}

// Ready reports whether there is an SVID that has not expired.
func (s *Source) Ready() bool {
	_, err := s.SVID()
	return err == nil
}

// Wait blocks until the Source is ready. When ctx ends first, the error says both
// that and why there is no identity.
func (s *Source) Wait(ctx context.Context) error {
	for {
		changed := s.Changed()
		_, err := s.SVID()
		if err == nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			_, err = s.SVID()
			return fmt.Errorf("wait for identity: %w (%w)", context.Cause(ctx), err)
		}
	}
}

// Changed returns a channel that is closed as soon as the SVID or the bundles of
// this moment are replaced. Take the channel first, then look.
func (s *Source) Changed() <-chan struct{} {
	return s.material.Load().changed
}

// Bundles returns the authorities of every trust domain whose SVIDs we can verify.
// The map is the caller's, the certificates are shared: read only.
func (s *Source) Bundles() map[TrustDomain][]*x509.Certificate {
	out := make(map[TrustDomain][]*x509.Certificate)
	for _, b := range s.material.Load().bundles.Bundles() {
		out[TrustDomain(b.TrustDomain().Name())] = b.X509Authorities()
	}
	return out
}
