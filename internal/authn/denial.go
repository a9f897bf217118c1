package authn

import (
	"net/http"

	"github.com/sallyport/sallyport/internal/policy"
)

// Reason is why a request is not authenticated. The set is closed and fit for
// metric labels: the constants, and "token_" before each token.Reason.
type Reason string

// The reasons that are not a token's.
const (
	// CredentialsMissing: none of a kind that the route takes.
	CredentialsMissing Reason = "credentials_missing"
	// CredentialsMalformed: not exactly one Authorization header of the form
	// "Bearer b64token" (RFC 6750 §2.1).
	CredentialsMalformed Reason = "credentials_malformed"
	// SchemeUnsupported: an Authorization header of another scheme.
	SchemeUnsupported Reason = "scheme_unsupported"
	// APIKeyMalformed: not exactly one X-Api-Key header, or its check sum tells a
	// typing error.
	APIKeyMalformed Reason = "api_key_malformed" //nolint:gosec // a reason, no credential
	// APIKeyInvalid: the namespace of the route has no such key.
	APIKeyInvalid Reason = "api_key_invalid"
	// APIKeyExpired: it had, and its time is over.
	APIKeyExpired Reason = "api_key_expired"
	// CertificateUntrusted: the client certificate is neither an X.509-SVID nor one
	// of an authority that the route takes, whichever of these it takes; or its
	// trust domain is not trusted any more, or its SPIFFE ID is another than the
	// JWT-SVID's that is wanted beside it.
	CertificateUntrusted Reason = "certificate_untrusted"
	// CertificateName: it has not exactly one name that its authority's provider
	// takes.
	CertificateName Reason = "certificate_name"
	// CertificateRevoked: it, or one above it, is on its issuer's list.
	CertificateRevoked Reason = "certificate_revoked"
	// RevocationUnknown: an issuer's revocation list is missing or stale. It says
	// nothing about the certificate.
	RevocationUnknown Reason = "crl_unavailable"
	// CertificateExpired: the client certificate has expired since the
	// connection was made.
	CertificateExpired Reason = "certificate_expired"
	// KeysUnavailable: the issuer's keys have never been fetched, or are older
	// than they may become. It says nothing about the token.
	KeysUnavailable Reason = "keys_unavailable"
	// IntrospectionUnavailable: the issuer, which has to be asked for the token,
	// did not answer, or there are too many to be asked for. It says nothing
	// about the token.
	IntrospectionUnavailable Reason = "introspection_unavailable"

	tokenPrefix Reason = "token_"
)

// Denial is how to answer a request that is not authenticated.
type Denial struct {
	Status int
	Reason Reason
	// Challenge is the value of WWW-Authenticate, or empty for no such header.
	Challenge string
}

// RFC 6750 §3 wants at least one parameter after Bearer. What is wrong with a
// token is in the decision record, not in the answer.
const (
	bearerChallenge      = `Bearer realm="sallyport"` //nolint:gosec // G101: a challenge is no credential
	apiKeyChallenge      = `ApiKey realm="sallyport"` //nolint:gosec // as above
	certificateChallenge = `Certificate realm="sallyport"`
	invalidRequest       = bearerChallenge + `, error="invalid_request", error_description="The Authorization header is malformed"`
	invalidToken         = bearerChallenge + `, error="invalid_token", error_description="The access token is not valid here"`
)

// newDenial answers as RFC 6750 §3.1 and RFC 9110 §15.5.2 ask. Missing keys
// and answers are our trouble: a 401 would make clients throw good tokens away.
func newDenial(reason Reason, accept Accept) *Denial {
	switch reason {
	case KeysUnavailable, IntrospectionUnavailable, RevocationUnknown:
		return &Denial{Status: http.StatusServiceUnavailable, Reason: reason}
	case CredentialsMalformed:
		return &Denial{http.StatusBadRequest, reason, invalidRequest}
	case APIKeyMalformed, APIKeyInvalid, APIKeyExpired:
		return &Denial{http.StatusUnauthorized, reason, apiKeyChallenge}
	case CertificateUntrusted, CertificateName, CertificateRevoked:
		return &Denial{http.StatusUnauthorized, reason, certificateChallenge}
	case CredentialsMissing, SchemeUnsupported, CertificateExpired:
		return &Denial{http.StatusUnauthorized, reason, challenge(accept)}
	}
	return &Denial{http.StatusUnauthorized, reason, invalidToken}
}

// Challenge is the value of WWW-Authenticate for a principal whose credential
// was good and does not count any more.
func Challenge(p *policy.Principal) string {
	switch p.AuthenticatedBy {
	case "x509-svid":
		return certificateChallenge
	case "api-key":
		return apiKeyChallenge
	}
	return invalidToken
}

// challenge names the first kind of credential that is taken.
func challenge(accept Accept) string {
	switch {
	case accept.takes(bearerToken):
		return bearerChallenge
	case accept.APIKeys != "":
		return apiKeyChallenge
	}
	return certificateChallenge
}
