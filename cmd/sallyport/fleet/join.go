package fleet

import (
	"context"
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/internal/identity"
)

// Join adds a proxy of another trust domain to a running fleet, in an environment of
// its own called after the cloud, and waits until it enforces what that holds. The
// fleet's Identities have to know the trust domain, and both have to federate.
func (f *Fleet) Join(ctx context.Context, td identity.TrustDomain, cloud string) (*Member, error) {
	m, revision, err := f.Invite(ctx, td, cloud)
	if err != nil {
		return nil, err
	}
	if err := m.Start(); err != nil {
		return nil, err
	}
	if err := f.MemberReady(ctx, m); err != nil {
		return nil, err
	}
	return m, f.Admin.Enforced(ctx, revision, m.Environment)
}

// Invite is Join of a proxy that is not started yet. It returns the revision with what
// it needs.
func (f *Fleet) Invite(ctx context.Context, td identity.TrustDomain, cloud string) (*Member, int64, error) {
	binary, err := program(f.bin, "sallyport-proxy")
	if err != nil {
		return nil, 0, err
	}
	if err := f.addProxy(ctx, binary, cloud, td); err != nil {
		return nil, 0, err
	}
	m := f.Members[len(f.Members)-1]
	revision, err := f.Admin.Apply(ctx, f.environment(m, cloud, td), string(td)+" joins")
	if err != nil {
		return nil, 0, fmt.Errorf("apply what %s needs: %w", m.Name, err)
	}
	return m, revision, nil
}

// environment is what a proxy of a trust domain needs to be admitted and to listen.
func (f *Fleet) environment(m *Member, cloud string, td identity.TrustDomain) string {
	return fmt.Sprintf(environmentText, m.Environment, td, cloud,
		strings.TrimPrefix(m.URL, "https://"), f.Path("proxy-tls.pem"), f.Path("proxy-tls-key.pem"))
}
