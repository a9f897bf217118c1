package link

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// maxSkew is how far ahead of ours the control plane's clock may be.
const maxSkew = 2 * time.Minute

var (
	errFuture = errors.New("freshness statement is from the future")
	errForked = errors.New("freshness statement confirms another snapshot at this revision")
)

// fresh is a verified freshness statement, with what was signed.
type fresh struct {
	snapshot.Freshness
	signed *proxyv1.SignedFreshness
}

// clock knows how long ago the control plane confirmed what is enforced. Its
// age is safe for concurrent use, the rest is not.
type clock struct {
	newest    fresh // of all that were accepted
	confirmed fresh // the newest that confirms what is enforced
	enforced  snapshot.Head

	since atomic.Int64 // when confirmed was issued, in Unix nanoseconds; 0: never
}

// check says why a verified statement is not believed.
func (c *clock) check(f snapshot.Freshness, environment string, now time.Time) error {
	switch {
	case f.Environment != environment:
		return fmt.Errorf("%w: it is of %q, not of %q", errEnvironment, f.Environment, environment)
	case f.IssuedAt.After(now.Add(maxSkew)):
		return fmt.Errorf("%w: it was issued %s ahead of our clock", errFuture, f.IssuedAt.Sub(now).Round(time.Second))
	case position(f) == c.enforced.Position() && f.Environment == c.enforced.Environment && f.HeadDigest != c.enforced.Digest():
		return fmt.Errorf("%w: head %s, not %s", errForked, f.HeadDigest.Short(), c.enforced.Digest().Short())
	}
	return nil
}

// take remembers a statement, unless it is older than one that was taken.
func (c *clock) take(f fresh, enforced snapshot.Head) {
	if !f.IssuedAt.After(c.newest.IssuedAt) {
		return
	}
	c.newest = f
	c.enforce(enforced)
}

// enforce says what is enforced from now on.
func (c *clock) enforce(head snapshot.Head) {
	c.enforced = head
	switch {
	case confirms(c.newest.Freshness, head):
		c.confirmed = c.newest
	case !confirms(c.confirmed.Freshness, head):
		c.confirmed = fresh{}
	}
	if c.confirmed.signed == nil {
		c.since.Store(0)
		return
	}
	c.since.Store(c.confirmed.IssuedAt.UnixNano())
}

func (c *clock) age(now time.Time) (time.Duration, bool) {
	since := c.since.Load()
	if since == 0 {
		return 0, false
	}
	return max(0, now.Sub(time.Unix(0, since))), true
}

// confirms reports whether f says that head was the newest of its environment
// when f was issued, or that one before it was.
func confirms(f snapshot.Freshness, head snapshot.Head) bool {
	if head.IsZero() || f.Environment != head.Environment {
		return false
	}
	at := position(f)
	return head.Position().After(at) || at == head.Position() && f.HeadDigest == head.Digest()
}

func position(f snapshot.Freshness) snapshot.Position {
	return snapshot.Position{Epoch: f.Epoch, Revision: f.Revision}
}
