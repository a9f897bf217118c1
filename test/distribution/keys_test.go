package distribution_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
)

var (
	errSignature = errors.New("bad_signature")
	errStatement = errors.New("malformed")
	errKeySet    = errors.New("key_set_fork")
)

// trust is what a proxy knows of the keys that sign: "Keys" of the document.
type trust struct {
	pinned     []byte            // its ID
	keys       map[string][]byte // that sign now: SubjectPublicKeyInfo by ID
	generation uint64
	newest     []byte // digest of the newest key set
}

func pin(key []byte) *trust {
	id := sum(key)
	return &trust{pinned: id, keys: map[string][]byte{string(id): key}}
}

// verify reports whether a key that signs has signed a statement. id is empty for
// the pinned key.
func (t *trust) verify(domain string, statement, signature, id []byte) error {
	if len(statement) == 0 || len(statement) > 4096 || len(signature) > 80 {
		return errSignature
	}
	if len(id) == 0 {
		id = t.pinned
	}
	key, err := x509.ParsePKIXPublicKey(t.keys[string(id)])
	if err != nil {
		return errSignature
	}
	text := append([]byte(domain+" v1\x00"), statement...)
	good := false
	switch key := key.(type) {
	case ed25519.PublicKey:
		good = ed25519.Verify(key, text, signature)
	case *ecdsa.PublicKey:
		good = ecdsa.VerifyASN1(key, sum(text), signature)
	}
	if !good {
		return errSignature
	}
	return nil
}

// follow takes the KeySets of a message.
func (t *trust) follow(sets []byte) error {
	m, err := parse(sets)
	if err != nil {
		return err
	}
	for _, signed := range m.all(1) {
		if err := t.extend(signed); err != nil {
			return err
		}
	}
	return nil
}

// extend takes a SignedKeySet. The first is the first that the pinned key signed, and
// each later one has to follow the newest that is known.
func (t *trust) extend(signed []byte) error {
	m, err := parse(signed)
	if err != nil {
		return err
	}
	id := m.bytes(3)
	switch {
	case t.generation == 0 && len(id) > 0 && !bytes.Equal(id, t.pinned):
		return nil // from before the pinned key
	case bytes.Equal(sum(m.bytes(1)), t.newest):
		return nil // again
	}
	if err := t.verify("sallyport key set", m.bytes(1), m.bytes(2), id); err != nil {
		return err
	}
	set, err := parse(m.bytes(1))
	keys, generation, previous := set.all(3), set.number(1), set.bytes(2)
	switch {
	case err != nil || !set.known(3) || len(keys) < 1 || len(keys) > 8 || generation < 1 || (generation == 1) != (len(previous) == 0):
		return errStatement
	case t.generation > 0 && (generation != t.generation+1 || !bytes.Equal(previous, t.newest)):
		return fmt.Errorf("%w: generation %d", errKeySet, generation)
	}
	t.keys = map[string][]byte{}
	for _, key := range keys {
		t.keys[string(sum(key))] = key
	}
	t.generation, t.newest = generation, sum(m.bytes(1))
	return nil
}
