package decisions

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"github.com/sallyport/sallyport/internal/policy"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

// Pseudonyms makes pseudonyms of principals. It is safe for concurrent use.
type Pseudonyms struct{ key []byte }

// NewPseudonyms derives the key of pseudonyms from a key of the fleet: they stay the
// same for as long as that does.
func NewPseudonyms(secret ed25519.PrivateKey) (*Pseudonyms, error) {
	key, err := hkdf.Key(sha256.New, secret.Seed(), nil, "sallyport pseudonyms v1", sha256.Size)
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

// hide leaves in a record nothing that tells who asked. Which ID a policy names says
// that as well where it is the one that matched.
func (p *Pseudonyms) hide(m *decisionv1.Decision) {
	m.Principal = p.replace(m.GetPrincipal())
	for i, other := range m.GetBeside() {
		m.Beside[i] = p.replace(other)
	}
	p.disguise(m.GetSignals().GetDevice())
	if m.GetRequest() != nil {
		m.Request.Values = nil
	}
	for _, step := range m.GetExplanation() {
		for _, way := range step.GetWays() {
			for _, c := range way.GetClauses() {
				conceal(c)
			}
		}
	}
	for _, change := range m.GetChanges() {
		for _, f := range change.GetFlips() {
			conceal(f.GetClause())
		}
	}
}

func conceal(c *decisionv1.Clause) {
	if c.GetPart() == string(policy.MissPrincipal) && c.GetValue() == policy.True.String() {
		c.Text = ""
	}
}

// disguise leaves of a device what does not tell whose it is. That somebody uses
// their own can still be seen.
func (p *Pseudonyms) disguise(d *decisionv1.Device) {
	if d == nil {
		return
	}
	d.Id, d.Pseudonymised = p.Of(d.GetId()), true
	if d.GetOwner() != "" {
		d.Owner = p.Of(d.GetOwner())
	}
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
