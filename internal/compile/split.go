package compile

import (
	"math/bits"
	"net/textproto"

	"github.com/sallyport/sallyport/internal/resource"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// Split is several upstreams of which each gets a share of a route's requests. It is
// immutable.
type Split struct {
	Shares []Share

	// By is what decides where a request goes, if it has it: who sends it, or the
	// first value of a header, by its canonical key.
	ByPrincipal bool
	ByHeader    string

	total uint64
	salt  uint64 // of the route, whose canaries are not those of another
}

// Share is one of the upstreams. Its weight is more than 0.
type Share struct {
	Upstream *Upstream
	weight   uint64
}

// split resolves the upstreams of a route. One that is not there, or was rejected,
// makes the route deny, even if nothing would go there.
func (t *Table) split(r *Route, spec *resourcev1.Split) *Split {
	s := &Split{ByPrincipal: spec.GetPrincipal(), salt: fold(offset, r.ID().String())}
	if name := spec.GetHeader(); name != "" {
		s.ByHeader = textproto.CanonicalMIMEHeaderKey(name)
	}
	for _, share := range spec.GetShares() {
		d := t.referred(r, resource.KindUpstream, share.GetUpstream())
		if d == nil || share.GetWeight() == 0 {
			continue
		}
		s.Shares = append(s.Shares, Share{Upstream: d.upstream, weight: uint64(share.GetWeight())})
		s.total += uint64(share.GetWeight())
	}
	return s
}

// Of returns the share of all that has the same key, the same at every proxy.
func (s *Split) Of(key string) int { return s.At(mix(fold(s.salt, key))) }

// At returns the share at a point of all that there are, so that points that are
// spread evenly are spread by weight. Of no shares it is -1.
func (s *Split) At(point uint64) int {
	// Where the point is between 0 and the total: what goes to the first share stays
	// there when that grows.
	at, _ := bits.Mul64(point, s.total)
	for i := range s.Shares {
		if at < s.Shares[i].weight {
			return i
		}
		at -= s.Shares[i].weight
	}
	return -1
}

// FNV-1a: what it has to be is the same everywhere, and for ever.
const (
	offset = 14695981039346656037
	prime  = 1099511628211
)

func fold(sum uint64, text string) uint64 {
	for i := range len(text) {
		sum = (sum ^ uint64(text[i])) * prime
	}
	return sum
}

// mix spreads what differs in few bits over all of them, as FNV does not.
func mix(sum uint64) uint64 {
	sum = (sum ^ sum>>33) * 0xff51afd7ed558ccd
	sum = (sum ^ sum>>33) * 0xc4ceb9fe1a85ec53
	return sum ^ sum>>33
}
