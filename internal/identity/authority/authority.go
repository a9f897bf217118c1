// Package authority verifies client certificates that are no X.509-SVIDs, against
// certificate authorities of the operator's own and their revocation lists.
package authority

import (
	"crypto/x509"
	"errors"
	"iter"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/identity"
)

// Name is the name of an Authority.
type Name struct{ Namespace, Name string }

// String returns "namespace/name".
func (n Name) String() string { return n.Namespace + "/" + n.Name }

// Spec is what an Authority is made of. One of CA and CAFile is given.
type Spec struct {
	Namespace, Name string

	Issuer  string // what identities have as their issuer
	CA      string // certificates in PEM
	CAFile  string // a file of them, read again when it changes
	CRLFile string // revocation lists of all issuers, PEM or DER; none when empty

	Subject Subject  // which name of a certificate counts
	Names   []string // as Matches has it; any when empty
}

// Key returns the authority's name.
func (s *Spec) Key() Name { return Name{s.Namespace, s.Name} }

// Fault is why a certificate proves nothing. The zero value is no answer.
type Fault uint8

// The faults.
const (
	_           Fault = iota
	Untrusted         // no authority that is asked for vouches for it, as a client's
	Unnamed           // not exactly one name that is taken
	Expired           // it, or one above it, is not valid at this time
	Revoked           // it, or one above it, is on its issuer's list
	NoList            // an issuer's list is missing, stale or not to be understood
	NoAuthority       // the authority's certificates were never read
)

// Identity is whom a certificate proves.
type Identity struct {
	Name              // of the authority
	Issuer, Subject   string
	IssuedAt, Expires time.Time // of the certificate
}

// Certificate is the client certificate of one connection, with what has been
// found out about it. It is safe for concurrent use.
type Certificate struct {
	chain []*x509.Certificate // leaf first, as presented

	// findings are replaced, never changed.
	findings atomic.Pointer[[]finding]
}

// finding holds while the trust is current that it was made with.
type finding struct {
	by       *trust
	fault    Fault // 0: identity is
	identity *Identity
	from, to time.Time // when all certificates of the chain are valid
	list     time.Time // until when their revocation lists are; zero without
}

// maxFindings bounds what is remembered of a connection; the oldest go.
const maxFindings = 16

// NewCertificate returns the certificate that a client presented. It keeps chain.
func NewCertificate(chain []*x509.Certificate) *Certificate { return &Certificate{chain: chain} }

// Set is the authorities of one snapshot. Which there are does not change; what
// they trust follows their files. It is safe for concurrent use. A nil Set
// trusts nobody.
type Set struct{ authorities map[Name]*authority }

// Verify returns whom c proves by one of names, in this order, at now. With a
// Fault there is no Identity, and the Fault is that of the authority that came
// nearest. The signatures of a connection's certificate are verified once for
// each version of an authority; times and revocation lists are looked at each
// time.
func (s *Set) Verify(names iter.Seq[Name], c *Certificate, now time.Time) (*Identity, Fault) {
	worst := Untrusted
	for name := range names {
		a := s.find(name)
		if a == nil {
			continue
		}
		found := c.by(a, now)
		fault := found.at(now)
		if fault == 0 {
			return found.identity, 0
		}
		worst = max(worst, fault)
	}
	return nil, worst
}

func (s *Set) find(name Name) *authority {
	if s == nil {
		return nil
	}
	return s.authorities[name]
}

// by returns what a says of c, from memory if it has not changed.
func (c *Certificate) by(a *authority, now time.Time) finding {
	current := a.current.Load()
	known := c.findings.Load()
	if known != nil {
		for _, f := range *known {
			if f.by == current {
				return f
			}
		}
	}
	f := current.judge(c.chain, now)
	if f.fault == Expired {
		return f // of this moment
	}
	next := []finding{f}
	if known != nil {
		next = append(next, (*known)[:min(len(*known), maxFindings-1)]...)
	}
	c.findings.CompareAndSwap(known, &next) // who comes second forgets
	return f
}

// at returns what the finding comes to at a time.
func (f *finding) at(now time.Time) Fault {
	switch {
	case f.fault != 0:
		return f.fault
	case now.Before(f.from) || now.After(f.to):
		return Expired
	case !f.list.IsZero() && !now.Before(f.list):
		return NoList
	}
	return 0
}

// Roots implements identity.Vouchers.
func (s *Set) Roots() []*x509.Certificate {
	if s == nil {
		return nil
	}
	var all []*x509.Certificate
	for _, a := range s.authorities {
		all = append(all, a.current.Load().roots...)
	}
	slices.SortFunc(all, func(a, b *x509.Certificate) int { return slices.Compare(a.Raw, b.Raw) })
	return slices.CompactFunc(all, (*x509.Certificate).Equal)
}

// errUntrusted keeps a client out.
var errUntrusted = errors.New("no authority vouches for it as a client's certificate")

// Vouch implements identity.Vouchers. Revocation and names are for Verify, which
// can say so to the client.
func (s *Set) Vouch(chain []*x509.Certificate, now time.Time) error {
	if s == nil || len(chain) == 0 || identity.IsSVID(chain[0]) {
		return errUntrusted
	}
	for _, a := range s.authorities {
		if chains, _ := a.current.Load().chains(chain, now); len(chains) > 0 {
			return nil
		}
	}
	return errUntrusted
}
