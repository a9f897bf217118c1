package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"

	"github.com/sallyport/sallyport/dataplane/upstream/http1"
	"github.com/sallyport/sallyport/internal/identity"
)

// Reason is why there is no answer. The set is closed and fit for metric
// labels.
type Reason string

// The reasons. With all but Failed, Malformed and Late the upstream has not seen the
// request, unless that changes nothing and was sent again.
const (
	Unreachable     Reason = "upstream_unreachable"   // no endpoint could be connected to
	Unverified      Reason = "upstream_unverified"    // who answered is not who was expected
	Misconfigured   Reason = "upstream_misconfigured" // the proxy lacks something to connect with
	IdentityExpired Reason = "identity_expired"       // our SVID has expired
	IdentityMissing Reason = "identity_unavailable"   // we have no SVID
	Malformed       Reason = "upstream_malformed"     // what came is no answer, or could be read as two
	Failed          Reason = "upstream_failed"        // the connection broke
	Late            Reason = "upstream_timeout"       // no answer within the time for a try
	Overloaded      Reason = "upstream_overloaded"    // it has as much to do as it may have
)

// Error is why there is no answer.
type Error struct {
	Reason Reason
	Err    error // not for clients
}

func (e *Error) Error() string { return string(e.Reason) + ": " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

func explain(err error) *Error {
	var verification *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var malformed http1.Malformed
	switch {
	case errors.Is(err, identity.ErrExpired):
		return &Error{IdentityExpired, err}
	case errors.Is(err, identity.ErrNoIdentity):
		return &Error{IdentityMissing, err}
	case errors.Is(err, identity.ErrPeer), errors.Is(err, identity.ErrNoCertificate),
		errors.As(err, &verification), errors.As(err, &unknown):
		return &Error{Unverified, err}
	case errors.Is(err, errRoots), errors.Is(err, errNoEndpoint):
		return &Error{Misconfigured, err}
	case errors.Is(err, errOverloaded):
		return &Error{Overloaded, err}
	case errors.Is(err, errTry):
		return &Error{Late, err}
	case errors.As(err, &malformed):
		return &Error{Malformed, err}
	case isConnect(err):
		return &Error{Unreachable, err}
	}
	return &Error{Failed, err}
}
