// Package hsm signs with keys that do not leave the hardware they were made in, by
// way of PKCS#11. It is apart from the rest because it loads a library of somebody
// else's into the process, and needs cgo for that: builds without cgo refuse it.
package hsm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
)

// Config names a key in a module. All fields are required.
type Config struct {
	// Module is the path of the library (PKCS#11) that comes with the hardware.
	Module string
	// Token is the label of the token that holds the key.
	Token string
	// Key is the label that the private and the public key have, and no others.
	Key string
	// PIN is that of the token's user.
	PIN string
}

var (
	// ErrNoCGO says that this build cannot load modules.
	ErrNoCGO = errors.New("this build is without cgo, which PKCS#11 needs: build it with CGO_ENABLED=1 and a C compiler")
	// errPair says that the two keys of a label are not a pair.
	errPair   = errors.New("what the private key signs the public key does not verify: they are no pair")
	errSilent = errors.New("the token does not answer")
	errType   = errors.New("the key is neither of Ed25519 nor of ECDSA on P-256")
)

// The curve of a key of ECDSA: the OID of P-256 in DER (RFC 5480).
var p256 = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}

// publicKey makes a public key of what a token says of it. PKCS#11 wants the point in
// an OCTET STRING; some tokens leave that out.
func publicKey(edwards bool, params, point []byte) (crypto.PublicKey, error) {
	var inner []byte
	if rest, err := asn1.Unmarshal(point, &inner); err == nil && len(rest) == 0 {
		point = inner
	}
	switch {
	case edwards && len(point) == ed25519.PublicKeySize:
		return ed25519.PublicKey(bytes.Clone(point)), nil
	case !edwards && bytes.Equal(params, p256):
		key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
		if err != nil {
			return nil, fmt.Errorf("public key: %w", err)
		}
		return key, nil
	}
	return nil, errType
}

// signatureDER puts the two numbers of a signature of ECDSA, which a token returns
// one after the other, into the form of everybody else.
func signatureDER(raw []byte) ([]byte, error) {
	if len(raw) != 64 {
		return nil, fmt.Errorf("signature of %d bytes, not 64", len(raw))
	}
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])})
}

// prove has a key sign, and returns an error unless its public key verifies that.
func prove(key crypto.Signer) error {
	probe := []byte("sallyport probe\x00" + rand.Text())
	switch public := key.Public().(type) {
	case ed25519.PublicKey:
		signature, err := key.Sign(rand.Reader, probe, crypto.Hash(0))
		if err == nil && !ed25519.Verify(public, probe, signature) {
			err = errPair
		}
		return err
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(probe)
		signature, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
		if err == nil && !ecdsa.VerifyASN1(public, sum[:], signature) {
			err = errPair
		}
		return err
	}
	return errType
}
