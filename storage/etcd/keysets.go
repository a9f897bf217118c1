package etcd

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

// PublishKeySets makes the key sets that v knows those that are there: what is missing or another one is written, what does not belong to them
// is removed. storage.ErrAhead if a later one is there that follows from them.
func (s *Store) PublishKeySets(ctx context.Context, v *snapshot.Verifier) error {
	there, found, err := s.readKeySets(ctx)
	if err != nil {
		return err
	}
	if err := keysAhead(v, found); err != nil {
		return err
	}
	ops, err := s.keySetOps(v.KeySets(), there)
	if err != nil {
		return err
	}
	for some := range slices.Chunk(ops, maxOps) {
		if _, err := s.commit(ctx, nil, some...); err != nil {
			return fmt.Errorf("write key sets: %w", err)
		}
	}
	return nil
}

// KeySets returns the key sets that are there, in the order of their generations.
// They are what anybody wrote who could; what cannot be parsed is passed over.
func (s *Store) KeySets(ctx context.Context) ([]*proxyv1.SignedKeySet, error) {
	_, sets, err := s.readKeySets(ctx)
	return sets, err
}

// readKeySets returns every value by its key, and those that can be parsed.
func (s *Store) readKeySets(ctx context.Context) (there map[string][]byte, sets []*proxyv1.SignedKeySet, err error) {
	there = map[string][]byte{}
	_, err = s.scan(ctx, s.keySetsKey(), func(kv *mvccpb.KeyValue) {
		there[string(kv.Key)] = kv.Value
		if set, err := parseKeySet(kv.Value); err == nil && len(sets) < snapshot.MaxGenerations {
			sets = append(sets, set)
		}
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read key sets: %w", err)
	}
	return there, sets, nil
}

// keysAhead returns storage.ErrAhead if sets lead further than v. What else is
// among them is nobody's.
func keysAhead(v *snapshot.Verifier, sets []*proxyv1.SignedKeySet) error {
	probe, known := v.Past(), v.Newest().Generation
	for _, set := range sets {
		if n, err := probe.Extend([]*proxyv1.SignedKeySet{set}); err == nil && n > 0 {
			return fmt.Errorf("%w: there is the key set of generation %d, known is %d", storage.ErrAhead, probe.Newest().Generation, known)
		}
	}
	return nil
}

// keySetOps returns what makes there the sets.
func (s *Store) keySetOps(sets []snapshot.KeySet, there map[string][]byte) ([]clientv3.Op, error) {
	var ops []clientv3.Op
	for _, set := range sets {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(set.Signed())
		if err != nil {
			return nil, fmt.Errorf("marshal key set: %w", err)
		}
		key := s.keySetKey(set.Generation)
		if !bytes.Equal(there[key], b) {
			ops = append(ops, clientv3.OpPut(key, string(b)))
		}
		delete(there, key)
	}
	for key := range there {
		ops = append(ops, clientv3.OpDelete(key))
	}
	return ops, nil
}

func parseKeySet(b []byte) (*proxyv1.SignedKeySet, error) {
	if len(b) > maxStatement {
		return nil, fmt.Errorf("key set of %d bytes", len(b))
	}
	var set proxyv1.SignedKeySet
	if err := proto.Unmarshal(b, &set); err != nil {
		return nil, fmt.Errorf("parse key set: %w", err)
	}
	return &set, nil
}
