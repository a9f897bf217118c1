package authn

import "net/http"

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
	// CertificateExpired: the client certificate has expired since the
	// connection was made.
	CertificateExpired Reason = "certificate_expired"
	// KeysUnavailable: the issuer's keys have never been fetched, or are older
	// than they may become. It says nothing about the token.
	KeysUnavailable Reason = "keys_unavailable"

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
	certificateChallenge = `Certificate realm="sallyport"`
	invalidRequest       = bearerChallenge + `, error="invalid_request", error_description="The Authorization header is malformed"`
	invalidToken         = bearerChallenge + `, error="invalid_token", error_description="The access token is not valid here"`
)

// newDenial answers as RFC 6750 §3.1 and RFC 9110 §15.5.2 ask. Missing keys
// are our trouble: a 401 would make clients throw good tokens away.
func newDenial(reason Reason, accept Accept) *Denial {
	switch reason {
	case KeysUnavailable:
		return &Denial{Status: http.StatusServiceUnavailable, Reason: reason}
	case CredentialsMalformed:
		return &Denial{http.StatusBadRequest, reason, invalidRequest}
	case CredentialsMissing, SchemeUnsupported, CertificateExpired:
		if len(accept.Providers) == 0 {
			return &Denial{http.StatusUnauthorized, reason, certificateChallenge}
		}
		return &Denial{http.StatusUnauthorized, reason, bearerChallenge}
	}
	return &Denial{http.StatusUnauthorized, reason, invalidToken}
}
