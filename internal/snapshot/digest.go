package snapshot

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"github.com/sallyport/sallyport/internal/resource"
)

// Digest is a SHA-256. Each kind of thing that is digested has a prefix of its
// own, so that the digest of one can never stand for another.
type Digest [sha256.Size]byte

// String returns the digest in lower-case hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Short returns the first 12 characters, for people.
func (d Digest) Short() string { return d.String()[:12] }

// IsZero reports whether d is unset.
func (d Digest) IsZero() bool { return d == Digest{} }

// ParseDigest returns b as a digest; ok is false unless b has 32 bytes.
func ParseDigest(b []byte) (d Digest, ok bool) {
	if len(b) != len(d) {
		return Digest{}, false
	}
	copy(d[:], b)
	return d, true
}

// DocumentDigest returns the digest of a document's bytes.
func DocumentDigest(document []byte) Digest {
	h := sha256.New()
	h.Write([]byte("sallyport document v1\x00"))
	h.Write(document)
	return Digest(h.Sum(nil))
}

// keyDigest returns the digest of a key. Its parts are length-prefixed, so
// that no two keys are digested alike.
func keyDigest(k resource.Key) Digest {
	b := make([]byte, 0, 128)
	b = append(b, "sallyport key v1\x00"...)
	for _, part := range [...]string{string(k.Kind), k.Namespace, k.Name} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part))) //nolint:gosec // documents are bounded far below 4 GiB
		b = append(b, part...)
	}
	return sha256.Sum256(b)
}
