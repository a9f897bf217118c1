// Package session keeps what a browser has proved when it signed in, in cookies
// that the proxies of one environment can read and nobody else.
package session

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

// MaxKeys is how many keys a ring may have: one for each rotation in the longest
// lifetime of a session, the one to come, and some more.
const MaxKeys = 16

// MaxValue is the length in bytes of the longest value of a cookie: browsers take
// 4096 with its name (RFC 6265bis, section 5.7).
const MaxValue = 4000

// ErrNoKey says that there is no key to seal with, or none at all to open with.
var ErrNoKey = errors.New("there is no cookie key")

// ErrForeign says that a cookie cannot be opened: it was changed, or sealed for
// another host, environment or purpose, or with a key that is not known, or is no
// longer. Which one is for nobody to learn.
var ErrForeign = errors.New("the cookie is not one of ours")

// ErrTooLarge says that what is to be sealed does not fit into a cookie.
var ErrTooLarge = errors.New("it does not fit into a cookie")

// KeyID names a key among those of its environment.
type KeyID [4]byte

// Key is a cookie key.
type Key struct {
	ID     KeyID
	Secret [chacha20poly1305.KeySize]byte
	// From is when sealing with it begins. It opens from the moment on at which
	// it is known, so that it can be known everywhere before it is used anywhere.
	From time.Time
}

// NewKey returns a random key.
func NewKey(from time.Time) Key {
	k := Key{From: from}
	// It never fails: see crypto/rand.
	_, _ = rand.Read(k.ID[:])
	_, _ = rand.Read(k.Secret[:])
	return k
}

// Purpose is what a cookie is for. One for a purpose is none for another.
type Purpose string

// The purposes.
const (
	// Signed is what a browser has proved.
	Signed Purpose = "session"
	// Pending is a sign-in under way.
	Pending Purpose = "signin"
)

// Ring is the cookie keys of one environment. It is immutable and safe for
// concurrent use. A nil Ring has no keys.
type Ring struct {
	environment string
	keys        []sealer // the latest to seal first
}

type sealer struct {
	Key
	aead cipher.AEAD
}

// NewRing returns the ring of some keys, in any order. No two may have the same
// ID.
func NewRing(environment string, keys ...Key) (*Ring, error) {
	if len(keys) > MaxKeys {
		return nil, fmt.Errorf("%d cookie keys are more than %d", len(keys), MaxKeys)
	}
	r := &Ring{environment: environment}
	for _, k := range keys {
		if r.find(k.ID) != nil {
			return nil, fmt.Errorf("two cookie keys are called %x", k.ID)
		}
		aead, err := chacha20poly1305.NewX(k.Secret[:])
		if err != nil {
			return nil, err
		}
		r.keys = append(r.keys, sealer{k, aead})
	}
	slices.SortStableFunc(r.keys, func(a, b sealer) int { return b.From.Compare(a.From) })
	return r, nil
}

// Environment is whose keys they are.
func (r *Ring) Environment() string {
	if r == nil {
		return ""
	}
	return r.environment
}

// Keys returns the keys, the latest to seal first.
func (r *Ring) Keys() []Key {
	if r == nil {
		return nil
	}
	keys := make([]Key, len(r.keys))
	for i := range r.keys {
		keys[i] = r.keys[i].Key
	}
	return keys
}

// Ready reports whether cookies can be sealed.
func (r *Ring) Ready(now time.Time) bool { return r.newest(now) != nil }

func (r *Ring) find(id KeyID) *sealer {
	if r == nil {
		return nil
	}
	for i := range r.keys {
		if r.keys[i].ID == id {
			return &r.keys[i]
		}
	}
	return nil
}

func (r *Ring) newest(now time.Time) *sealer {
	if r == nil {
		return nil
	}
	for i := range r.keys {
		if !r.keys[i].From.After(now) {
			return &r.keys[i]
		}
	}
	return nil
}

// A sealed value is, in base64url, the ID of its key, a random nonce of 24 bytes,
// and the text encrypted with XChaCha20-Poly1305: its nonces are long enough to be
// drawn at random by a whole fleet, as often as strangers have it start sign-ins.
const sealed = len(KeyID{}) + chacha20poly1305.NonceSizeX

// Seal returns plain as the value of a cookie of a host. ErrNoKey, ErrTooLarge.
func (r *Ring) Seal(purpose Purpose, host string, plain []byte, now time.Time) (string, error) {
	k := r.newest(now)
	if k == nil {
		return "", ErrNoKey
	}
	size := sealed + len(plain) + chacha20poly1305.Overhead
	if base64.RawURLEncoding.EncodedLen(size) > MaxValue {
		return "", ErrTooLarge
	}
	b := make([]byte, sealed, size)
	copy(b, k.ID[:])
	_, _ = rand.Read(b[len(k.ID):])
	b = k.aead.Seal(b, b[len(k.ID):], plain, r.binding(purpose, host, k.ID))
	return base64.RawURLEncoding.EncodeToString(b), nil
}

// Open returns what Seal was given, if it was for the same environment, purpose
// and host. ErrNoKey, ErrForeign.
func (r *Ring) Open(purpose Purpose, host, value string) ([]byte, error) {
	if r == nil || len(r.keys) == 0 {
		return nil, ErrNoKey
	}
	if len(value) > MaxValue || strings.ContainsAny(value, "\r\n") { // which encoding/base64 skips
		return nil, ErrForeign
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(value)
	if err != nil || len(b) < sealed {
		return nil, ErrForeign
	}
	k := r.find(KeyID(b))
	if k == nil {
		return nil, ErrForeign
	}
	nonce := b[len(k.ID):sealed]
	plain, err := k.aead.Open(b[sealed:sealed], nonce, b[sealed:], r.binding(purpose, host, k.ID))
	if err != nil {
		return nil, ErrForeign
	}
	return plain, nil
}

// Lock is what opens a value: where two are equal, the same value holds the same.
// It lets what a value holds be remembered for as long as it would open.
type Lock struct {
	environment, host string
	id                KeyID
	secret            [chacha20poly1305.KeySize]byte
}

// Own returns a Lock that holds on to no text but its own.
func (l Lock) Own() Lock {
	l.host = strings.Clone(l.host)
	return l
}

// Lock returns what of r opens the value of a cookie of a host, if it is sealed as
// it says; false when nothing does. It does not allocate.
func (r *Ring) Lock(host, value string) (Lock, bool) {
	var text [8]byte // whole groups of base64 that have the ID in them
	var begin [6]byte
	if len(value) > MaxValue || copy(text[:], value) < len(text) {
		return Lock{}, false
	}
	if _, err := base64.RawURLEncoding.Decode(begin[:], text[:]); err != nil {
		return Lock{}, false
	}
	k := r.find(KeyID(begin[:len(KeyID{})]))
	if k == nil {
		return Lock{}, false
	}
	return Lock{r.environment, host, k.ID, k.Secret}, true
}

// binding is what a cookie is bound to besides its key. Each part comes after its
// length, so that no two bindings are the same bytes.
func (r *Ring) binding(purpose Purpose, host string, id KeyID) []byte {
	b := make([]byte, 0, 64+len(r.environment)+len(host))
	b = append(b, "sallyport cookie v1\x00"...)
	for _, part := range [...]string{r.environment, host, string(purpose)} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(part))) //nolint:gosec // names, of at most 253 bytes
		b = append(b, part...)
	}
	return append(b, id[:]...)
}
