// Package issuer is a SPIFFE authority for demo and tests: it serves the real
// Workload API without SPIRE, so that binaries and tests use the one way to an
// identity that production uses.
//
// It attests nobody. Whoever can open a socket gets the identity of that socket, the
// authorities live in this process' memory only, and New refuses to work unless it
// is told that all this is wanted.
package issuer

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/identity"
)

// defaultTTL is SPIRE's own default.
const defaultTTL = time.Hour

// minTTL leaves time to renew a certificate, whose times count whole seconds.
const minTTL = 4 * time.Second

// Config is what an Issuer needs. DevelopmentOnly, TrustDomain and Log are required.
type Config struct {
	// DevelopmentOnly must be true: it is how the caller says that identities
	// handed out without attestation are wanted here.
	DevelopmentOnly bool
	TrustDomain     identity.TrustDomain
	Log             *slog.Logger
	// TTL is how long SVIDs are valid, 1 h when zero, at least 4 s. A fresh one is
	// pushed after half of it.
	TTL time.Duration
	// Now is time.Now when nil. It dates certificates; the pushes follow real time.
	Now func() time.Time
}

// Issuer holds two authorities that know nothing of each other: one for the SVIDs of
// its trust domain, one for the server certificates of demo listeners. It is safe for
// concurrent use.
type Issuer struct {
	cfg     Config
	svids   *authority
	servers *authority
	jwts    *jwtAuthority

	mu           sync.Mutex
	federated    map[identity.TrustDomain][]*x509.Certificate
	federatedJWT map[identity.TrustDomain][]byte
	// changed is closed, and replaced, when every stream has to send again.
	changed chan struct{}
}

// New makes an Issuer with new authorities. It starts nothing.
func New(cfg Config) (*Issuer, error) {
	if !cfg.DevelopmentOnly {
		return nil, errors.New("new issuer: it attests nobody and works for development only, which must be asked for")
	}
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("new issuer: %w", err)
	}
	svids, err := newAuthority(svidAuthority(cfg.TrustDomain), cfg.Now())
	if err != nil {
		return nil, fmt.Errorf("new issuer: %w", err)
	}
	servers, err := newAuthority(serverAuthority(), cfg.Now())
	if err != nil {
		return nil, fmt.Errorf("new issuer: %w", err)
	}
	jwts, err := newJWTAuthority()
	if err != nil {
		return nil, fmt.Errorf("new issuer: %w", err)
	}
	return &Issuer{
		cfg: cfg, svids: svids, servers: servers, jwts: jwts,
		federated:    make(map[identity.TrustDomain][]*x509.Certificate),
		federatedJWT: make(map[identity.TrustDomain][]byte),
		changed:      make(chan struct{}),
	}, nil
}

func (c *Config) complete() error {
	if c.Log == nil {
		return errors.New("Log is required")
	}
	if _, err := identity.ParseTrustDomain(string(c.TrustDomain)); err != nil {
		return err
	}
	if c.TTL == 0 {
		c.TTL = defaultTTL
	}
	if c.TTL < minTTL || c.TTL > authorityTTL/2 {
		return fmt.Errorf("TTL %s is not between %s and %s", c.TTL, minTTL, authorityTTL/2)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

// Issue makes an SVID for a demo or test client that does not use the Workload API.
// It refuses an id of another trust domain and a ttl that outlives the authority.
func (i *Issuer) Issue(id identity.ID, ttl time.Duration) (tls.Certificate, error) {
	if err := i.owns(id); err != nil {
		return tls.Certificate{}, err
	}
	name, err := url.Parse(string(id))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("issue %s: %w", id, err)
	}
	return i.svids.sign(&x509.Certificate{
		URIs:        []*url.URL{name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, i.cfg.Now(), ttl)
}

// IssueServerCertificate makes a certificate for an HTTPS listener that is reached
// under names, host names or IP addresses. Its authority is the one of ServerCAPEM;
// no SPIFFE peer trusts it.
func (i *Issuer) IssueServerCertificate(names []string, ttl time.Duration) (tls.Certificate, error) {
	if len(names) == 0 {
		return tls.Certificate{}, errors.New("issue server certificate: no names")
	}
	template := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	return i.servers.sign(template, i.cfg.Now(), ttl)
}

// BundlePEM returns the authority of the trust domain's SVIDs.
func (i *Issuer) BundlePEM() []byte { return i.svids.pem() }

// ServerCAPEM returns the authority of the server certificates.
func (i *Issuer) ServerCAPEM() []byte { return i.servers.pem() }

// Federate makes every workload trust roots for the SVIDs of another trust domain,
// at once. No roots end the trust.
func (i *Issuer) Federate(td identity.TrustDomain, roots ...*x509.Certificate) error {
	if td == i.cfg.TrustDomain {
		return fmt.Errorf("federate with %s: it is our own trust domain", td)
	}
	if _, err := identity.ParseTrustDomain(string(td)); err != nil {
		return fmt.Errorf("federate: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(roots) == 0 {
		delete(i.federated, td)
	} else {
		i.federated[td] = slices.Clone(roots)
	}
	i.push()
	return nil
}

// Rotate pushes a fresh SVID to every workload at once.
func (i *Issuer) Rotate() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.push()
}

// push wakes every stream. The caller holds mu.
func (i *Issuer) push() {
	close(i.changed)
	i.changed = make(chan struct{})
}

// trust returns the federated bundles, and the channel that ends their being current.
func (i *Issuer) trust() (map[identity.TrustDomain][]*x509.Certificate, <-chan struct{}) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return maps.Clone(i.federated), i.changed
}

func (i *Issuer) federatedJWTs() map[identity.TrustDomain][]byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	return maps.Clone(i.federatedJWT)
}

func (i *Issuer) owns(id identity.ID) error {
	if _, err := identity.ParseID(string(id)); err != nil {
		return err
	}
	if id.TrustDomain() != i.cfg.TrustDomain {
		return fmt.Errorf("%s is not of the trust domain %s", id, i.cfg.TrustDomain)
	}
	return nil
}

// EncodePEM returns the chain and the private key of cert, which an Issuer made, as
// programs such as curl read them.
func EncodePEM(cert tls.Certificate) (chain, key []byte, err error) {
	for _, der := range cert.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return nil, nil, fmt.Errorf("encode private key: %w", err)
	}
	return chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
