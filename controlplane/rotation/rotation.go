// Package rotation changes which keys sign for the fleet, one step at a time, so
// that no proxy is left behind.
package rotation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

// minPrefix is how much of an ID has to be given.
const minPrefix = 8

// Store is the part of the store that changing keys needs.
type Store interface {
	storage.KeySets
	Heads(ctx context.Context) ([]storage.EnvironmentHead, error)
	// Proxies is that of storage.Fleet.
	Proxies(ctx context.Context, environment string, after storage.Proxy, limit int) ([]storage.Proxy, error)
}

// Published tells which key sets are distributed. None of it is verified.
type Published interface {
	KeySets(ctx context.Context) ([]*proxyv1.SignedKeySet, error)
}

// Config is what Keys need. All fields but Now are required; Published is for Adopt alone.
type Config struct {
	Store     Store
	Published Published
	// Signer signs the next set.
	Signer *snapshot.Signer
	// Verifier has the key pinned that proxies pin. It learns of the sets in the
	// store.
	Verifier *snapshot.Verifier
	// Caller is who changes keys, for the audit.
	Caller string
	Now    func() time.Time // time.Now when nil
}

// Keys are the keys that sign for a fleet. They are not safe for concurrent use; two
// who change keys at once get a conflict.
type Keys struct{ cfg Config }

// New returns Keys that have read nothing.
func New(c Config) *Keys {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Keys{c}
}

// Key is a key that signs for the fleet.
type Key struct {
	snapshot.PublicKey
	// Heads are the environments whose newest head it has signed, @security among
	// them.
	Heads []string
	// Ours says that it is the signer's.
	Ours bool
}

// State is which keys sign.
type State struct {
	Generation snapshot.Generation // 0: the pinned key alone
	Keys       []Key
}

// State returns which keys sign now.
func (k *Keys) State(ctx context.Context) (State, error) {
	set, keys, err := k.read(ctx)
	if err != nil {
		return State{}, err
	}
	heads, err := k.cfg.Store.Heads(ctx)
	if err != nil {
		return State{}, fmt.Errorf("read heads: %w", err)
	}
	s := State{Generation: set.Generation}
	for _, public := range keys {
		key := Key{PublicKey: public, Ours: public.ID() == k.cfg.Signer.Public().ID()}
		for _, h := range heads {
			if h.Signed != nil && k.signed(h.Signed) == public.ID() {
				key.Heads = append(key.Heads, h.Environment)
			}
		}
		s.Keys = append(s.Keys, key)
	}
	return s, nil
}

// signed returns the key that a recorded head was signed with; zero if it was not.
func (k *Keys) signed(h *proxyv1.SignedHead) snapshot.KeyID {
	head, err := k.cfg.Verifier.Past().VerifyHead(h)
	if err != nil {
		return snapshot.KeyID{}
	}
	return head.Key()
}

// read returns the newest set and its keys.
func (k *Keys) read(ctx context.Context) (snapshot.KeySet, []snapshot.PublicKey, error) {
	sets, err := k.cfg.Store.KeySets(ctx, 0)
	if err != nil {
		return snapshot.KeySet{}, nil, fmt.Errorf("read key sets: %w", err)
	}
	if _, err := k.cfg.Verifier.Extend(sets); err != nil {
		return snapshot.KeySet{}, nil, fmt.Errorf("key sets in the database: %w", err)
	}
	newest := k.cfg.Verifier.Newest()
	switch {
	case newest.Generation == 0 && len(sets) > 0:
		return newest, nil, errors.New("the key sets in the database do not follow from the root public key: is root_public_key_file what proxies pin?")
	case newest.Generation == 0:
		return newest, []snapshot.PublicKey{k.cfg.Verifier.Pinned()}, nil
	}
	return newest, newest.Keys(), nil
}

