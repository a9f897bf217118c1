package authn

import (
	"net/http"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/token"
)

// Denial is how to answer a request that is not authenticated.
type Denial struct {
	Status int
	Reason Reason
	// Challenge is the value of WWW-Authenticate, or empty for no such header.
	Challenge string
	// Nonce is the value of DPoP-Nonce, or empty for no such header.
	Nonce string
}

// RFC 6750 §3 wants at least one parameter after Bearer. What is wrong with a
// token is in the decision record, not in the answer.
const (
	bearerChallenge      = `Bearer realm="sallyport"` //nolint:gosec // G101: a challenge is no credential
	apiKeyChallenge      = `ApiKey realm="sallyport"` //nolint:gosec // as above
	certificateChallenge = `Certificate realm="sallyport"`
	sessionChallenge     = `Session realm="sallyport"`
	dpopChallenge        = `DPoP realm="sallyport"`
	dpopAlgorithms       = `, algs="` + token.ProofAlgorithms + `"`

	invalidRequest = `, error="invalid_request", error_description="The Authorization header is malformed"`
	invalidToken   = `, error="invalid_token", error_description="The access token is not valid here"`             //nolint:gosec // G101: nor is this
	unboundToken   = `, error="invalid_token", error_description="The access token has to be bound to its sender"` //nolint:gosec // G101: nor is this
	invalidProof   = `, error="invalid_dpop_proof", error_description="The DPoP proof is not valid here"`
	wantsNonce     = `, error="use_dpop_nonce", error_description="The DPoP proof has to hold the nonce of DPoP-Nonce"`
)

// deny answers as RFC 6750 §3.1, RFC 9449 §7.1, RFC 9470 §3 and RFC 9110
// §15.5.2 ask. What
// is our trouble is no 401, which would make clients throw good tokens away.
func (a *Authenticator) deny(reason Reason, try *attempt) *Denial {
	d := &Denial{Status: http.StatusUnauthorized, Reason: reason}
	switch reason {
	case KeysUnavailable, IntrospectionUnavailable, RevocationUnknown, ProofCacheFull, SessionKeysUnavailable:
		d.Status = http.StatusServiceUnavailable
	case CrossSite:
		d.Status = http.StatusForbidden
	case SessionInvalid, SessionExpired:
		d.Challenge = sessionChallenge
	case CredentialsMalformed:
		d.Status, d.Challenge = http.StatusBadRequest, bearerChallenge+invalidRequest
	case APIKeyMalformed, APIKeyInvalid, APIKeyExpired:
		d.Challenge = apiKeyChallenge
	case CertificateUntrusted, CertificateName, CertificateRevoked:
		d.Challenge = certificateChallenge
	case CredentialsMissing, SchemeUnsupported, CertificateExpired:
		d.Challenge = try.challenge("")
	case ProofMalformed, ProofBadSignature, ProofWrongRequest, ProofWrongToken, ProofNotFresh, ProofReplayed:
		d.Challenge = dpopChallenge + invalidProof + dpopAlgorithms
	case ProofNonce:
		d.Challenge, d.Nonce = dpopChallenge+wantsNonce+dpopAlgorithms, a.proofs.nonces.current(try.now)
	case StepUpRequired:
		d.Challenge = try.challenge(try.accept.StepUp.challenge())
	case ProofMissing:
		d.Challenge = try.challengeForProof()
	case ProofDowngraded:
		d.Challenge = dpopChallenge + invalidToken + dpopAlgorithms
	default:
		d.Challenge = try.challenge(invalidToken)
	}
	return d
}

// Challenge is the value of WWW-Authenticate for a principal whose credential
// was good and does not count any more.
func Challenge(p *policy.Principal) string {
	switch p.AuthenticatedBy {
	case "x509-svid":
		return certificateChallenge
	case byAPIKey:
		return apiKeyChallenge
	case BySession:
		return sessionChallenge
	}
	if b, ok := bindingOf(p.Claims); ok && b.toKey {
		return dpopChallenge + invalidToken + dpopAlgorithms
	}
	return bearerChallenge + invalidToken
}

// challenge names the schemes of the first kind that the route takes, with what
// is wrong to the one that was used.
func (t *attempt) challenge(wrong string) string {
	switch dpop, bearer := dpopChallenge+wrong+dpopAlgorithms, t.accept.takes(bearerToken); {
	case !bearer && t.accept.APIKeys != "":
		return apiKeyChallenge
	case !bearer && t.accept.takes(browserSession):
		return sessionChallenge
	case !bearer:
		return certificateChallenge
	case t.dpop || t.accept.Proof == KeyProof:
		return dpop
	case t.accept.Proof == AnyProof:
		return bearerChallenge + wrong + ", " + dpopChallenge + dpopAlgorithms
	}
	return bearerChallenge + wrong
}

func (t *attempt) challengeForProof() string {
	if t.dpop && len(t.Header["Dpop"]) == 0 {
		return dpopChallenge + invalidProof + dpopAlgorithms
	}
	return t.challenge(unboundToken)
}
