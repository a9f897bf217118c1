package token

// Reason is why a token was refused. The set is closed and fit for metric
// labels; a reason never says more about a signature than that it is wrong.
type Reason string

// The reasons of an Error. When several hold, form goes before header, header
// before key, key before signature, signature before claims.
const (
	// Malformed: not three canonical base64url segments of strict JSON objects
	// within bounds.
	Malformed Reason = "malformed"
	// BadHeader: a header that names or carries a key (jku, jwk, x5u, x5c),
	// demands an extension (crit, b64, zip, enc), or has no kid.
	BadHeader Reason = "bad_header"
	// WrongType: typ says that it is not an access token, or not one of the types
	// that the rules take.
	WrongType Reason = "wrong_type"
	// WrongAlgorithm: alg is not allowed, or none of the key's.
	WrongAlgorithm Reason = "algorithm"
	// UnknownKey: the key set has no such kid.
	UnknownKey Reason = "unknown_key"
	// BadSignature: the signature is not of this key over these bytes.
	BadSignature Reason = "bad_signature"
	// WrongIssuer: iss is not exactly the expected one.
	WrongIssuer Reason = "wrong_issuer"
	// WrongAudience: aud names none of the expected audiences.
	WrongAudience Reason = "wrong_audience"
	// BadClaim: a required claim is missing, or a claim has a shape that
	// cannot be understood.
	BadClaim Reason = "bad_claim"
	// WrongClaim: a claim that the rules require has none of the values that they
	// name, or leads to several claims.
	WrongClaim Reason = "wrong_claim"
	// LongLived: more time lies between iat and exp than the rules allow.
	LongLived Reason = "long_lived"
	// NotYetValid: nbf or iat lies in the future beyond the leeway.
	NotYetValid Reason = "not_yet_valid"
	// Expired: exp lies in the past beyond the leeway.
	Expired Reason = "expired"
	// Inactive: its issuer says that it is not, or no longer, good for anything.
	Inactive Reason = "inactive"
)

// Error is a refused token; every error of Parse and Verify is one. It holds
// nothing of the token, so that it may be logged.
type Error struct {
	Reason Reason
}

func (e *Error) Error() string { return "token refused: " + string(e.Reason) }

func refuse(r Reason) error { return &Error{Reason: r} }
