package decisions

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

// Pseudonyms makes pseudonyms of principals. It is safe for concurrent use.
type Pseudonyms struct{ key []byte }

// NewPseudonyms derives the key of pseudonyms from the fleet's signing key: they
// stay the same for as long as that does.
func NewPseudonyms(signingKey ed25519.PrivateKey) (*Pseudonyms, error) {
	key, err := hkdf.Key(sha256.New, signingKey.Seed(), nil, "sallyport pseudonyms v1", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive key for pseudonyms: %w", err)
	}
	return &Pseudonyms{key}, nil
}

// Of returns the pseudonym of a principal's ID: the same for the same one, and of
// use to nobody who does not know that already.
func (p *Pseudonyms) Of(id string) string {
	mac := hmac.New(sha256.New, p.key)
	mac.Write([]byte(id))
	return "~" + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:18])
}

// replace leaves of a principal what does not tell who it is.
func (p *Pseudonyms) replace(of *decisionv1.Principal) *decisionv1.Principal {
	if of == nil || of.GetId() == "" {
		return of
	}
	return &decisionv1.Principal{
		Kind: of.GetKind(), Id: p.Of(of.GetId()), Issuer: of.GetIssuer(), Groups: of.GetGroups(), Scopes: of.GetScopes(),
		ClaimsOmitted: true, Provider: of.GetProvider(), AuthenticatedBy: of.GetAuthenticatedBy(),
		IssuedAt: of.GetIssuedAt(), ExpiresAt: of.GetExpiresAt(), AuthenticatedAt: of.GetAuthenticatedAt(),
		Acr: of.GetAcr(), Amr: of.GetAmr(), Pseudonymised: true,
	}
}
