package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/snapshot"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
	"github.com/sallyport/sallyport/storage"
)

const (
	// rosterEnvironment stands where the name of an environment does, and is none.
	rosterEnvironment = "@roster"
	statementName     = "statement"
	bodyName          = "body"
	// MaxRoster bounds the body of a roster; etcd refuses requests above 1.5 MiB.
	MaxRoster = 1 << 20
)

// PublishRoster makes body, which signed names, the roster that is there, if nobody
// has written one since. What is there already is not written again.
// storage.ErrAhead if a later one is there, verified by v; ErrRaced.
func (s *Store) PublishRoster(ctx context.Context, v *snapshot.Verifier, signed *distributionv1.SignedRoster, body []byte) error {
	next, err := v.VerifyRoster(signed)
	if err != nil {
		return err
	}
	statement, err := proto.MarshalOptions{Deterministic: true}.Marshal(signed)
	if err != nil {
		return fmt.Errorf("marshal roster: %w", err)
	}
	statementKey, bodyKey := s.environmentKey(rosterEnvironment, statementName), s.environmentKey(rosterEnvironment, bodyName)
	r, err := s.commit(ctx, nil, clientv3.OpGet(statementKey), clientv3.OpGet(bodyKey))
	if err != nil {
		return fmt.Errorf("look at the roster: %w", err)
	}
	since := int64(0)
	for _, kv := range r.Responses[0].GetResponseRange().GetKvs() {
		since = kv.ModRevision
		if err := rosterAhead(v, kv.Value, next); err != nil {
			return err
		}
	}
	ops := []clientv3.Op{clientv3.OpPut(statementKey, string(statement))}
	if kvs := r.Responses[1].GetResponseRange().GetKvs(); len(kvs) == 0 || !bytes.Equal(kvs[0].Value, body) {
		ops = append(ops, clientv3.OpPut(bodyKey, string(body)))
	}
	switch r, err := s.commit(ctx, unchanged(statementKey, since), ops...); {
	case err != nil:
		return fmt.Errorf("write roster: %w", err)
	case !r.Succeeded:
		return fmt.Errorf("write roster: %w", ErrRaced)
	}
	return nil
}

// errNobody says that nobody is elected.
var errNobody = errors.New("nobody is elected")

// LeaderKey returns the key by which the publisher is elected. It has the lease of the
// publisher in it, so that no other etcd has the same.
func (s *Store) LeaderKey(ctx context.Context) (string, error) {
	r, err := s.get(ctx, s.electionKey()+"/", append(clientv3.WithFirstCreate(), clientv3.WithKeysOnly())...)
	if err != nil {
		return "", fmt.Errorf("look for who is elected: %w", err)
	}
	if len(r.Kvs) == 0 {
		return "", errNobody
	}
	return string(r.Kvs[0].Key), nil
}

// Has reports whether there is a key. What may not be read is as if it were not there.
func (s *Store) Has(ctx context.Context, key string) (bool, error) {
	r, err := s.get(ctx, key, clientv3.WithCountOnly())
	switch {
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look for a key: %w", err)
	}
	return r.Count > 0, nil
}

// rosterAhead returns storage.ErrAhead if what is there is signed, and must not be
// replaced by next.
func rosterAhead(v *snapshot.Verifier, there []byte, next snapshot.Roster) error {
	signed, err := parseRoster(there)
	if err != nil {
		return nil //nolint:nilerr // nobody's: it is overwritten
	}
	if old, err := v.VerifyRoster(signed); err == nil && old.NewerThan(next) {
		return fmt.Errorf("%w: there is the roster of epoch %d sequence %d, this one is of %d, %d",
			storage.ErrAhead, old.Epoch, old.Sequence, next.Epoch, next.Sequence)
	}
	return nil
}

func parseRoster(b []byte) (*distributionv1.SignedRoster, error) {
	if len(b) > maxStatement {
		return nil, fmt.Errorf("statement of the roster of %d bytes", len(b))
	}
	var signed distributionv1.SignedRoster
	if err := proto.Unmarshal(b, &signed); err != nil {
		return nil, fmt.Errorf("parse statement of the roster: %w", err)
	}
	return &signed, nil
}

// roster is what a Feed has of it. It needs the Feed's mutex, but for changed.
type roster struct {
	signed  *distributionv1.SignedRoster
	body    []byte
	changed chan struct{}
}

// Roster returns the newest statement about the roster, nil for none, and the newest
// body, which may not be the one that the statement is about. Neither is verified,
// and neither is to be changed.
func (f *Feed) Roster() (*distributionv1.SignedRoster, []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.roster.signed, f.roster.body
}

// RosterChanged receives after Roster has changed. It is for one receiver, and carries
// no data.
func (f *Feed) RosterChanged() <-chan struct{} { return f.roster.changed }

// isRoster reports whether a key is of the roster.
func (s *Store) isRoster(key []byte) bool {
	return string(key) == s.environmentKey(rosterEnvironment, statementName) || string(key) == s.environmentKey(rosterEnvironment, bodyName)
}

// takeRoster keeps a value of the roster.
func (f *Feed) takeRoster(kv *mvccpb.KeyValue) error {
	if string(kv.Key) == f.store.environmentKey(rosterEnvironment, bodyName) {
		if len(kv.Value) > MaxRoster {
			return fmt.Errorf("roster of %d bytes", len(kv.Value))
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.roster.body = kv.Value
		return nil
	}
	signed, err := parseRoster(kv.Value)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.roster.signed = signed
	return nil
}
