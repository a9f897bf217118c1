package authn

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
	// ConfirmationUnknown: the token says that it is bound (cnf, RFC 7800), in a
	// way that cannot be checked here.
	ConfirmationUnknown Reason = "confirmation_unknown"
	// ProofMissing: the token is bound to nobody where the route demands it, or
	// came without the client certificate or the DPoP proof that it is bound to.
	ProofMissing Reason = "proof_missing"
	// ProofDowngraded: a token that is bound to a key came as "Bearer".
	ProofDowngraded Reason = "proof_downgraded"
	// ProofUnbound: a token that is bound to no key came as "DPoP".
	ProofUnbound Reason = "proof_unbound"
	// ProofMalformed: not exactly one DPoP proof in its strict form.
	ProofMalformed Reason = "proof_malformed"
	// ProofBadSignature: the proof is not signed by the key that it brings.
	ProofBadSignature Reason = "proof_bad_signature"
	// ProofWrongKey: the proof is of another key, or the client certificate is
	// another, than the token is bound to.
	ProofWrongKey Reason = "proof_wrong_key"
	// ProofWrongRequest: the proof is for another method or URL.
	ProofWrongRequest Reason = "proof_wrong_request"
	// ProofWrongToken: the proof goes with another token, or names none.
	ProofWrongToken Reason = "proof_wrong_token"
	// ProofNotFresh: the proof is too old, or made for later.
	ProofNotFresh Reason = "proof_not_fresh"
	// ProofNonce: the proof lacks the nonce that is asked for, or has an old one.
	ProofNonce Reason = "proof_nonce"
	// ProofReplayed: the proof was taken before.
	ProofReplayed Reason = "proof_replayed"
	// ProofCacheFull: no more proofs of this key can be remembered for now.
	ProofCacheFull Reason = "proof_cache_full"
	// StepUpRequired: the principal is known, and has not signed in as the route
	// demands.
	StepUpRequired Reason = "step_up_required"
	// KeysUnavailable: the issuer's keys have never been fetched, or are older
	// than they may become. It says nothing about the token.
	KeysUnavailable Reason = "keys_unavailable"
	// IntrospectionUnavailable: the issuer, which has to be asked for the token,
	// did not answer, or there are too many to be asked for. It says nothing
	// about the token.
	IntrospectionUnavailable Reason = "introspection_unavailable"
	// SessionInvalid: a session cookie that is not one of this host, this
	// environment and this provider, or whose key is not known any more.
	SessionInvalid Reason = "session_invalid"
	// SessionExpired: a session that has lasted its time.
	SessionExpired Reason = "session_expired"
	// SessionKeysUnavailable: a session cookie, and no key to open any with.
	SessionKeysUnavailable Reason = "session_keys_unavailable"
	// CrossSite: a session, and a request that would change something and does
	// not come from a page of this host.
	CrossSite Reason = "cross_site"

	tokenPrefix Reason = "token_"
)
