package token

import "time"

// VerifySVID checks a JWT-SVID (SPIFFE JWT-SVID sections 3 and 4) at now, as
// strictly as Verify. keys are those of the trust domain that the subject names:
// it is the issuer, whatever iss says. Every error is an *Error.
func (p *Parsed) VerifySVID(audiences []string, keys *KeySet, now time.Time) (*Claims, error) {
	if p.typ == AccessJWT {
		return nil, refuse(WrongType)
	}
	if err := p.checkSignature(svidAlgorithms(), keys); err != nil {
		return nil, err
	}
	if !p.For(audiences) {
		return nil, refuse(WrongAudience)
	}
	var rules Rules
	c, err := rules.read(p.claims)
	if err != nil {
		return nil, err
	}
	return c, rules.CheckTime(c, now)
}

// For says whether the claims name one of the audiences.
func (c *Claims) For(audiences []string) bool { return isFor(c.All, audiences) }

// svidAlgorithms are all that a JWT-SVID may be signed with.
func svidAlgorithms() []Algorithm {
	return []Algorithm{RS256, RS384, RS512, ES256, ES384, ES512, PS256, PS384, PS512}
}
