package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
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

// Publish makes snap the snapshot of its environment: missing or damaged
// chunks first, then the head, if nobody wrote one since. What is there already
// is not written again. A head that is there but is not signed, or is older, is
// overwritten; chunks that neither it nor the new one needs are removed.
// storage.ErrAhead if the head that is there is later, or another one for the
// same place in history; ErrRaced.
func (s *Store) Publish(ctx context.Context, v *snapshot.Verifier, snap *snapshot.Snapshot) error {
	environment := snap.Head().Environment
	there, err := s.look(ctx, environment)
	if err != nil {
		return err
	}
	if head, err := v.VerifyHead(there.head.GetHead()); err == nil && head.Environment == environment && ahead(head, snap.Head()) {
		return fmt.Errorf("%w: there is epoch %d revision %d, head %s", storage.ErrAhead, head.Epoch, head.Revision, head.Digest().Short())
	}
	next, err := s.writeChunks(ctx, snap, there)
	if err != nil {
		return err
	}
	if proto.Equal(there.head, next) {
		return nil
	}
	failpoint.Hit("publish.chunks")
	written, err := s.swapHead(ctx, environment, there.revision, next)
	if err != nil {
		return err
	}
	failpoint.Hit("publish.head")
	return s.sweep(ctx, environment, written, there, next)
}

// ahead reports whether what is published must not be replaced by next.
func ahead(published, next snapshot.Head) bool {
	return published.NewerThan(next) || published.Position() == next.Position() && published.Digest() != next.Digest()
}

// published is what etcd holds of an environment.
type published struct {
	head     *distributionv1.PublishedHead // empty if there is none that can be read
	revision int64                         // that wrote the head; 0 without one
	parts    map[string]int64              // keys of parts of chunks, and the revisions that wrote them
}

// look reads, linearizably and as of one moment, what etcd holds of an
// environment.
func (s *Store) look(ctx context.Context, environment string) (published, error) {
	r, err := s.commit(ctx, nil,
		clientv3.OpGet(s.environmentKey(environment, headName)),
		clientv3.OpGet(s.chunksKey(environment), clientv3.WithPrefix(), clientv3.WithKeysOnly()))
	if err != nil {
		return published{}, fmt.Errorf("look at %s: %w", environment, err)
	}
	p := published{head: &distributionv1.PublishedHead{}, parts: map[string]int64{}}
	for _, kv := range r.Responses[0].GetResponseRange().GetKvs() {
		p.revision = kv.ModRevision
		if p.head, err = parseHead(kv.Value); err != nil {
			s.log.WarnContext(ctx, "head in etcd could not be read", "environment", environment, "err", err)
			p.head = &distributionv1.PublishedHead{}
		}
	}
	for _, kv := range r.Responses[1].GetResponseRange().GetKvs() {
		p.parts[string(kv.Key)] = kv.ModRevision
	}
	return p, nil
}

func parseHead(b []byte) (*distributionv1.PublishedHead, error) {
	if len(b) > maxStatement {
		return nil, fmt.Errorf("head of %d bytes", len(b))
	}
	var h distributionv1.PublishedHead
	if err := proto.Unmarshal(b, &h); err != nil {
		return nil, fmt.Errorf("parse head: %w", err)
	}
	return &h, nil
}

