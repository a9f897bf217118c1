package authn

import (
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/token"
)

// JWTSVIDs has the keys of the moment that JWT-SVIDs are verified with. It is
// implemented by *identity.Source.
type JWTSVIDs interface{ JWTBundles() *identity.JWTBundles }

// WithJWTSVIDs returns an Authenticator that verifies JWT-SVIDs with these keys,
// beside what a knows.
func (a *Authenticator) WithJWTSVIDs(keys JWTSVIDs) *Authenticator {
	next := *a
	next.jwtSVIDs = keys
	return &next
}

// svid returns whom a bearer token proves that is a JWT-SVID; false when it is
// none, or is for one of the route's providers, which then has the say.
func (a *Authenticator) svid(raw string, try *attempt) (*policy.Principal, Reason, bool) {
	if len(try.accept.JWTAudiences) == 0 || try.accept.Introspected || a.jwtSVIDs == nil || a.cache == nil {
		return nil, "", false
	}
	bundles := a.jwtSVIDs.JWTBundles()
	key := cacheKey{hash: a.cache.hash(raw)}
	if v := a.cache.get(key, raw); v != nil && v.bundles == bundles {
		a.metrics.looked(true)
		p, reason := v.again(try)
		return p, reason, true
	}
	parsed, err := token.Parse(raw)
	if err != nil || !strings.HasPrefix(parsed.Subject, "spiffe://") || a.issuer(parsed, try.accept.Providers) != nil {
		return nil, "", false
	}
	a.metrics.looked(false)
	v, reason := verifySVID(parsed, bundles, try)
	if reason != "" {
		return nil, reason, true
	}
	a.cache.put(key, v, raw)
	return v.principal, "", true
}

func verifySVID(t *token.Parsed, bundles *identity.JWTBundles, try *attempt) (*verified, Reason) {
	id, err := identity.ParseID(t.Subject)
	if err != nil {
		return nil, tokenPrefix + Reason(token.BadClaim)
	}
	if bundles == nil {
		return nil, KeysUnavailable
	}
	keys := bundles.Keys(id.TrustDomain())
	if keys == nil {
		return nil, tokenPrefix + Reason(token.WrongIssuer)
	}
	c, err := t.VerifySVID(try.accept.JWTAudiences, keys, try.now)
	if err != nil {
		return nil, tokenReason(err)
	}
	return &verified{bundles: bundles, claims: c, principal: &policy.Principal{
		Kind: policy.Workload, ID: string(id), SPIFFEID: string(id), Claims: c.All, AuthenticatedBy: byJWTSVID,
		IssuedAt: c.IssuedAt, Expires: c.Expires, TokenID: c.ID,
	}}, ""
}

// again checks what differs between requests with the same token: the time, and
// the audiences of the route.
func (v *verified) again(try *attempt) (*policy.Principal, Reason) {
	var rules token.Rules
	if !v.claims.For(try.accept.JWTAudiences) {
		return nil, tokenPrefix + Reason(token.WrongAudience)
	}
	if err := rules.CheckTime(v.claims, try.now); err != nil {
		return nil, tokenReason(err)
	}
	return v.principal, ""
}

// contradict reports whether two proofs name different workloads.
func contradict(first, second *policy.Principal) bool {
	return first != nil && !slices.Contains([]string{"", second.SPIFFEID}, first.SPIFFEID) && second.SPIFFEID != ""
}
