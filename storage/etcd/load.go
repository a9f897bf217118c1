package etcd

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
)

// ErrIncomplete says that a chunk that a head names is not there, or is not
// what it should be. The publisher mends it.
var ErrIncomplete = errors.New("a chunk is missing or damaged")

// Load returns the snapshot of a published head, verified by v. Buckets that
// base has as well are taken from it; base may be nil.
func (s *Store) Load(ctx context.Context, v *snapshot.Verifier, base *snapshot.Set, published *distributionv1.PublishedHead) (*snapshot.Snapshot, error) {
	head, err := v.VerifyHead(published.GetHead())
	if err != nil {
		return nil, err
	}
	set, named := base, map[int]bool{}
	for _, b := range published.GetBuckets() {
		index := int(b.GetIndex())
		digest, ok := snapshot.ParseDigest(b.GetDigest())
		if !ok || index >= snapshot.BucketCount || named[index] || b.GetParts() < 1 || b.GetParts() > maxParts {
			return nil, fmt.Errorf("%w: the head names a bucket that cannot be", ErrIncomplete)
		}
		named[index] = true
		if base.BucketDigest(index) == digest {
			continue
		}
		entries, err := s.chunk(ctx, head.Environment, digest, int(b.GetParts()))
		if err != nil {
			return nil, err
		}
		if set = set.Replace(index, entries); set == nil || set.BucketDigest(index) != digest {
			return nil, fmt.Errorf("%w: bucket %d is not what its address says", ErrIncomplete, index)
		}
	}
	for index := range snapshot.BucketCount {
		if !named[index] && !set.BucketDigest(index).IsZero() {
			set = set.Replace(index, nil)
		}
	}
	return snapshot.Assemble(head, set)
}

func (s *Store) chunk(ctx context.Context, environment string, digest snapshot.Digest, parts int) ([]snapshot.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	var value []byte
	for i := range parts {
		r, err := s.client.Get(ctx, s.partKey(environment, digest, i), clientv3.WithSerializable())
		if err != nil {
			return nil, fmt.Errorf("read chunk of %s: %w", environment, err)
		}
		if len(r.Kvs) == 0 {
			return nil, fmt.Errorf("%w: %s of %s", ErrIncomplete, digest.Short(), environment)
		}
		value = append(value, r.Kvs[0].Value...)
	}
	var c distributionv1.Chunk
	if err := proto.Unmarshal(value, &c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	entries := make([]snapshot.Entry, len(c.GetDocuments()))
	for i, document := range c.GetDocuments() {
		e, err := snapshot.NewEntry(document)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrIncomplete, err)
		}
		entries[i] = e
	}
	return entries, nil
}
