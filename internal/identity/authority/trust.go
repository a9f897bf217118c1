package authority

import (
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/identity"
)

// trust is what an authority trusts between two changes of its files. It is
// never changed.
type trust struct {
	spec  *Spec
	roots []*x509.Certificate // none: never read
	pool  *x509.CertPool
	lists *lists // nil: none is asked for
}

// maxChain bounds what a client may present.
const maxChain = 8

// chains returns how the leaf leads to a root as a client's certificate, or why
// it does not. An authority is nobody's client, and what may be a client says so.
func (t *trust) chains(presented []*x509.Certificate, now time.Time) ([][]*x509.Certificate, Fault) {
	const signs = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	switch {
	case len(t.roots) == 0:
		return nil, NoAuthority
	case len(presented) == 0 || len(presented) > maxChain:
		return nil, Untrusted
	}
	leaf := presented[0]
	if leaf.IsCA || leaf.KeyUsage&signs != 0 || !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) || identity.IsSVID(leaf) {
		return nil, Untrusted
	}
	between := x509.NewCertPool()
	for _, c := range presented[1:] {
		between.AddCert(c)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: t.pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return nil, Expired
	}
	if err != nil {
		return nil, Untrusted
	}
	return chains, 0
}

// judge finds out all that does not change with time.
func (t *trust) judge(presented []*x509.Certificate, now time.Time) finding {
	chains, fault := t.chains(presented, now)
	if fault != 0 {
		return finding{by: t, fault: fault}
	}
	leaf := presented[0]
	subject, ok := t.spec.Subject.of(leaf, t.spec.Names)
	if !ok {
		return finding{by: t, fault: Unnamed}
	}
	best := finding{by: t}
	for _, chain := range chains {
		f := finding{by: t, from: leaf.NotBefore, to: leaf.NotAfter}
		for _, c := range chain {
			f.from, f.to = later(f.from, c.NotBefore), earlier(f.to, c.NotAfter)
		}
		f.list, f.fault = t.lists.check(chain)
		if f.fault == 0 {
			f.identity = &Identity{
				Name: t.spec.Key(), Issuer: t.spec.Issuer, Subject: subject, IssuedAt: leaf.NotBefore, Expires: f.to,
			}
			return f
		}
		best = f
	}
	return best
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
