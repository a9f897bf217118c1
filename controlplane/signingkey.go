package controlplane

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/sallyport/sallyport/controlplane/hsm"
	"github.com/sallyport/sallyport/controlplane/rotation"
	"github.com/sallyport/sallyport/internal/snapshot"
)

// PKCS11 names a key in hardware.
type PKCS11 struct {
	// Module is the absolute path of the library that comes with the hardware. It is
	// loaded into this process.
	Module string `json:"module"`
	// Token is the label of the token that holds the key.
	Token string `json:"token"`
	// Key is the label of the key pair: Ed25519, or ECDSA on P-256.
	Key string `json:"key"`
	// PINFile is a file with the PIN of the token's user.
	PINFile string `json:"pin_file"`
}

func (p *PKCS11) validate(f *faults) {
	f.report("signing_key_pkcs11", hsm.Supported())
	f.required("signing_key_pkcs11.module", p.Module, func(path string) error {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("%q is not an absolute path", path)
		}
		_, err := os.Stat(path)
		return err
	})
	anything := func(string) error { return nil }
	f.required("signing_key_pkcs11.token", p.Token, anything)
	f.required("signing_key_pkcs11.key", p.Key, anything)
	f.required("signing_key_pkcs11.pin_file", p.PINFile, func(file string) error {
		_, err := readLine(file)
		return err
	})
}

func (p *PKCS11) open() (*hsm.Key, error) {
	pin, err := readLine(p.PINFile)
	if err != nil {
		return nil, fmt.Errorf("pin_file: %w", err)
	}
	return hsm.Open(hsm.Config{Module: p.Module, Token: p.Token, Key: p.Key, PIN: pin})
}

// readLine reads a file of one line.
func readLine(path string) (string, error) {
	b, err := readBounded(path)
	if err == nil && len(bytes.TrimSpace(b)) == 0 {
		err = fmt.Errorf("%s is empty", path)
	}
	return strings.TrimSpace(string(b)), err
}

func (s *Settings) validateKeys(f *faults) {
	switch hardware := s.SigningKeyPKCS11 != (PKCS11{}); {
	case hardware && s.SigningKeyFile != "":
		f.report("signing_key_file", errors.New("give it or signing_key_pkcs11, not both"))
	case hardware:
		s.SigningKeyPKCS11.validate(f)
		if s.SecretsKeyFile == "" {
			f.report("secrets_key_file", errors.New("is required with signing_key_pkcs11: nothing can be derived from a key in hardware"))
		}
	default:
		f.required("signing_key_file", s.SigningKeyFile, func(file string) error {
			_, err := readPrivateKey(file)
			return err
		})
	}
	if s.RootPublicKeyFile != "" {
		_, err := ReadPublicKey(s.RootPublicKeyFile)
		f.report("root_public_key_file", err)
	}
	if s.SecretsKeyFile != "" {
		_, err := readPrivateKey(s.SecretsKeyFile)
		f.report("secrets_key_file", err)
	}
}

// signing is a signing key with what verifies the fleet's signatures. It is to be
// closed.
type signing struct {
	*snapshot.Signer
	verifier *snapshot.Verifier
	hardware *hsm.Key // nil for a key of a file
}

func (s *Settings) signing() (sign signing, err error) {
	if err := s.full(); err != nil {
		return signing{}, err
	}
	var key crypto.Signer
	if s.SigningKeyFile != "" {
		if key, err = readPrivateKey(s.SigningKeyFile); err != nil {
			return signing{}, fmt.Errorf("signing_key_file: %w", err)
		}
	} else {
		if sign.hardware, err = s.SigningKeyPKCS11.open(); err != nil {
			return signing{}, fmt.Errorf("signing_key_pkcs11: %w", err)
		}
		key = sign.hardware
	}
	sign.Signer = snapshot.NewSigner(key)
	if sign.verifier, err = s.verifier(sign.Signer); err != nil {
		sign.close()
		return signing{}, err
	}
	return sign, nil
}

// close ends a session with hardware, once nobody signs any more.
func (s *signing) close() {
	if s.hardware != nil {
		s.hardware.Close()
	}
}

// verifier has the key pinned that proxies pin.
func (s *Settings) verifier(signer *snapshot.Signer) (*snapshot.Verifier, error) {
	if s.RootPublicKeyFile == "" {
		return signer.Verifier(), nil
	}
	root, err := ReadPublicKey(s.RootPublicKeyFile)
	if err != nil {
		return nil, fmt.Errorf("root_public_key_file: %w", err)
	}
	return root.Verifier(), nil
}

// secretsKey is what secrets are derived from.
func (s *Settings) secretsKey() (ed25519.PrivateKey, error) {
	key, err := readPrivateKey(cmp.Or(s.SecretsKeyFile, s.SigningKeyFile))
	if err != nil {
		return nil, fmt.Errorf("secrets_key_file: %w", err)
	}
	return key, nil
}

// Rotation returns what changes the signing keys of the fleet that the settings are
// of, until it is closed.
func Rotation(ctx context.Context, s Settings) (keys *rotation.Keys, closed func(), err error) {
	sign, err := s.signing()
	if err != nil {
		return nil, nil, err
	}
	quiet := slog.New(slog.DiscardHandler)
	database, err := s.Database.open(s.Replica, quiet)
	if err != nil {
		sign.close()
		return nil, nil, fmt.Errorf("database: %w", err)
	}
	published, err := s.openTargets(quiet)
	closed = func() { _ = published.close(); database.Close(); sign.close() } // nothing is under way
	if err != nil {
		closed()
		return nil, nil, err
	}
	if err := database.CheckSchema(ctx); err != nil {
		closed()
		return nil, nil, err
	}
	return rotation.New(rotation.Config{
		Store: database, Published: &published, Signer: sign.Signer, Verifier: sign.verifier, Caller: "sallyport-controlplane on " + s.Replica,
	}), closed, nil
}

// ReadPublicKey reads a public key of a kind that signs for fleets, PEM.
func ReadPublicKey(path string) (snapshot.PublicKey, error) {
	b, err := readBounded(path)
	if err != nil {
		return snapshot.PublicKey{}, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PUBLIC KEY" {
		return snapshot.PublicKey{}, errors.New("is not a PEM file with a public key")
	}
	return snapshot.ParsePublicKey(block.Bytes)
}

// readPrivateKey reads an Ed25519 key, PEM of PKCS #8.
func readPrivateKey(path string) (ed25519.PrivateKey, error) {
	b, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("is not a PEM file")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse PKCS #8 key: %w", err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("is not an Ed25519 key")
	}
	return key, nil
}

// PublicKey returns the public half of the signing key of the settings, PEM.
func PublicKey(s Settings) ([]byte, error) {
	sign, err := s.signing()
	if err != nil {
		return nil, err
	}
	defer sign.close()
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: sign.Public().DER()}), nil
}
