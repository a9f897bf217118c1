package snapshot

import "fmt"

const enforcedDomain = "sallyport enforced v1\x00"

// SignEnforced signs a claim about who enforces something, of at most 4096 bytes. It
// returns the signature and the ID of the key; ErrSigning.
func (s *Signer) SignEnforced(claim []byte) (signature, key []byte, err error) {
	if signature, err = s.sign(enforcedDomain, claim); err != nil {
		return nil, nil, fmt.Errorf("sign claim: %w", err)
	}
	return signature, s.id(), nil
}

// VerifyEnforced returns nil if a claim was signed so with a key that v takes; else
// ErrSignature.
func (v *Verifier) VerifyEnforced(claim, signature, key []byte) error {
	if _, err := v.verify(enforcedDomain, claim, signature, key); err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	return nil
}
