package rotation

import (
	"context"
	"errors"
	"fmt"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

// Adopt takes the key sets that are distributed and that the database does not have,
// as after it was restored to a time before a rotation. Each is signed with a key of
// the one before it, but the last key that the database knows of may have leaked
// since: who calls it has to name all keys that sign in the end, by the beginnings of
// their IDs.
func (k *Keys) Adopt(ctx context.Context, prefixes []string) error {
	newest, _, err := k.read(ctx)
	if err != nil {
		return err
	}
	lost, err := k.lost(ctx, newest.Generation)
	if err != nil {
		return err
	}
	if err := only(lost[len(lost)-1].Keys(), prefixes); err != nil {
		return err
	}
	for _, set := range lost {
		detail := fmt.Sprintf("generation %d, signed with key %x", set.Generation, set.Signed().GetKeyId())
		entry := storage.AuditEntry{Caller: k.cfg.Caller, Action: "adopt key set", Allowed: true, Detail: detail}
		if err := k.cfg.Store.AppendKeySet(ctx, set, entry); err != nil {
			return fmt.Errorf("record key set of generation %d: %w", set.Generation, err)
		}
		if _, err := k.cfg.Verifier.Extend([]*proxyv1.SignedKeySet{set.Signed()}); err != nil {
			return err
		}
	}
	return nil
}

// lost returns the sets after a generation that are distributed; at least one.
func (k *Keys) lost(ctx context.Context, after snapshot.Generation) ([]snapshot.KeySet, error) {
	found, err := k.cfg.Published.KeySets(ctx)
	if err != nil {
		return nil, fmt.Errorf("read what is distributed: %w", err)
	}
	probe := k.cfg.Verifier.Past() // nothing is believed yet
	if _, err := probe.Extend(found); err != nil {
		return nil, fmt.Errorf("distributed key sets: %w", err)
	}
	var lost []snapshot.KeySet
	for _, set := range probe.KeySets() {
		if set.Generation > after {
			lost = append(lost, set)
		}
	}
	if len(lost) == 0 {
		return nil, fmt.Errorf("no later key set than generation %d is distributed", after)
	}
	return lost, nil
}

// only returns an error unless each key has one of the prefixes, and each prefix one
// of the keys.
func only(keys []snapshot.PublicKey, prefixes []string) error {
	named := map[snapshot.KeyID]bool{}
	for _, prefix := range prefixes {
		key, err := find(keys, prefix)
		if err != nil {
			return err
		}
		named[key.ID()] = true
	}
	var others []error
	for _, key := range keys {
		if !named[key.ID()] {
			others = append(others, fmt.Errorf("key %s (%s) would sign as well: name it too, if it is the fleet's", key.ID(), key.Type()))
		}
	}
	return errors.Join(others...)
}
