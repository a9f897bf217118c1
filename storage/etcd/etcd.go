// Package etcd keeps what is distributed: for each environment the chunks of
// its snapshot, a signed head and a freshness statement, and it elects the
// publisher.
//
// Nothing read from etcd is believed. Heads carry signatures, chunks are
// addressed by digests that the head's root covers, and all of it can be
// deleted at any time: the publisher writes it again. Key sets lie among what is
// watched, so that a replica gets them in order, before what they sign.
//
// What replicas watch lies apart from the chunks, so that a watch carries no
// chunk that it did not ask for:
//
//	/env/ENV/head
//	/env/ENV/freshness
//	/env/@keys/GENERATION
//	/env/@roster/statement
//	/env/@roster/body
//	/chunk/ENV/DIGEST/PART
//	/leader/...
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

const (
	// DefaultPrefix is below which everything lies.
	DefaultPrefix = "/sallyport/v1"

	// opTimeout bounds one operation: clientv3 gives no clean error for a
	// server that refuses it, and retries until its deadline.
	opTimeout = 5 * time.Second
	// maxPart bounds one value; etcd refuses requests above 1.5 MiB.
	maxPart = 1 << 20
	// maxStatement bounds a freshness statement and a published head, which
	// names at most 256 buckets.
	maxStatement = 64 << 10
	// maxParts bounds the values that full chunks take.
	maxParts = snapshot.MaxBytes/maxPart + 8
	// page is how many keys are read at once.
	page = 500
)

// Config is what a Store needs. Endpoints and Log are required.
type Config struct {
	Endpoints []string
	TLS       *tls.Config // none when nil
	Prefix    string      // DefaultPrefix when empty
	Log       *slog.Logger
}

// Store reads and writes one etcd cluster. It is safe for concurrent use.
type Store struct {
	client *clientv3.Client
	prefix string
	log    *slog.Logger

	mu sync.Mutex
	// whole holds the keys of parts of chunks that were seen, or written, with
	// the right bytes, and the revision of etcd that these have been there
	// since: as long as it is that one they need not be read again.
	whole map[string]int64
}

// New returns a store. It does not wait for a connection; operations fail
// while there is none.
func New(c Config) (*Store, error) {
	switch {
	case len(c.Endpoints) == 0:
		return nil, errors.New("etcd: no endpoints")
	case c.Log == nil:
		return nil, errors.New("etcd: no logger")
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            c.Endpoints,
		TLS:                  c.TLS,
		DialTimeout:          opTimeout,
		DialKeepAliveTime:    10 * time.Second, // the least that gRPC allows
		DialKeepAliveTimeout: 3 * time.Second,
		MaxCallRecvMsgSize:   64 << 20,
		// Left to itself, gRPC leaves a member that was away for long alone for
		// two minutes more.
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: shortestWait, Multiplier: 1.6, Jitter: 0.2, MaxDelay: longestWait},
			MinConnectTimeout: opTimeout,
		})},
		Logger: zap.NewNop(), // its errors are returned, and logged by whoever copes
	})
	if err != nil {
		return nil, fmt.Errorf("etcd client: %w", err)
	}
	prefix := c.Prefix
	if prefix == "" {
		prefix = DefaultPrefix
	}
	return &Store{
		client: client,
		prefix: strings.TrimSuffix(prefix, "/"),
		log:    c.Log,
		whole:  map[string]int64{},
	}, nil
}

// Close ends the connection.
func (s *Store) Close() error { return s.client.Close() }

// What replicas watch about an environment.
const (
	headName      = "head"
	freshnessName = "freshness"
	// keysEnvironment stands where that of an environment does, and is none.
	keysEnvironment = "@keys"
)

func (s *Store) environmentsKey() string { return s.prefix + "/env/" }

func (s *Store) environmentKey(environment, name string) string {
	return s.environmentsKey() + environment + "/" + name
}

// parseKey is the reverse of environmentKey.
func (s *Store) parseKey(key []byte) (environment, name string, ok bool) {
	rest, ok := strings.CutPrefix(string(key), s.environmentsKey())
	if !ok {
		return "", "", false
	}
	environment, name, ok = strings.Cut(rest, "/")
	return environment, name, ok && environment != "" && environment != keysEnvironment && (name == headName || name == freshnessName)
}

func (s *Store) keySetsKey() string { return s.environmentsKey() + keysEnvironment + "/" }

func (s *Store) keySetKey(g snapshot.Generation) string {
	return fmt.Sprintf("%s%06d", s.keySetsKey(), g)
}

// parseKeySetKey is the reverse of keySetKey.
func (s *Store) parseKeySetKey(key []byte) (snapshot.Generation, bool) {
	rest, ok := strings.CutPrefix(string(key), s.keySetsKey())
	n, err := strconv.ParseInt(rest, 10, 64)
	g := snapshot.Generation(n)
	return g, ok && err == nil && n >= 1 && n <= snapshot.MaxGenerations && s.keySetKey(g) == string(key)
}

func (s *Store) chunksKey(environment string) string {
	return s.prefix + "/chunk/" + environment + "/"
}

func (s *Store) chunkKey(environment string, d snapshot.Digest) string {
	return s.chunksKey(environment) + d.String() + "/"
}

func (s *Store) partKey(environment string, d snapshot.Digest, part int) string {
	return fmt.Sprintf("%s%04d", s.chunkKey(environment, d), part)
}

func (s *Store) electionKey() string { return s.prefix + "/leader" }

// scan calls take with every key below a prefix, a page at a time, and returns
// etcd's revision as of the first page.
func (s *Store) scan(ctx context.Context, prefix string, take func(*mvccpb.KeyValue), options ...clientv3.OpOption) (revision int64, err error) {
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	for {
		r, err := s.get(ctx, from, append(options, clientv3.WithRange(end), clientv3.WithLimit(page))...)
		if err != nil {
			return 0, err
		}
		if revision == 0 {
			revision = r.Header.Revision
		}
		for _, kv := range r.Kvs {
			take(kv)
		}
		if !r.More || len(r.Kvs) == 0 {
			return revision, nil
		}
		from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}

func (s *Store) get(ctx context.Context, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	r, err := s.client.Get(ctx, key, options...)
	return r, understood(err)
}

// commit writes all of then, if every condition holds.
func (s *Store) commit(ctx context.Context, conditions []clientv3.Cmp, then ...clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	r, err := s.client.Txn(ctx).If(conditions...).Then(then...).Commit()
	return r, understood(err)
}

// understood tells what concerns all of etcd: storage.ErrFull, storage.ErrAway.
func understood(err error) error {
	var refused rpctypes.EtcdError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("%w: %w", storage.ErrFull, err)
	case errors.Is(err, context.DeadlineExceeded), status.Code(err) == codes.Unavailable,
		errors.As(err, &refused) && refused.Code() == codes.Unavailable:
		return fmt.Errorf("%w: %w", storage.ErrAway, err)
	}
	return err
}
