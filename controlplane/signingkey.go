package controlplane

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"

	"github.com/sallyport/sallyport/controlplane/rotation"
	"github.com/sallyport/sallyport/internal/snapshot"
)

func (s *Settings) validateKeys(f *faults) {
	f.required("signing_key_file", s.SigningKeyFile, func(file string) error {
		_, err := readPrivateKey(file)
		return err
	})
	if s.RootPublicKeyFile != "" {
		_, err := ReadPublicKey(s.RootPublicKeyFile)
		f.report("root_public_key_file", err)
	}
	if s.SecretsKeyFile != "" {
		_, err := readPrivateKey(s.SecretsKeyFile)
		f.report("secrets_key_file", err)
	}
}

// signing is a signing key with what verifies the fleet's signatures.
type signing struct {
	*snapshot.Signer
	verifier *snapshot.Verifier
}

func (s *Settings) signing() (signing, error) {
	key, err := readPrivateKey(s.SigningKeyFile)
	if err != nil {
		return signing{}, fmt.Errorf("signing_key_file: %w", err)
	}
	signer := snapshot.NewSigner(key)
	verifier, err := s.verifier(signer)
	return signing{signer, verifier}, err
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
	database, err := s.Database.open(s.Replica, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, nil, fmt.Errorf("database: %w", err)
	}
	if err := database.CheckSchema(ctx); err != nil {
		database.Close()
		return nil, nil, err
	}
	return rotation.New(rotation.Config{
		Store: database, Signer: sign.Signer, Verifier: sign.verifier, Caller: "sallyport-controlplane on " + s.Replica,
	}), database.Close, nil
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
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: sign.Public().DER()}), nil
}
