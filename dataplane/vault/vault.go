// Package vault seals the secrets that a proxy keeps on its disk, with a key that does
// not lie beside them.
package vault

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/crypto/chacha20poly1305"
)

const (
	// KeySize is how many random bytes a key is made of.
	KeySize = chacha20poly1305.KeySize
	// maxFile bounds the file of a key, in bytes.
	maxFile = 1024
	// magic begins what is sealed. It is authenticated with the purpose.
	magic = "sallyport sealed v1\n"
)

// ErrForeign says that something was not sealed with this key for this purpose, or was
// changed since.
var ErrForeign = errors.New("it was not sealed here, or was changed")

// Vault seals with one key. It is safe for concurrent use. The nil Vault seals nothing:
// who has it has to keep no secrets.
type Vault struct{ aead cipher.AEAD }

// Open returns the vault of a key's file, which holds 32 random bytes in base64, and
// which nobody but its owner and group may read, nor anybody but its owner write.
func Open(path string) (*Vault, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	// systemd's credentials show the permissions of their service as the group's.
	if info.Mode().Perm()&0o037 != 0 {
		return nil, fmt.Errorf("%s can be read or written by others than its owner", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(b)))
	if err != nil || len(key) != KeySize {
		return nil, fmt.Errorf("%s does not hold the base64 of %d bytes", path, KeySize)
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	return &Vault{aead}, nil
}

// Seal returns a secret as it may lie on a disk. What is sealed for one purpose is
// nothing for another.
func (v *Vault) Seal(purpose string, secret []byte) []byte {
	nonce := make([]byte, v.aead.NonceSize())
	_, _ = rand.Read(nonce) // it never fails: see crypto/rand
	return v.aead.Seal(append([]byte(magic), nonce...), nonce, secret, []byte(magic+purpose))
}

// Unseal returns the secret; ErrForeign if it is none.
func (v *Vault) Unseal(purpose string, sealed []byte) ([]byte, error) {
	rest, ours := bytes.CutPrefix(sealed, []byte(magic))
	if !ours || len(rest) < v.aead.NonceSize() {
		return nil, ErrForeign
	}
	nonce, box := rest[:v.aead.NonceSize()], rest[v.aead.NonceSize():]
	secret, err := v.aead.Open(nil, nonce, box, []byte(magic+purpose))
	if err != nil {
		return nil, ErrForeign
	}
	return secret, nil
}
