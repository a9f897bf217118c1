//go:build !cgo

package hsm

import (
	"crypto"
	"io"
)

// Key is what no build without cgo has.
type Key struct{}

// Supported returns ErrNoCGO.
func Supported() error { return ErrNoCGO }

// Open returns ErrNoCGO.
func Open(Config) (*Key, error) { return nil, ErrNoCGO }

// Public implements crypto.Signer.
func (*Key) Public() crypto.PublicKey { return nil }

// Sign implements crypto.Signer.
func (*Key) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, ErrNoCGO }

// Close does nothing.
func (*Key) Close() {}
