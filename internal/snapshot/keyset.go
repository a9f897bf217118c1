package snapshot

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// Generation numbers the key sets of a fleet, gapless, from 1. 0 is before the
// first: then the key signs that is pinned.
type Generation int64

const (
	// MaxGenerations bounds how often the keys of a fleet can change. A chain of as
	// many sets has about a megabyte.
	MaxGenerations = 1000
	// MaxKeys bounds the keys of a set.
	MaxKeys = 8
)

// ErrKeySetFork says that there are two key sets of one generation, or that one
// does not follow from the one that is known before it: somebody has signed what
// this fleet has not.
var ErrKeySetFork = errors.New("key set does not belong to the chain that is known")

// KeySet says which keys sign for the fleet. The zero KeySet stands for the pinned
// key alone. Key sets are made by Signer.SignKeySet, ParseKeySet and Verifier.Extend
// alone.
type KeySet struct {
	Generation Generation
	keys       []PublicKey
	previous   Digest // zero for the first
	digest     Digest
	signed     *proxyv1.SignedKeySet
}

// Keys returns the keys of the set.
func (s KeySet) Keys() []PublicKey { return slices.Clone(s.keys) }

// Key returns the key with an ID.
func (s KeySet) Key(id KeyID) (PublicKey, bool) {
	i := slices.IndexFunc(s.keys, func(k PublicKey) bool { return k.id == id })
	if i < 0 {
		return PublicKey{}, false
	}
	return s.keys[i], true
}

// Has reports whether a key is in the set.
func (s KeySet) Has(id KeyID) bool {
	_, ok := s.Key(id)
	return ok
}

// Digest returns the SHA-256 of the set's signed bytes.
func (s KeySet) Digest() Digest { return s.digest }

// Signed returns the set as it is stored and sent. It is not to be changed.
func (s KeySet) Signed() *proxyv1.SignedKeySet { return s.signed }

// ParseKeySet returns a set whose signature nobody has looked at: what it says is
// worth what its source is worth.
func ParseKeySet(signed *proxyv1.SignedKeySet) (KeySet, error) {
	b := signed.GetSet()
	if len(b) > maxStatement {
		return KeySet{}, fmt.Errorf("key set of %d bytes", len(b))
	}
	var m proxyv1.KeySet
	if err := unmarshalKnown(b, &m); err != nil {
		return KeySet{}, fmt.Errorf("key set: %w", err)
	}
	previous, ok := ParseDigest(m.GetPrevious())
	first := m.GetGeneration() == 1
	if m.GetGeneration() < 1 || m.GetGeneration() > MaxGenerations || ok == first || first && len(m.GetPrevious()) != 0 {
		return KeySet{}, errors.New("key set: a field is missing or out of range")
	}
	if n := len(m.GetKeys()); n < 1 || n > MaxKeys {
		return KeySet{}, fmt.Errorf("key set: has %d keys, not from 1 to %d", n, MaxKeys)
	}
	s := KeySet{Generation: Generation(m.GetGeneration()), previous: previous, digest: sha256.Sum256(b), signed: signed}
	for _, der := range m.GetKeys() {
		k, err := ParsePublicKey(der)
		if err != nil {
			return KeySet{}, fmt.Errorf("key set: %w", err)
		}
		if s.Has(k.id) {
			return KeySet{}, fmt.Errorf("key set: key %s is in it twice", k.id.Short())
		}
		s.keys = append(s.keys, k)
	}
	return s, nil
}
