package assertion

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/policy"
)

// Lifetime is how long an assertion is good. It is used again for half of that,
// so that an upstream always has as long for it again.
const Lifetime = time.Minute

// IssuerOf is the iss of the assertions of an environment's proxies: one for
// all of them, so that upstreams need to know one.
func IssuerOf(environment string) string { return "urn:sallyport:environment:" + environment }

// About is what an assertion says: who sent a request, of which route, to which
// upstream. Principal is only read.
type About struct {
	Environment string
	Route       string // namespace/name
	Audience    string // the upstream, namespace/name
	Principal   *policy.Principal
}

// claims are those of RFC 7519, and ours.
type claims struct {
	Issuer   string `json:"iss"`
	Subject  string `json:"sub,omitempty"`
	Audience string `json:"aud"`
	IssuedAt int64  `json:"iat"`
	Expires  int64  `json:"exp"`

	Kind            string   `json:"kind"`
	PrincipalIssuer string   `json:"principal_iss,omitempty"`
	SPIFFEID        string   `json:"spiffe_id,omitempty"`
	Groups          []string `json:"groups"`
	Route           string   `json:"route"`
}

// Signer makes assertions, and remembers them for as long as they are used
// again. It is safe for concurrent use.
type Signer struct {
	keys   *Keys
	shards [shards]shard
}

// Bounds of what is remembered: some 16,000 pairs of principal and route, with
// 32 MiB of assertions.
const (
	shards      = 16
	mostInShard = 1024
	mostBytes   = 2 << 20
	sample      = 8
)

type shard struct {
	mu   sync.Mutex
	held map[pair]*signed
	size int // bytes of the assertions in held
}

// pair finds an assertion. What it says besides is compared.
type pair struct {
	route, issuer, id string
	kind              policy.Kind
}

type signed struct {
	header []string // the value, as a header has it; never modified
	key    *key
	until  time.Time // used again until then

	environment, audience, spiffeID string
	groups                          []string
}

// NewSigner returns a Signer that signs with keys.
func NewSigner(keys *Keys) *Signer {
	s := &Signer{keys: keys}
	for i := range s.shards {
		s.shards[i].held = make(map[pair]*signed)
	}
	return s
}

// Header returns the values of a header that holds an assertion that is good at
// now; nil while there is no key that was published. It is shared, and must not
// be modified.
func (s *Signer) Header(a *About, now time.Time) []string {
	key := s.keys.signing.Load()
	if key == nil {
		return nil
	}
	p := pair{a.Route, a.Principal.Issuer, a.Principal.ID, a.Principal.Kind}
	shard := &s.shards[int(sum(p.id)+sum(p.route))%shards]
	shard.mu.Lock()
	known := shard.held[p]
	shard.mu.Unlock()
	if known != nil && known.key == key && now.Before(known.until) && known.says(a) {
		return known.header
	}
	fresh := sign(key, a, now)
	if fresh == nil {
		return nil
	}
	shard.put(p, fresh)
	return fresh.header
}

// sum spreads names over shards.
func sum(s string) (n uint) {
	for i := max(0, len(s)-8); i < len(s); i++ {
		n = n*31 + uint(s[i])
	}
	return n
}

// says reports whether the assertion says what it has to.
func (s *signed) says(a *About) bool {
	return s.environment == a.Environment && s.audience == a.Audience &&
		s.spiffeID == a.Principal.SPIFFEID && slices.Equal(s.groups, a.Principal.Groups)
}

// sign returns nil if the key cannot sign.
func sign(key *key, a *About, now time.Time) *signed {
	p := a.Principal
	payload, err := json.Marshal(claims{
		Issuer: IssuerOf(a.Environment), Subject: p.ID, Audience: a.Audience,
		IssuedAt: now.Unix(), Expires: now.Add(Lifetime).Unix(),
		Kind: p.Kind.String(), PrincipalIssuer: p.Issuer, SPIFFEID: p.SPIFFEID,
		Groups: append([]string{}, p.Groups...), Route: a.Route,
	})
	if err != nil {
		return nil
	}
	b64 := base64.RawURLEncoding.EncodeToString
	text := b64([]byte(`{"alg":"ES256","kid":"`+key.public.ID()+`","typ":"JWT"}`)) + "." + b64(payload)
	signature, err := jwt.SigningMethodES256.Sign(text, key.private)
	if err != nil {
		return nil
	}
	return &signed{
		header: []string{text + "." + b64(signature)}, key: key, until: now.Add(Lifetime / 2),
		environment: a.Environment, audience: a.Audience, spiffeID: p.SPIFFEID, groups: p.Groups,
	}
}

func (s *shard) put(p pair, fresh *signed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(p)
	for len(s.held) >= mostInShard || s.size > mostBytes {
		s.remove(s.victim())
	}
	s.held[p] = fresh
	s.size += len(fresh.header[0])
}

func (s *shard) remove(p pair) {
	if old, ok := s.held[p]; ok {
		s.size -= len(old.header[0])
		delete(s.held, p)
	}
}

// victim is the one of a few random entries that is used the shortest.
func (s *shard) victim() (victim pair) {
	var first *signed
	seen := 0
	for p, entry := range s.held {
		if first == nil || entry.until.Before(first.until) {
			victim, first = p, entry
		}
		if seen++; seen == sample {
			break
		}
	}
	return victim
}