// Add has a key sign for the fleet, beside those that do. A key that was retired
// does not come back. Unless forced it refuses while proxies are connected whose build
// does not follow key sets: they would take nothing any more that the key has signed.
func (k *Keys) Add(ctx context.Context, key snapshot.PublicKey, forced bool) (snapshot.KeySet, error) {
	newest, keys, err := k.read(ctx)
	if err != nil {
		return snapshot.KeySet{}, err
	}
	switch {
	case slices.ContainsFunc(keys, func(o snapshot.PublicKey) bool { return o.ID() == key.ID() }):
		return snapshot.KeySet{}, fmt.Errorf("key %s signs already", key.ID().Short())
	case k.cfg.Verifier.Past().Trusts(key.ID()):
		return snapshot.KeySet{}, fmt.Errorf("key %s was retired: make another", key.ID().Short())
	case len(keys) == snapshot.MaxKeys:
		return snapshot.KeySet{}, fmt.Errorf("%d keys sign, which is the most: retire one first", len(keys))
	}
	if !forced {
		if err := k.followed(ctx); err != nil {
			return snapshot.KeySet{}, err
		}
	}
	return k.append(ctx, newest, append(keys, key), "add signing key", key.ID())
}

// Retire has a key, named by the beginning of its ID, sign no more. Unless forced it
// refuses while newest heads are signed with it, which new proxies could not take
// then. The key that signs the set has to stay.
func (k *Keys) Retire(ctx context.Context, prefix string, forced bool) (snapshot.KeySet, error) {
	newest, keys, err := k.read(ctx)
	if err != nil {
		return snapshot.KeySet{}, err
	}
	key, err := find(keys, prefix)
	if err != nil {
		return snapshot.KeySet{}, err
	}
	if key.ID() == k.cfg.Signer.Public().ID() {
		return snapshot.KeySet{}, fmt.Errorf("key %s is the one of these settings: retire it with the key that stays", key.ID().Short())
	}
	if !forced {
		if err := k.unused(ctx, key.ID()); err != nil {
			return snapshot.KeySet{}, err
		}
	}
	rest := slices.DeleteFunc(keys, func(o snapshot.PublicKey) bool { return o.ID() == key.ID() })
	return k.append(ctx, newest, rest, "retire signing key", key.ID())
}

// unused returns an error while the key has signed newest heads.
func (k *Keys) unused(ctx context.Context, id snapshot.KeyID) error {
	state, err := k.State(ctx)
	if err != nil {
		return err
	}
	for _, key := range state.Keys {
		if key.ID() == id && len(key.Heads) > 0 {
			return fmt.Errorf("the newest heads of %s are signed with key %s: start a replica with a key that stays, and wait until it has signed them again",
				strings.Join(key.Heads, ", "), id.Short())
		}
	}
	return nil
}

// find returns the one key whose ID begins so.
func find(keys []snapshot.PublicKey, prefix string) (snapshot.PublicKey, error) {
	if len(prefix) < minPrefix {
		return snapshot.PublicKey{}, fmt.Errorf("%q: give at least %d characters of the key's ID", prefix, minPrefix)
	}
	var found []snapshot.PublicKey
	for _, k := range keys {
		if strings.HasPrefix(k.ID().String(), strings.ToLower(prefix)) {
			found = append(found, k)
		}
	}
	if len(found) != 1 {
		return snapshot.PublicKey{}, fmt.Errorf("%d keys that sign begin with %q", len(found), prefix)
	}
	return found[0], nil
}

// append signs the next set and makes it the newest. It is signed before anything is
// locked: a key in hardware may take its time.
func (k *Keys) append(ctx context.Context, newest snapshot.KeySet, keys []snapshot.PublicKey, action string, id snapshot.KeyID) (snapshot.KeySet, error) {
	if ours := k.cfg.Signer.Public().ID(); !k.cfg.Verifier.Trusts(ours) {
		return snapshot.KeySet{}, fmt.Errorf("key %s of these settings does not sign for the fleet: use settings with one that does", ours.Short())
	}
	next, err := k.cfg.Signer.SignKeySet(newest, keys...)
	if err != nil {
		return snapshot.KeySet{}, err
	}
	detail := fmt.Sprintf("key %s, generation %d, signed with key %s", id, next.Generation, k.cfg.Signer.Public().ID())
	err = k.cfg.Store.AppendKeySet(ctx, next, storage.AuditEntry{Caller: k.cfg.Caller, Action: action, Allowed: true, Detail: detail})
	if err != nil {
		return snapshot.KeySet{}, fmt.Errorf("record key set: %w", err)
	}
	if _, err := k.cfg.Verifier.Extend([]*proxyv1.SignedKeySet{next.Signed()}); err != nil {
		return snapshot.KeySet{}, err
	}
	return next, nil
}
