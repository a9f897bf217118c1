package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

const (
	// MaxChain bounds an SVID with its intermediates that comes in a message, in bytes.
	MaxChain = 16 << 10
	// maxCertificates bounds how many these are.
	maxCertificates = 8
	// maxRSA bounds their keys in bits, as crypto/tls does.
	maxRSA = 8192
	// grace is how long ago an SVID may have expired that has signed a message, and how
	// soon it may begin: clocks differ, and a message takes a while.
	grace = time.Minute
)

// Chain returns the certificates of the SVID, the leaf first, in DER, one after the
// other.
func (s SVID) Chain() []byte { return slices.Concat(s.Certificate.Certificate...) }

// Sign signs a message with the SVID's key: by ECDSA with SHA-256, by RSASSA-PSS with
// SHA-256, or by Ed25519. The message has to begin with what it is for, so that nobody
// can take it for another one, or for a part of TLS.
func (s SVID) Sign(message []byte) ([]byte, error) {
	key, ok := s.Certificate.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("sign with svid: its key is a %T", s.Certificate.PrivateKey)
	}
	var opts crypto.SignerOpts = crypto.SHA256
	switch key.Public().(type) {
	case ed25519.PublicKey:
		opts = crypto.Hash(0)
	case *rsa.PublicKey:
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	}
	signature, err := crypto.SignMessage(key, rand.Reader, message, opts)
	if err != nil {
		return nil, fmt.Errorf("sign with svid: %w", err)
	}
	return signature, nil
}

// Signed returns whose SVID has signed a message, as SVID.Sign does. The chain, at most
// MaxChain bytes, is checked as that of a peer is in a handshake now, give or take a
// minute of the leaf's validity. The error is an ErrPeer.
func (s *Source) Signed(chain, message, signature []byte) (ID, error) {
	certificates, err := parseChain(chain)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrPeer, err)
	}
	leaf := certificates[0]
	id, err := verifyChain(s.material.Load().bundles, certificates, closest(s.cfg.Now(), leaf))
	if err != nil {
		return "", err
	}
	if err := leaf.CheckSignature(algorithm(leaf), message, signature); err != nil {
		return "", fmt.Errorf("%w: signature: %w", ErrPeer, err)
	}
	return id, nil
}

// closest returns the time within a leaf's validity that is closest to now, if that is
// within grace; else now.
func closest(now time.Time, leaf *x509.Certificate) time.Time {
	switch {
	case now.Before(leaf.NotBefore) && leaf.NotBefore.Sub(now) <= grace:
		return leaf.NotBefore
	case now.After(leaf.NotAfter) && now.Sub(leaf.NotAfter) <= grace:
		return leaf.NotAfter
	}
	return now
}

// parseChain returns at least one certificate.
func parseChain(chain []byte) ([]*x509.Certificate, error) {
	if len(chain) > MaxChain {
		return nil, fmt.Errorf("certificates have %d bytes, at most %d are allowed", len(chain), MaxChain)
	}
	certificates, err := x509.ParseCertificates(chain)
	switch {
	case err != nil:
		return nil, fmt.Errorf("parse certificates: %w", err)
	case len(certificates) == 0, len(certificates) > maxCertificates:
		return nil, fmt.Errorf("%d certificates, from 1 to %d are allowed", len(certificates), maxCertificates)
	}
	for _, c := range certificates {
		if key, ok := c.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxRSA {
			return nil, errors.New("the RSA key of a certificate is too large")
		}
	}
	return certificates, nil
}

// verifyChain returns whose SVID a chain is, if it is one.
func verifyChain(bundles x509bundle.Source, chain []*x509.Certificate, at time.Time) (ID, error) {
	if _, _, err := x509svid.Verify(chain, bundles, x509svid.WithTime(at)); err != nil {
		return "", fmt.Errorf("%w: %w", ErrPeer, err)
	}
	return leafID(chain[0])
}

// algorithm is that of SVID.Sign; the zero value for a key that cannot sign.
func algorithm(leaf *x509.Certificate) x509.SignatureAlgorithm {
	switch leaf.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return x509.ECDSAWithSHA256
	case *rsa.PublicKey:
		return x509.SHA256WithRSAPSS
	case ed25519.PublicKey:
		return x509.PureEd25519
	}
	return x509.UnknownSignatureAlgorithm
}
