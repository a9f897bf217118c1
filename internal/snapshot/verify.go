package snapshot

import (
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// Verifier checks what was signed with a key of the newest key set that it knows:
// at first the pinned key, later those that Extend has led it to. What it knows
// only grows. It is safe for concurrent use.
type Verifier struct {
	pinned PublicKey
	// past says that it takes what any key signed that it knows of.
	past bool

	growing sync.Mutex // held by Extend
	trust   atomic.Pointer[trust]
}

// trust is what a Verifier knows. It is immutable.
type trust struct {
	sets []KeySet            // ascending, without a gap
	keys map[KeyID]PublicKey // of the newest set
	all  map[KeyID]PublicKey // of all of them, and the pinned one
}

// maxSignature bounds a signature; one of ECDSA on P-256 takes 72 bytes.
const maxSignature = 80

// NewVerifier returns a verifier that has the key pinned. It panics if
// NewPublicKey has an error for it.
func NewVerifier(key crypto.PublicKey) *Verifier {
	pinned, err := NewPublicKey(key)
	if err != nil {
		panic("snapshot: " + err.Error())
	}
	return newVerifier(pinned)
}

func newVerifier(pinned PublicKey) *Verifier {
	v := &Verifier{pinned: pinned}
	only := map[KeyID]PublicKey{pinned.id: pinned}
	v.trust.Store(&trust{keys: only, all: only})
	return v
}

// Past returns a verifier that knows what v knows now, and takes what was signed
// with any key that ever signed for the fleet. It is for what was verified once,
// when its key was good, and was kept since: never for what others bring.
func (v *Verifier) Past() *Verifier {
	p := &Verifier{pinned: v.pinned, past: true}
	p.trust.Store(v.trust.Load())
	return p
}

// Pinned returns the key that everything began with.
func (v *Verifier) Pinned() PublicKey { return v.pinned }

// Newest returns the newest key set; the zero KeySet while the pinned key signs.
func (v *Verifier) Newest() KeySet { return v.trust.Load().newest() }

func (t *trust) newest() KeySet {
	if len(t.sets) == 0 {
		return KeySet{}
	}
	return t.sets[len(t.sets)-1]
}

// KeySets returns the key sets that are known, by ascending generation.
func (v *Verifier) KeySets() []KeySet { return slices.Clone(v.trust.Load().sets) }

// Trusts reports whether v takes what a key signed.
func (v *Verifier) Trusts(id KeyID) bool {
	_, ok := v.taken(v.trust.Load())[id]
	return ok
}

// taken returns the keys of which v takes what they signed.
func (v *Verifier) taken(t *trust) map[KeyID]PublicKey {
	if v.past {
		return t.all
	}
	return t.keys
}

// Extend takes key sets, by ascending generation. The first that it takes is the
// first that the pinned key has signed: those before it are passed over, so that
// a later key than the fleet's first can be pinned. From there each has to be
// signed with a key of the one before it, and name it. Sets that are known
// already may come again. It returns how many were new. After an error,
// ErrKeySetFork or ErrSignature among them, it knows those before the one that is
// at fault.
func (v *Verifier) Extend(sets []*proxyv1.SignedKeySet) (taken int, err error) {
	v.growing.Lock()
	defer v.growing.Unlock()
	t := v.trust.Load()
	before := len(t.sets)
	for _, signed := range sets {
		var next *trust
		if next, err = v.extended(t, signed); err != nil {
			break
		}
		t = next
	}
	v.trust.Store(t)
	return len(t.sets) - before, err
}

// extended returns t with one more set, or as it is when it has that already.
func (v *Verifier) extended(t *trust, signed *proxyv1.SignedKeySet) (*trust, error) {
	s, err := ParseKeySet(signed)
	if err != nil {
		return nil, err
	}
	newest := t.newest()
	if newest.Generation == 0 {
		if v.signedBy(signed.GetKeyId()) != v.pinned.id {
			return t, nil // it is before the first that the pinned key signed
		}
		return v.with(t, s)
	}
	switch known := int(s.Generation - t.sets[0].Generation); {
	case known < 0:
		return t, nil // it was passed over
	case known < len(t.sets):
		if t.sets[known].digest != s.digest {
			return nil, fmt.Errorf("%w: another one of generation %d is known", ErrKeySetFork, s.Generation)
		}
		return t, nil
	case known > len(t.sets):
		return nil, fmt.Errorf("key set: generation %d does not follow %d", s.Generation, newest.Generation)
	case s.previous != newest.digest:
		return nil, fmt.Errorf("%w: generation %d names another one before it", ErrKeySetFork, s.Generation)
	}
	return v.with(t, s)
}

// with returns t with a set after it, if a key of its newest has signed that.
func (v *Verifier) with(t *trust, s KeySet) (*trust, error) {
	signed := sealed{domain: keySetDomain, bytes: s.signed.GetSet(), signature: s.signed.GetSignature()}
	if err := t.verify(t.keys, v.signedBy(s.signed.GetKeyId()), signed); err != nil {
		return nil, fmt.Errorf("key set of generation %d: %w", s.Generation, err)
	}
	next := &trust{sets: append(slices.Clone(t.sets), s), keys: map[KeyID]PublicKey{}, all: map[KeyID]PublicKey{}}
	for _, k := range t.all {
		next.all[k.id] = k
	}
	for _, k := range s.keys {
		next.keys[k.id], next.all[k.id] = k, k
	}
	return next, nil
}

// sealed is a statement with its signature.
type sealed struct {
	domain           string
	bytes, signature []byte
}

// signedBy returns the key that a statement says it was signed with: the pinned
// one if it says nothing, as all did before there were others. No key has the
// zero ID.
func (v *Verifier) signedBy(id []byte) KeyID {
	if len(id) == 0 {
		return v.pinned.id
	}
	d, _ := ParseDigest(id)
	return KeyID(d)
}

// verify returns an error unless the key is among keys and has signed s.
func (t *trust) verify(keys map[KeyID]PublicKey, id KeyID, s sealed) error {
	if len(s.bytes) == 0 || len(s.bytes) > maxStatement || len(s.signature) > maxSignature {
		return ErrSignature
	}
	key, trusted := keys[id]
	if !trusted {
		if key, known := t.all[id]; known && key.verify(s.domain, s.bytes, s.signature) {
			return fmt.Errorf("%w: %s", ErrRetired, id.Short())
		}
		return fmt.Errorf("%w: key %s does not sign for the fleet", ErrSignature, id.Short())
	}
	if !key.verify(s.domain, s.bytes, s.signature) {
		return ErrSignature
	}
	return nil
}

func (v *Verifier) verify(domain string, b, signature, id []byte) (KeyID, error) {
	t, by := v.trust.Load(), v.signedBy(id)
	return by, t.verify(v.taken(t), by, sealed{domain, b, signature})
}

// VerifyHead returns the head if its signature verifies and its bytes are
// understood whole; ErrSignature if the signature does not verify.
func (v *Verifier) VerifyHead(signed *proxyv1.SignedHead) (Head, error) {
	head, err := v.verifyAlone(signed)
	if err != nil {
		return Head{}, err
	}
	if head.counts, err = v.verifyCounts(head.digest, signed); err != nil {
		return Head{}, fmt.Errorf("head: %w", err)
	}
	return head, nil
}

// verifyAlone is VerifyHead but for the counts, of which it says nothing.
func (v *Verifier) verifyAlone(signed *proxyv1.SignedHead) (Head, error) {
	b := signed.GetHead()
	key, err := v.verify(headDomain, b, signed.GetSignature(), signed.GetKeyId())
	if err != nil {
		return Head{}, fmt.Errorf("head: %w", err)
	}
	var m proxyv1.Head
	if err := unmarshalKnown(b, &m); err != nil {
		return Head{}, fmt.Errorf("head: %w", err)
	}
	root, ok := ParseDigest(m.GetRoot())
	previous, okPrevious := ParseDigest(m.GetPrevious())
	if !ok || !okPrevious && len(m.GetPrevious()) != 0 ||
		m.GetEpoch() < 1 || m.GetRevision() < 1 || m.GetEnvironment() == "" || m.GetDocuments() < 0 {
		return Head{}, errors.New("head: a field is missing or out of range")
	}
	return Head{
		Statement: Statement{
			Epoch:       Epoch(m.GetEpoch()),
			Environment: m.GetEnvironment(),
			Revision:    Revision(m.GetRevision()),
			Previous:    previous,
			Root:        root,
			Documents:   int(m.GetDocuments()),
		},
		digest: Digest(sha256.Sum256(b)),
		signed: signed,
		key:    key,
	}, nil
}

// VerifyFreshness returns the statement if its signature verifies and its
// bytes are understood whole; ErrSignature if the signature does not verify.
func (v *Verifier) VerifyFreshness(signed *proxyv1.SignedFreshness) (Freshness, error) {
	b := signed.GetStatement()
	if _, err := v.verify(freshnessDomain, b, signed.GetSignature(), signed.GetKeyId()); err != nil {
		return Freshness{}, fmt.Errorf("freshness: %w", err)
	}
	var m proxyv1.Freshness
	if err := unmarshalKnown(b, &m); err != nil {
		return Freshness{}, fmt.Errorf("freshness: %w", err)
	}
	digest, ok := ParseDigest(m.GetHeadDigest())
	if !ok || m.GetEpoch() < 1 || m.GetRevision() < 1 || m.GetEnvironment() == "" || m.GetIssuedAt().CheckValid() != nil {
		return Freshness{}, errors.New("freshness: a field is missing or out of range")
	}
	return Freshness{
		Epoch:       Epoch(m.GetEpoch()),
		Environment: m.GetEnvironment(),
		Revision:    Revision(m.GetRevision()),
		HeadDigest:  digest,
		IssuedAt:    m.GetIssuedAt().AsTime(),
	}, nil
}

// unmarshalKnown refuses fields that this build does not know: a statement
// that says more than is understood is not acted on.
func unmarshalKnown(b []byte, m proto.Message) error {
	if err := proto.Unmarshal(b, m); err != nil {
		return err
	}
	if len(m.ProtoReflect().GetUnknown()) > 0 {
		return errors.New("has a field that this build does not know")
	}
	return nil
}
