package revocation

import (
	"time"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
)

// Set is the security lane's snapshot made ready to answer. It is immutable and
// safe for concurrent use. A nil Set knows nothing, and revokes everybody.
type Set struct {
	snapshot *snapshot.Snapshot

	// indexes is what requests meet, and EnforcedRoot walks: by kind, nil where
	// there is no revocation of it.
	indexes [kinds]*index

	rejects []resource.Reject

	unavailable string

	// buckets is what the next set is made from: as the snapshot's are.
	buckets [snapshot.BucketCount]*bucket
}

// Head returns the head of the snapshot that s was made of.
func (s *Set) Head() snapshot.Head { return s.Snapshot().Head() }

// Snapshot returns what s was made of; nil for a nil Set.
func (s *Set) Snapshot() *snapshot.Snapshot {
	if s == nil {
		return nil
	}
	return s.snapshot
}

// Rejects returns what of the snapshot is not enforced, ordered by key. It is
// not to be changed.
func (s *Set) Rejects() []resource.Reject {
	if s == nil {
		return nil
	}
	return s.rejects
}

// Unavailable says, when it is not empty, why everything has to be denied: a
// revocation was rejected, or a device that one is of.
func (s *Set) Unavailable() string {
	if s == nil {
		return ""
	}
	return s.unavailable
}

// Revoked reports whether a principal is cut off at now, and the name of a
// Revocation that does it. Any of the facts of a principal is enough, and of what
// it has beside it. A
// credential that does not tell when it was issued counts as issued before
// anything. Who is anonymous has nothing to be revoked. It does not allocate.
func (s *Set) Revoked(p *policy.Principal, now time.Time) (name string, revoked bool) {
	switch {
	case p == nil || p.Kind == policy.Anonymous:
		return "", false
	case s == nil:
		return "", true
	}
	r := s.cut(p, now)
	for i := 0; r == nil && i < len(p.Beside); i++ {
		r = s.cut(p.Beside[i], now)
	}
	if r == nil {
		return "", false
	}
	return r.entry.Key.Name, true
}

// cut returns a revocation that cuts off one credential, whatever is beside it.
func (s *Set) cut(p *policy.Principal, now time.Time) *document {
	r := first(s.indexes[tokens].of(p.Issuer, p.TokenID), p.IssuedAt, now)
	if r == nil {
		r = first(s.indexes[subjects].of(p.Issuer, p.ID), p.IssuedAt, now)
	}
	if r == nil {
		r = first(s.indexes[sessions].of(p.Issuer, p.Session), p.IssuedAt, now)
	}
	if r == nil {
		r = first(s.indexes[keys].of("", p.KeyID), issued(p, policy.Key), now)
	}
	if r == nil {
		r = first(s.indexes[spiffeIDs].of("", p.SPIFFEID), issued(p, policy.Workload), now)
	}
	if r == nil {
		r = first(s.indexes[issuers].of("", p.Issuer), p.IssuedAt, now)
	}
	if r == nil {
		r = first(s.indexes[everyone].of("", anybody), p.IssuedAt, now)
	}
	return r
}

// issued returns when the credential was issued that makes a principal one of a
// kind, by itself or beside it; zero, which is before anything, when that is not
// known.
func issued(p *policy.Principal, k policy.Kind) time.Time {
	if p.Kind == k {
		return p.IssuedAt
	}
	for _, other := range p.Beside {
		if other.Kind == k {
			return other.IssuedAt
		}
	}
	return time.Time{}
}
