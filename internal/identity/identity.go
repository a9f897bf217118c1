// Package identity is the one door to SPIFFE: who this process is, who a TLS peer
// is, and the TLS configurations that both follow from, in one place for review.
//
// Nothing outside this directory imports go-spiffe. An identity is read from a
// certificate that was verified against the trust bundle of its own trust domain,
// and from nothing else: common names, DNS names, headers and bodies do not count.
package identity

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Why an identity is missing or refused. They are matched with errors.Is, also
// through the errors of net/http and crypto/tls.
var (
	// ErrNoIdentity means that the Workload API has not given us an SVID yet, or
	// has taken it back.
	ErrNoIdentity = errors.New("no identity from the Workload API")
	// ErrExpired means that our SVID ran out before the Workload API renewed it.
	ErrExpired = errors.New("identity expired")
	// ErrPeer means that the other side's certificate is no valid SVID, or names
	// somebody who is not expected here.
	ErrPeer = errors.New("peer identity refused")
	// ErrNoCertificate means that the other side presented no certificate at all.
	ErrNoCertificate = errors.New("peer presented no certificate")
)

// Bounds of the SPIFFE-ID specification, section 2.3 and 2.1.
const (
	maxID          = 2048
	maxTrustDomain = 255
	scheme         = "spiffe://"
)

// ID is the SPIFFE ID of a workload, such as "spiffe://prod.example/ns/shop/web".
// It comes from ParseID or from a verified certificate; the zero value is nobody.
type ID string

// ParseID accepts s only if it is the one canonical form of a workload's SPIFFE ID
// (SPIFFE-ID section 2): lower-case trust domain, no escapes, no empty or dot
// segments, within the length bounds, and with a path, because an ID without one
// names a trust domain and may not identify a workload (X509-SVID section 3.1).
func ParseID(s string) (ID, error) {
	if len(s) > maxID {
		return "", fmt.Errorf("parse SPIFFE ID: %d bytes, at most %d are allowed", len(s), maxID)
	}
	id, err := spiffeid.FromString(s)
	switch {
	case err != nil:
		return "", fmt.Errorf("parse SPIFFE ID %q: %w", s, err)
	case len(id.TrustDomain().Name()) > maxTrustDomain:
		return "", fmt.Errorf("parse SPIFFE ID: trust domain is longer than %d bytes", maxTrustDomain)
	case id.Path() == "":
		return "", fmt.Errorf("parse SPIFFE ID %q: a workload needs a path", s)
	}
	return ID(s), nil
}

// TrustDomain returns the trust domain that vouches for id, or "" for nobody.
func (id ID) TrustDomain() TrustDomain {
	rest, ok := strings.CutPrefix(string(id), scheme)
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return TrustDomain(name)
}

// TrustDomain is the name of an authority over SPIFFE IDs, such as "prod.example".
// The zero value is none.
type TrustDomain string

// ParseTrustDomain accepts the bare, lower-case name of a trust domain.
func ParseTrustDomain(s string) (TrustDomain, error) {
	if len(s) > maxTrustDomain {
		return "", fmt.Errorf("parse trust domain: %d bytes, at most %d are allowed", len(s), maxTrustDomain)
	}
	td, err := spiffeid.TrustDomainFromString(s)
	if err != nil {
		return "", fmt.Errorf("parse trust domain %q: %w", s, err)
	}
	if td.Name() != s {
		return "", fmt.Errorf("parse trust domain %q: want the bare name, such as %q", s, td.Name())
	}
	return TrustDomain(s), nil
}
