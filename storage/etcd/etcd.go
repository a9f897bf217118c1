// Package etcd keeps what is distributed: for each environment the chunks of
// its snapshot and a signed head, and it elects the publisher.
//
// Nothing read from etcd is believed. Heads carry signatures, chunks are
// addressed by digests that the head's root covers, and all of it can be
// deleted at any time: the publisher writes it again.
package etcd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/sallyport/sallyport/internal/snapshot"
)

const (
	// DefaultPrefix is below which everything lies.
	DefaultPrefix = "/sallyport/v1"

	// opTimeout bounds one operation: clientv3 gives no clean error for a
	// server that refuses it, and retries until its deadline.
	opTimeout = 5 * time.Second
	// maxPart bounds one value; etcd refuses requests above 1.5 MiB.
	maxPart = 1 << 20
	// maxHead bounds a published head with the digests of its buckets.
	maxHead = 64 << 10
	// maxParts bounds the values of one chunk.
	maxParts = snapshot.MaxBytes/maxPart + 1
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
}

// New returns a store. It does not wait for a connection; operations fail
// while there is none.
func New(c Config) (*Store, error) {
	if len(c.Endpoints) == 0 {
		return nil, errors.New("etcd: no endpoints")
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            c.Endpoints,
		TLS:                  c.TLS,
		DialTimeout:          opTimeout,
		DialKeepAliveTime:    5 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
		MaxCallRecvMsgSize:   64 << 20,
		Logger:               zap.NewNop(), // its errors are returned, and logged by whoever copes
	})
	if err != nil {
		return nil, fmt.Errorf("etcd client: %w", err)
	}
	prefix := c.Prefix
	if prefix == "" {
		prefix = DefaultPrefix
	}
	return &Store{client: client, prefix: strings.TrimSuffix(prefix, "/"), log: c.Log}, nil
}

// Close ends the connection.
func (s *Store) Close() error { return s.client.Close() }

func (s *Store) headKey(environment string) string { return s.prefix + "/env/" + environment + "/head" }

func (s *Store) chunksKey(environment string) string {
	return s.prefix + "/env/" + environment + "/chunk/"
}

func (s *Store) chunkKey(environment string, d snapshot.Digest) string {
	return s.chunksKey(environment) + d.String() + "/"
}

func (s *Store) partKey(environment string, d snapshot.Digest, part int) string {
	return fmt.Sprintf("%s%04d", s.chunkKey(environment, d), part)
}

func (s *Store) freshnessKey(environment string) string {
	return s.prefix + "/freshness/" + environment
}

func (s *Store) electionKey() string { return s.prefix + "/leader" }
