package controlplane

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/controlplane/access"
	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/identity"
)

// callers finds out who calls the admin API: by bearer token, or by the
// X.509-SVID of the connection.
type callers struct {
	pool   *authn.Pool
	who    *authn.Authenticator
	accept authn.Accept
	log    *slog.Logger
}

func newCallers(providers []IdentityProvider, metrics prometheus.Registerer, log *slog.Logger) (*callers, error) {
	pool, err := authn.New(authn.Config{Log: log, Registerer: metrics})
	if err != nil {
		return nil, err
	}
	c := &callers{pool: pool, accept: authn.Accept{ClientCertificates: true}, log: log}
	var specs []authn.Provider
	for _, p := range providers {
		// Whoever writes the settings may reach what this process reaches.
		spec := authn.Provider{
			Namespace: "admin", Name: p.Issuer, Issuer: p.Issuer, JWKSURL: p.JWKSURL, Audiences: p.Audiences, AllowPrivateAddresses: true,
		}
		specs = append(specs, spec)
		c.accept.Providers = append(c.accept.Providers, spec.Key())
	}
	c.who = pool.Sync(specs)
	return c, nil
}

// Run keeps the providers' keys current until ctx ends.
func (c *callers) Run(ctx context.Context) error { return c.pool.Run(ctx) }

// identify implements api.Identify. A token is looked at first, and a bad one
// is never made good by a certificate.
func (c *callers) identify(r *http.Request) (access.Caller, error) {
	credentials := authn.Credentials{Header: r.Header}
	if len(r.Header.Values("Authorization")) > 0 && len(c.accept.Providers) == 0 {
		return access.Caller{}, access.ErrUnauthenticated
	}
	id, err := identity.PeerID(r.TLS)
	switch {
	case err == nil:
		leaf := r.TLS.PeerCertificates[0]
		credentials.Peer = authn.Peer{ID: string(id), IssuedAt: leaf.NotBefore, Expires: leaf.NotAfter, Thumbprint: sha256.Sum256(leaf.Raw)}
	case !errors.Is(err, identity.ErrNoCertificate):
		return access.Caller{}, access.ErrUnauthenticated
	}
	principal, denial := c.who.Authenticate(r.Context(), credentials, c.accept, time.Now())
	if denial != nil {
		c.log.DebugContext(r.Context(), "caller was not authenticated", "reason", string(denial.Reason))
		return access.Caller{}, access.ErrUnauthenticated
	}
	if principal.SPIFFEID != "" {
		return access.Caller{SPIFFEID: principal.SPIFFEID}, nil
	}
	return access.Caller{Issuer: principal.Issuer, Subject: principal.ID}, nil
}
