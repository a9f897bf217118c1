package authn

import (
	"sync"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/token"
)

const (
	shards = 64
	// tokenBudget is how many bytes of token text an entry may take on average:
	// decoded claims take a few times that.
	tokenBudget = 2 << 10
	// sample is how many entries an eviction looks at.
	sample = 8
)

// cacheKey binds a verified token to the provider, and so to the rules, that
// verified it.
type cacheKey struct {
	token    [32]byte // SHA-256: tokens themselves are not kept
	provider uint64
}

// verified is a token that was good once. It is worth nothing unless keys is
// still the provider's key set and the claims stand at the time of the request.
type verified struct {
	keys      *token.KeySet
	claims    *token.Claims
	principal *policy.Principal
	cost      int
}

// cache remembers verified tokens, within bounds of number and of bytes. Only
// what an issuer has signed gets in, so that rubbish pushes nothing out.
type cache struct {
	entries, bytes int // bounds of one shard
	shards         [shards]shard
}

type shard struct {
	mu   sync.Mutex
	held map[cacheKey]*verified
	size int      // sum of the costs in held
	_    [40]byte // a cache line for each
}

func newCache(entries int) *cache {
	c := &cache{entries: max(entries/shards, 1)}
	c.bytes = max(c.entries*tokenBudget, token.MaxSize)
	for i := range c.shards {
		c.shards[i].held = make(map[cacheKey]*verified)
	}
	return c
}

func (c *cache) get(k cacheKey) *verified {
	s := &c.shards[k.token[0]%shards]
	s.mu.Lock()
	v := s.held[k]
	s.mu.Unlock()
	return v
}

// put takes v over.
func (c *cache) put(k cacheKey, v *verified, cost int) {
	v.cost = cost
	s := &c.shards[k.token[0]%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(k)
	for len(s.held) >= c.entries || s.size+cost > c.bytes && len(s.held) > 0 {
		s.remove(s.victim())
	}
	s.held[k] = v
	s.size += cost
}

func (s *shard) remove(k cacheKey) {
	if v, ok := s.held[k]; ok {
		s.size -= v.cost
		delete(s.held, k)
	}
}

// victim is the one of a few random entries that expires first.
func (s *shard) victim() (victim cacheKey) {
	var first *verified
	seen := 0
	for k, v := range s.held {
		if first == nil || v.claims.Expires.Before(first.claims.Expires) {
			victim, first = k, v
		}
		if seen++; seen == sample {
			break
		}
	}
	return victim
}
