package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/failpoint"
	"github.com/sallyport/sallyport/internal/snapshot"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

// ErrRaced says that another publisher wrote the head meanwhile.
var ErrRaced = errors.New("another publisher wrote the head")

// Publish makes snap the snapshot of its environment: missing chunks first,
// then the head, in one transaction that compares the revision it read. What
// is there already is not written again. Chunks that neither this head nor the
// one before it needs are removed. A head that is there but is not signed, or
// is older, is overwritten. storage.ErrAhead,
// ErrRaced.
func (s *Store) Publish(ctx context.Context, v *snapshot.Verifier, snap *snapshot.Snapshot) error {
	environment := snap.Head().Environment
	old, modRevision, err := s.head(ctx, environment)
	if err != nil {
		return err
	}
	if head, err := v.VerifyHead(old.GetHead()); err == nil && head.Environment == environment && head.NewerThan(snap.Head()) {
		return fmt.Errorf("%w: it has epoch %d revision %d", storage.ErrAhead, head.Epoch, head.Revision)
	}
	there, err := s.parts(ctx, environment)
	if err != nil {
		return err
	}
	if s.intact(old, snap, there) {
		return nil
	}
	next, err := s.writeChunks(ctx, snap, there)
	if err != nil {
		return err
	}
	failpoint.Hit("publish.chunks")
	if err := s.swapHead(ctx, environment, modRevision, next); err != nil {
		return err
	}
	failpoint.Hit("publish.head")
	return s.sweep(ctx, environment, there, old, next)
}

// intact reports whether published is the head of snap, names its buckets, and
// every part of them is there.
func (s *Store) intact(published *distributionv1.PublishedHead, snap *snapshot.Snapshot, there map[string]bool) bool {
	if !proto.Equal(published.GetHead(), snap.Head().Signed()) {
		return false
	}
	named := 0
	for b := range snap.Set().Buckets() {
		if named == len(published.GetBuckets()) {
			return false
		}
		p := published.GetBuckets()[named]
		if named++; int(p.GetIndex()) != b.Index || !bytes.Equal(p.GetDigest(), b.Digest[:]) || p.GetParts() < 1 || p.GetParts() > maxParts {
			return false
		}
		for i := range int(p.GetParts()) {
			if !there[s.partKey(snap.Head().Environment, b.Digest, i)] {
				return false
			}
		}
	}
	return named == len(published.GetBuckets())
}

// head reads the published head of an environment, linearizably. A value that
// is too large or cannot be parsed counts as an empty head, to be overwritten.
func (s *Store) head(ctx context.Context, environment string) (*distributionv1.PublishedHead, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	r, err := s.client.Get(ctx, s.headKey(environment))
	if err != nil {
		return nil, 0, fmt.Errorf("read head of %s: %w", environment, err)
	}
	if len(r.Kvs) == 0 {
		return &distributionv1.PublishedHead{}, 0, nil
	}
	head, err := parseHead(r.Kvs[0].Value)
	if err != nil {
		s.log.WarnContext(ctx, "head in etcd could not be read", "environment", environment, "err", err)
		head = &distributionv1.PublishedHead{}
	}
	return head, r.Kvs[0].ModRevision, nil
}

func parseHead(b []byte) (*distributionv1.PublishedHead, error) {
	if len(b) > maxHead {
		return nil, fmt.Errorf("head of %d bytes", len(b))
	}
	var h distributionv1.PublishedHead
	if err := proto.Unmarshal(b, &h); err != nil {
		return nil, fmt.Errorf("parse head: %w", err)
	}
	return &h, nil
}

func (s *Store) swapHead(ctx context.Context, environment string, modRevision int64, next *distributionv1.PublishedHead) error {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(next)
	if err != nil {
		return fmt.Errorf("marshal head: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	key := s.headKey(environment)
	r, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", modRevision)).
		Then(clientv3.OpPut(key, string(b))).
		Commit()
	if err != nil {
		return fmt.Errorf("write head of %s: %w", environment, err)
	}
	if !r.Succeeded {
		return fmt.Errorf("write head of %s: %w", environment, ErrRaced)
	}
	return nil
}

// writeChunks writes the chunks that are not there and returns the head that
// names all of them.
func (s *Store) writeChunks(ctx context.Context, snap *snapshot.Snapshot, there map[string]bool) (*distributionv1.PublishedHead, error) {
	environment := snap.Head().Environment
	head := &distributionv1.PublishedHead{Head: snap.Head().Signed()}
	for b := range snap.Set().Buckets() {
		chunk, err := encodeChunk(b)
		if err != nil {
			return nil, err
		}
		parts := slices.Collect(slices.Chunk(chunk, maxPart))
		for i, part := range parts {
			if key := s.partKey(environment, b.Digest, i); !there[key] {
				if err := s.put(ctx, key, part); err != nil {
					return nil, err
				}
			}
		}
		head.Buckets = append(head.Buckets, &distributionv1.Bucket{
			Index:  uint32(b.Index), //nolint:gosec // below 256
			Digest: b.Digest[:],
			Parts:  uint32(len(parts)), //nolint:gosec // bounded by the size of a snapshot
		})
	}
	return head, nil
}

func encodeChunk(b snapshot.Bucket) ([]byte, error) {
	c := &distributionv1.Chunk{Documents: make([][]byte, len(b.Entries))}
	for i, e := range b.Entries {
		c.Documents[i] = e.Document
	}
	chunk, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("marshal chunk: %w", err)
	}
	return chunk, nil
}

func (s *Store) put(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	if _, err := s.client.Put(ctx, key, string(value)); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

// parts returns the keys of all parts of chunks of an environment.
func (s *Store) parts(ctx context.Context, environment string) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	r, err := s.client.Get(ctx, s.chunksKey(environment), clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, fmt.Errorf("list chunks of %s: %w", environment, err)
	}
	keys := make(map[string]bool, len(r.Kvs))
	for _, kv := range r.Kvs {
		keys[string(kv.Key)] = true
	}
	return keys, nil
}

// sweep removes the chunks that were there and that neither head names. Those
// of the one before stay, since a replica may be reading them.
func (s *Store) sweep(ctx context.Context, environment string, there map[string]bool, old, next *distributionv1.PublishedHead) error {
	keep := map[string]bool{}
	for _, b := range slices.Concat(old.GetBuckets(), next.GetBuckets()) {
		if d, ok := snapshot.ParseDigest(b.GetDigest()); ok {
			keep[s.chunkKey(environment, d)] = true
		}
	}
	for key := range there {
		if keep[key[:strings.LastIndexByte(key, '/')+1]] {
			continue
		}
		if err := s.remove(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) remove(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	if _, err := s.client.Delete(ctx, key); err != nil {
		return fmt.Errorf("remove %s: %w", key, err)
	}
	return nil
}

// PublishFreshness writes an environment's freshness statement.
func (s *Store) PublishFreshness(ctx context.Context, environment string, f *proxyv1.SignedFreshness) error {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(f)
	if err != nil {
		return fmt.Errorf("marshal freshness: %w", err)
	}
	return s.put(ctx, s.freshnessKey(environment), b)
}
