package proof

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/identity"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

const (
	keysDomain = "sallyport keys v1\x00"
	// maxKeys bounds a KeyStatement, in bytes.
	maxKeys = 4096
)

// Keys are what a proxy process has made for itself.
type Keys struct {
	SPIFFEID, Instance string
	Ack                []byte // Ed25519, with which it signs what it acknowledges
	Sealing            []byte // X25519, to which secrets are sealed; empty for none
}

// Bind binds keys to an SVID, whose SPIFFE ID has to be theirs. It fails if the SVID
// cannot sign, or if nobody would read what comes of it.
func Bind(k Keys, by identity.SVID) (*proxyv1.KeyBinding, error) {
	chain := by.Chain()
	if len(chain) > identity.MaxChain {
		return nil, fmt.Errorf("bind keys: the svid has %d bytes, at most %d are read", len(chain), identity.MaxChain)
	}
	digest := sha256.Sum256(chain)
	statement, err := proto.MarshalOptions{Deterministic: true}.Marshal(&proxyv1.KeyStatement{
		SpiffeId: k.SPIFFEID, Instance: k.Instance, AckKey: k.Ack, SealingKey: k.Sealing, ChainDigest: digest[:],
	})
	if err != nil {
		return nil, fmt.Errorf("bind keys: %w", err)
	}
	signature, err := by.Sign(append([]byte(keysDomain), statement...))
	if err != nil {
		return nil, fmt.Errorf("bind keys: %w", err)
	}
	return &proxyv1.KeyBinding{Statement: statement, Signature: signature, Chain: chain}, nil
}

// SVIDs verifies what was signed with SVIDs, as identity.Source.Signed does.
type SVIDs interface {
	Signed(chain, message, signature []byte) (identity.ID, error)
}

// OpenBinding returns whose keys a binding proves them to be, at this moment.
func OpenBinding(b *proxyv1.KeyBinding, svids SVIDs) (Keys, error) {
	statement := b.GetStatement()
	if len(statement) == 0 || len(statement) > maxKeys {
		return Keys{}, errors.New("statement of keys: it is empty or too large")
	}
	id, err := svids.Signed(b.GetChain(), append([]byte(keysDomain), statement...), b.GetSignature())
	if err != nil {
		return Keys{}, fmt.Errorf("statement of keys: %w", err)
	}
	var m proxyv1.KeyStatement
	if err := proto.Unmarshal(statement, &m); err != nil {
		return Keys{}, fmt.Errorf("statement of keys: %w", err)
	}
	digest := sha256.Sum256(b.GetChain())
	switch {
	case len(m.ProtoReflect().GetUnknown()) > 0:
		return Keys{}, errors.New("statement of keys: has a field that this build does not know")
	case m.GetSpiffeId() != string(id):
		return Keys{}, fmt.Errorf("statement of keys: it is signed with the svid of %s", id)
	case !bytes.Equal(m.GetChainDigest(), digest[:]):
		return Keys{}, errors.New("statement of keys: it is about another svid")
	case m.GetInstance() == "", len(m.GetAckKey()) != ed25519.PublicKeySize:
		return Keys{}, errors.New("statement of keys: a field is missing or out of range")
	}
	return Keys{m.GetSpiffeId(), m.GetInstance(), m.GetAckKey(), m.GetSealingKey()}, nil
}
