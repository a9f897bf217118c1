package compile

import (
	"fmt"
	"maps"
	"slices"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/quota"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// RateLimit is a RateLimit that is enforced, or asked in shadow. Tables share it
// while its document, and what that refers to, stays the same.
type RateLimit struct {
	Key    resource.Key
	Digest snapshot.Digest
	Spec   *resourcev1.RateLimit

	Rate  quota.Rate
	Parts quota.Key
	When  *policy.When   // nil for every request
	Cost  *policy.Number // nil for 1

	// Authenticated is whether it looks at what only authentication tells.
	Authenticated bool

	document *document
}

// Shadow reports whether it is asked only, and not enforced.
func (l *RateLimit) Shadow() bool { return l.Spec.GetMode() == resourcev1.Mode_MODE_SHADOW }

// Fleet reports whether proxies count it together.
func (l *RateLimit) Fleet() bool { return l.Spec.GetScope() == resourcev1.LimitScope_LIMIT_SCOPE_FLEET }

// Limit says what is wrong with a RateLimit that package resource has accepted.
func Limit(key resource.Key, spec *resourcev1.RateLimit) []resource.Problem {
	_, err := newRateLimit(key, spec, nil)
	return problemsOf(key, err)
}

// newRateLimit compiles a RateLimit, as policy.Compile does a policy.
func newRateLimit(key resource.Key, spec *resourcev1.RateLimit, terms *policy.Terms) (*RateLimit, error) {
	rate, err := quota.NewRate(spec.GetRequests(), spec.GetPeriod().AsDuration(), spec.GetBurst())
	if err != nil {
		return nil, &policy.Error{Field: "requests", Reason: err.Error()}
	}
	l := &RateLimit{Key: key, Spec: spec, Rate: rate}
	if l.When, err = policy.CompileWhen(spec.GetWhen(), terms); err != nil {
		return nil, err
	}
	if spec.GetCost() != "" {
		if l.Cost, err = policy.CompileNumber("cost", spec.GetCost()); err != nil {
			return nil, err
		}
	}
	for i, k := range spec.GetKey() {
		p, err := partOf(k, fmt.Sprintf("key[%d].expression", i))
		if err != nil {
			return nil, err
		}
		l.Parts = append(l.Parts, p)
	}
	l.Authenticated = l.Parts.Authenticates() || l.When.Authenticates() || l.Cost.Authenticates()
	return l, nil
}

// partOf leaves what this build does not know a part that is the same of all
// requests.
func partOf(k *resourcev1.LimitKey, field string) (p quota.Part, err error) {
	const ipv4, ipv6 = 32, 64
	switch of := k.GetPart().(type) {
	case *resourcev1.LimitKey_ClientAddress:
		p = quota.Part{Kind: quota.ClientAddress, IPv4: int(of.ClientAddress.GetIpv4PrefixLength()), IPv6: int(of.ClientAddress.GetIpv6PrefixLength())}
		if p.IPv4 == 0 {
			p.IPv4 = ipv4
		}
		if p.IPv6 == 0 {
			p.IPv6 = ipv6
		}
	case *resourcev1.LimitKey_Principal:
		p.Kind = quota.Principal
	case *resourcev1.LimitKey_Issuer:
		p.Kind = quota.Issuer
	case *resourcev1.LimitKey_Header:
		p = quota.Part{Kind: quota.Header, Name: quota.HeaderName(of.Header)}
	case *resourcev1.LimitKey_Route:
		p.Kind = quota.Route
	case *resourcev1.LimitKey_ServerName:
		p.Kind = quota.ServerName
	case *resourcev1.LimitKey_Expression:
		p.Kind = quota.Text
		p.Text, err = policy.CompileText(field, of.Expression)
	}
	return p, err
}

// RateLimits returns the rate limits, ordered by key, whether or not they select a
// route. It is not to be changed.
func (t *Table) RateLimits() []*RateLimit {
	if t == nil {
		return nil
	}
	return t.limits
}

// limiting returns the rate limits that requests meet, and those that select no
// route.
func (t *Table) limiting() map[*RateLimit]bool { return t.withUnbound(limiting(t.routes)) }

func limiting(routes []*Route) map[*RateLimit]bool {
	found := make(map[*RateLimit]bool)
	for _, r := range routes {
		for _, l := range r.Limits {
			found[l] = true
		}
	}
	return found
}

// withUnbound adds the limits that select no route to others.
func (t *Table) withUnbound(limits map[*RateLimit]bool) map[*RateLimit]bool {
	for _, d := range t.unbound {
		if d.limit != nil {
			limits[d.limit] = true
		}
	}
	return limits
}

// list is to be called when limits have changed, and not else: that they are the
// same slice says that they are the same.
func (t *Table) list() {
	t.limits = slices.SortedFunc(maps.Keys(t.limiting()), func(a, b *RateLimit) int { return a.Key.Compare(b.Key) })
}
