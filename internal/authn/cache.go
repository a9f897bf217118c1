package authn

import (
	"hash/maphash"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/session"
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

// cacheKey finds a verified token or an opened cookie by a keyed hash of its bytes, which nobody
// outside the process can aim at. The hash only finds: what it found counts
// when its bytes are those of the request. The provider, and so the rules, that
// verified the token is part of the key.
type cacheKey struct {
	hash     uint64
	provider uint64
	asked    bool // its issuer was asked, and said that it is active
	cookie   bool // it is the cookie of a session, and no token
	device   bool // it is a device token
}

// verified is a token or a cookie that was good once. A token is worth nothing
// unless keys is still the provider's key set, until has not come, and the claims
// stand at the time of the request.
type verified struct {
	raw       string        // a copy: a header's text may hold on to more than itself
	keys      *token.KeySet // nil when only its issuer's word counts
	until     time.Time     // for how long that word does; zero when it was not asked
	claims    *token.Claims
	principal *policy.Principal

	// bundles verified a JWT-SVID: it is worth nothing with others.
	bundles *identity.JWTBundles

	// lock opened a cookie, which has no keys and no claims besides: it is worth
	// nothing where another one would have to.
	lock session.Lock

	// device was signed by its key. It has no keys and no claims besides, and is to
	// be checked for each request.
	device *token.DeviceToken
}

// cache remembers verified tokens and opened cookies, within bounds of number and
// of bytes. Only what an issuer has signed or this fleet has sealed gets in, so
// that rubbish pushes nothing out.
type cache struct {
	seed           maphash.Seed
	entries, bytes int // bounds of one shard
	shards         [shards]shard
}

type shard struct {
	mu   sync.Mutex
	held map[cacheKey]*verified
	size int      // bytes of the tokens in held
	_    [40]byte // a cache line for each
}

func newCache(entries int) *cache {
	c := &cache{seed: maphash.MakeSeed(), entries: max(entries/shards, 1)}
	c.bytes = max(c.entries*tokenBudget, token.MaxSize)
	for i := range c.shards {
		c.shards[i].held = make(map[cacheKey]*verified)
	}
	return c
}

// hash is of the end of a token: a JWT's signature, or what a cookie is sealed
// with, in which no two are alike. So it costs the same for a long one. Tokens that end alike only push each other
// out.
func (c *cache) hash(raw string) uint64 {
	const end = 128
	return maphash.String(c.seed, raw[max(len(raw)-end, 0):])
}

// shard is chosen by bits of the hash that maps do not start from.
func (c *cache) shard(k cacheKey) *shard { return &c.shards[k.hash>>32%shards] }

// get returns what is known of raw, whose hash is in k, or nil.
func (c *cache) get(k cacheKey, raw string) *verified {
	s := c.shard(k)
	s.mu.Lock()
	v := s.held[k]
	s.mu.Unlock()
	if v == nil || v.raw != raw {
		return nil
	}
	return v
}

// put takes v over, in place of what has the same key.
func (c *cache) put(k cacheKey, v *verified, raw string) {
	v.raw = strings.Clone(raw)
	cost := len(raw)
	s := c.shard(k)
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
		s.size -= len(v.raw)
		delete(s.held, k)
	}
}

// victim is the one of a few random entries that expires first.
func (s *shard) victim() (victim cacheKey) {
	var first *verified
	seen := 0
	for k, v := range s.held {
		if first == nil || v.principal.Expires.Before(first.principal.Expires) {
			victim, first = k, v
		}
		if seen++; seen == sample {
			break
		}
	}
	return victim
}
