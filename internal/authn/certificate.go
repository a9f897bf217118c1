package authn

import (
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/identity/authority"
	"github.com/sallyport/sallyport/internal/policy"
)

// WithAuthorities returns an Authenticator that verifies client certificates
// against these authorities, and no others, beside what a knows.
func (a *Authenticator) WithAuthorities(set *authority.Set) *Authenticator {
	next := *a
	next.authorities = set
	return &next
}

// Authorities returns what client certificates other than SVIDs are verified
// against. A nil Authenticator has none.
func (a *Authenticator) Authorities() *authority.Set {
	if a == nil {
		return nil
	}
	return a.authorities
}

// certificate returns whom the client certificate of the connection proves. One
// that is there and does not count on this route is a bad one.
func (a *Authenticator) certificate(try *attempt) (*policy.Principal, Reason) {
	switch {
	case try.Peer.Certificate != nil:
		return a.issued(try)
	case try.Peer.ID != "" && (!try.accept.ClientCertificates || try.Peer.Distrusted):
		return nil, CertificateUntrusted
	}
	return workload(try.Peer, try.now)
}

func (a *Authenticator) issued(try *attempt) (*policy.Principal, Reason) {
	id, fault := a.authorities.Verify(slices.Values(try.accept.Authorities), try.Peer.Certificate, try.now)
	if id == nil {
		return nil, certificateReason(fault)
	}
	return &policy.Principal{
		Kind: policy.User, ID: id.Subject, Issuer: id.Issuer, Provider: id.Name.String(),
		AuthenticatedBy: "x509", IssuedAt: id.IssuedAt, Expires: id.Expires,
	}, ""
}

func certificateReason(f authority.Fault) Reason {
	switch f {
	case authority.Unnamed:
		return CertificateName
	case authority.Expired:
		return CertificateExpired
	case authority.Revoked:
		return CertificateRevoked
	case authority.NoList:
		return RevocationUnknown
	case authority.NoAuthority:
		return KeysUnavailable
	case authority.Untrusted:
	}
	return CertificateUntrusted
}

func workload(peer Peer, now time.Time) (*policy.Principal, Reason) {
	switch {
	case peer.ID == "":
		return nil, CredentialsMissing
	case !now.Before(peer.Expires):
		return nil, CertificateExpired
	}
	return &policy.Principal{
		Kind: policy.Workload, ID: peer.ID, SPIFFEID: peer.ID,
		AuthenticatedBy: "x509-svid", IssuedAt: peer.IssuedAt, Expires: peer.Expires,
	}, ""
}