// Heads returns the heads that are published and signed, each under the
// environment that it is of. Everything else is passed over.
func (s *Store) Heads(ctx context.Context, v *snapshot.Verifier) ([]snapshot.Head, error) {
	var heads []snapshot.Head
	_, err := s.scan(ctx, s.environmentsKey(), func(kv *mvccpb.KeyValue) {
		environment, name, ok := s.parseKey(kv.Key)
		if !ok || name != headName {
			return
		}
		p, err := parseHead(kv.Value)
		if err != nil {
			return
		}
		if head, err := v.VerifyHead(p.GetHead()); err == nil && head.Environment == environment {
			heads = append(heads, head)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read heads: %w", err)
	}
	return heads, nil
}

func (s *Store) swapHead(ctx context.Context, environment string, from int64, next *distributionv1.PublishedHead) (written int64, err error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(next)
	if err != nil {
		return 0, fmt.Errorf("marshal head: %w", err)
	}
	key := s.environmentKey(environment, headName)
	r, err := s.commit(ctx, unchanged(key, from), clientv3.OpPut(key, string(b)))
	if err != nil {
		return 0, fmt.Errorf("write head of %s: %w", environment, err)
	}
	if !r.Succeeded {
		return 0, fmt.Errorf("write head of %s: %w", environment, ErrRaced)
	}
	return r.Header.Revision, nil
}

func unchanged(key string, since int64) []clientv3.Cmp {
	return []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", since)}
}

// writeChunks writes the chunks that are not there, or not as they should be,
// and returns the head that names all of them.
func (s *Store) writeChunks(ctx context.Context, snap *snapshot.Snapshot, there published) (*distributionv1.PublishedHead, error) {
	environment := snap.Head().Environment
	head := &distributionv1.PublishedHead{Head: snap.Head().Signed()}
	w := &writer{store: s}
	for b := range snap.Set().Buckets() {
		parts := partsOf(b)
		head.Buckets = append(head.Buckets, &distributionv1.Bucket{
			Index:  uint32(b.Index), //nolint:gosec // below 256
			Digest: b.Digest[:],
			Parts:  uint32(parts), //nolint:gosec // bounded by the size of a snapshot
		})
		if s.seenWhole(environment, b, parts, there) {
			continue
		}
		chunk, err := encodeChunk(b)
		if err != nil {
			return nil, err
		}
		for i := range parts {
			part := chunk[i*maxPart : min(len(chunk), (i+1)*maxPart)]
			if err := s.ensure(ctx, w, s.partKey(environment, b.Digest, i), part, there); err != nil {
				return nil, err
			}
		}
	}
	return head, w.flush(ctx)
}

// seenWhole reports whether all parts of a chunk are there as they were when
// they were last seen with the right bytes.
func (s *Store) seenWhole(environment string, b snapshot.Bucket, parts int, there published) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range parts {
		key := s.partKey(environment, b.Digest, i)
		if revision, ok := there.parts[key]; !ok || s.whole[key] != revision {
			return false
		}
	}
	return true
}

// ensure writes a part unless it is there, byte for byte.
func (s *Store) ensure(ctx context.Context, w *writer, key string, part []byte, there published) error {
	if _, ok := there.parts[key]; !ok {
		return w.put(ctx, key, part)
	}
	r, err := s.get(ctx, key)
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	if len(r.Kvs) == 0 || !bytes.Equal(r.Kvs[0].Value, part) {
		return w.put(ctx, key, part)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.whole[key] = r.Kvs[0].ModRevision
	return nil
}

// writer puts several parts in one transaction, as large as etcd takes.
type writer struct {
	store *Store
	ops   []clientv3.Op
	size  int
}

// maxOps bounds a transaction; etcd refuses more than 128 operations.
const maxOps = 100

func (w *writer) put(ctx context.Context, key string, value []byte) error {
	if len(w.ops) == maxOps || w.size+len(value) > maxPart {
		if err := w.flush(ctx); err != nil {
			return err
		}
	}
	w.ops = append(w.ops, clientv3.OpPut(key, string(value)))
	w.size += len(value)
	return nil
}

func (w *writer) flush(ctx context.Context) error {
	if len(w.ops) == 0 {
		return nil
	}
	r, err := w.store.commit(ctx, nil, w.ops...)
	if err != nil {
		return fmt.Errorf("write %d parts of chunks: %w", len(w.ops), err)
	}
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	for _, op := range w.ops {
		w.store.whole[string(op.KeyBytes())] = r.Header.Revision
	}
	w.ops, w.size = nil, 0
	return nil
}

func chunkOf(b snapshot.Bucket) *distributionv1.Chunk {
	c := &distributionv1.Chunk{Documents: make([][]byte, len(b.Entries))}
	for i, e := range b.Entries {
		c.Documents[i] = e.Document
	}
	return c
}

// partsOf returns over how many values a chunk is spread.
func partsOf(b snapshot.Bucket) int {
	return (proto.Size(chunkOf(b)) + maxPart - 1) / maxPart
}

func encodeChunk(b snapshot.Bucket) ([]byte, error) {
	chunk, err := proto.MarshalOptions{Deterministic: true}.Marshal(chunkOf(b))
	if err != nil {
		return nil, fmt.Errorf("marshal chunk: %w", err)
	}
	return chunk, nil
}

// sweep removes the chunks that were there and that neither head names. Those
// of the one before stay, since a replica may be reading them. It stops with
// ErrRaced when another publisher has written a head since, which may need what
// it would remove.
func (s *Store) sweep(ctx context.Context, environment string, written int64, there published, next *distributionv1.PublishedHead) error {
	keep := map[string]bool{}
	for _, b := range slices.Concat(there.head.GetBuckets(), next.GetBuckets()) {
		if d, ok := snapshot.ParseDigest(b.GetDigest()); ok {
			keep[s.chunkKey(environment, d)] = true
		}
	}
	var garbage []string
	for key := range there.parts {
		if !keep[key[:strings.LastIndexByte(key, '/')+1]] {
			garbage = append(garbage, key)
		}
	}
	since := unchanged(s.environmentKey(environment, headName), written)
	for keys := range slices.Chunk(garbage, maxOps) {
		r, err := s.commit(ctx, since, s.remove(keys)...)
		if err == nil && !r.Succeeded {
			err = ErrRaced
		}
		if err != nil {
			return fmt.Errorf("remove old chunks of %s: %w", environment, err)
		}
	}
	return nil
}

func (s *Store) remove(keys []string) []clientv3.Op {
	s.mu.Lock()
	defer s.mu.Unlock()
	ops := make([]clientv3.Op, len(keys))
	for i, key := range keys {
		ops[i] = clientv3.OpDelete(key)
		delete(s.whole, key)
	}
	return ops
}

// PublishFreshness writes an environment's freshness statement.
func (s *Store) PublishFreshness(ctx context.Context, environment string, f *proxyv1.SignedFreshness) error {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(f)
	if err != nil {
		return fmt.Errorf("marshal freshness: %w", err)
	}
	key := s.environmentKey(environment, freshnessName)
	if _, err := s.commit(ctx, nil, clientv3.OpPut(key, string(b))); err != nil {
		return fmt.Errorf("write freshness of %s: %w", environment, err)
	}
	return nil
}
