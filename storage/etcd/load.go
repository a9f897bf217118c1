package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
)

var (
	// ErrIncomplete says that a chunk that a head names is not there, or is not
	// what it should be. The publisher mends it.
	ErrIncomplete = errors.New("a chunk is missing or damaged")
	// ErrBuckets says that a head is published with buckets that are not those
	// that it signs. The publisher mends it.
	ErrBuckets = errors.New("the buckets are not those that the head signs")
)

// loadAtOnce is how many chunks are read at the same time.
const loadAtOnce = 8

// Load returns the snapshot of a published head, verified by v. Buckets that
// base has as well are taken from it; base may be nil. Nothing is read for a
// head that is not signed, or whose buckets are not those that it signs.
// ErrIncomplete, ErrBuckets.
func (s *Store) Load(ctx context.Context, v *snapshot.Verifier, base *snapshot.Set, published *distributionv1.PublishedHead) (*snapshot.Snapshot, error) {
	head, err := v.VerifyHead(published.GetHead())
	if err != nil {
		return nil, err
	}
	named, err := parseBuckets(published.GetBuckets(), head)
	if err != nil {
		return nil, err
	}
	set := base
	for index := range snapshot.BucketCount {
		if _, ok := named[index]; !ok && !set.BucketDigest(index).IsZero() {
			set = set.Replace(index, nil)
		}
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(loadAtOnce)
	for index, b := range named {
		if base.BucketDigest(index) == b.digest {
			continue
		}
		g.Go(func() error {
			entries, err := s.chunk(ctx, head.Environment, b)
			if err != nil {
				return err
			}
			share(entries, base)
			mu.Lock()
			defer mu.Unlock()
			next := set.Replace(index, entries)
			if next.BucketDigest(index) != b.digest {
				return fmt.Errorf("%w: bucket %d is not what its address says", ErrIncomplete, index)
			}
			set = next
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return snapshot.Assemble(head, set)
}

// Snapshot returns what is published of an environment, verified by v; nil
// without a head that is signed and of that environment. ErrIncomplete,
// ErrBuckets, and then with the head alone.
func (s *Store) Snapshot(ctx context.Context, v *snapshot.Verifier, environment string) (snapshot.Head, *snapshot.Snapshot, error) {
	there, err := s.look(ctx, environment)
	if err != nil {
		return snapshot.Head{}, nil, err
	}
	head, err := v.VerifyHead(there.head.GetHead())
	if err != nil || head.Environment != environment {
		return snapshot.Head{}, nil, nil //nolint:nilerr // documented: there is none
	}
	snap, err := s.Load(ctx, v, nil, there.head)
	return head, snap, err
}

// share has entries that base has as well be those of base, so that snapshots that
// follow each other hold a document once.
func share(entries []snapshot.Entry, base *snapshot.Set) {
	for i, e := range entries {
		if there, ok := base.Lookup(e.Key); ok && there.Digest == e.Digest {
			entries[i] = there
		}
	}
}

// bucket is where a chunk is.
type bucket struct {
	digest snapshot.Digest
	parts  int
}

// parseBuckets returns the buckets by index, if they are those that head signs.
func parseBuckets(buckets []*distributionv1.Bucket, head snapshot.Head) (map[int]bucket, error) {
	var digests [snapshot.BucketCount]snapshot.Digest
	named, parts := map[int]bucket{}, 0
	for _, b := range buckets {
		digest, ok := snapshot.ParseDigest(b.GetDigest())
		if !ok || b.GetIndex() >= snapshot.BucketCount || b.GetParts() < 1 {
			return nil, fmt.Errorf("%w: one of them cannot be", ErrBuckets)
		}
		index := int(b.GetIndex())
		if _, twice := named[index]; twice {
			return nil, fmt.Errorf("%w: bucket %d is named twice", ErrBuckets, index)
		}
		named[index] = bucket{digest: digest, parts: int(b.GetParts())}
		digests[index], parts = digest, parts+int(b.GetParts())
	}
	if snapshot.RootOfBuckets(&digests) != head.Root || parts > snapshot.BucketCount+maxParts {
		return nil, ErrBuckets
	}
	return named, nil
}

func (s *Store) chunk(ctx context.Context, environment string, b bucket) ([]snapshot.Entry, error) {
	var value []byte
	for i := range b.parts {
		part, err := s.part(ctx, s.partKey(environment, b.digest, i))
		if err != nil {
			return nil, fmt.Errorf("read chunk %s of %s: %w", b.digest.Short(), environment, err)
		}
		value = append(value, part...)
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

// part reads a value from the nearest member; from the quorum if that does not
// have it yet.
func (s *Store) part(ctx context.Context, key string) ([]byte, error) {
	for _, options := range [][]clientv3.OpOption{{clientv3.WithSerializable()}, nil} {
		r, err := s.get(ctx, key, options...)
		if err != nil {
			return nil, err
		}
		if len(r.Kvs) > 0 {
			return r.Kvs[0].Value, nil
		}
	}
	return nil, ErrIncomplete
}
