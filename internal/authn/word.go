package authn

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/token"
)

// keysAgain looks whether a JWT would still be verified by keys, which is seen from
// its own key: it is looked at anew only when the set is another. What is missing is
// fetched for nobody: a key that an issuer does not publish is withdrawn.
func (s *Standing) keysAgain(set *token.KeySet, try *attempt) Reason {
	switch {
	case set == nil:
		return KeysUnavailable
	case set == s.keys:
		return ""
	}
	t, reason := tokenOf(try)
	if reason != "" {
		return reason
	}
	if !set.Agrees(s.keys, t.KeyID) {
		if err := t.Signed(set); err != nil {
			return tokenReason(err)
		}
	}
	s.keys = set
	return ""
}

// tokenOf reads the token that a request brought.
func tokenOf(try *attempt) (*token.Parsed, Reason) {
	raw, _, reason := bearer(try.Header["Authorization"])
	if reason != "" {
		return nil, reason
	}
	t, err := token.Parse(raw)
	if err != nil {
		return nil, tokenReason(err)
	}
	return t, ""
}

// word is what an issuer has said of the token of a request, and is asked of it. The
// zero value is one of which it is not known for how long it counts.
type word struct {
	until   time.Time
	overdue time.Time // since when it does not count; zero while it does
	review  *review   // under way; nil for none
}

// review is a question that nobody waits for.
type review struct {
	by     *introspector
	raw    string
	opaque bool // nobody but the issuer understands it
	at     time.Time

	answer atomic.Pointer[reviewed]
}

type reviewed struct {
	claims *token.Claims // of an opaque token
	until  time.Time
	reason Reason
}

const (
	// maxReviews bounds the questions of requests that are carried already, and
	// reviewers those that are under way: the others are for requests that come.
	maxReviews, reviewers = 64, 8
	// shortestReview is the least time between two questions about one request.
	shortestReview = 5 * time.Second
)

// patience is for how long an issuer's word goes on to count for what is carried
// already, while it is asked and does not answer.
func (i *introspector) patience() time.Duration { return max(i.spec.Cache, shortestReview) }

// run answers reviews until ctx ends.
func (i *introspector) run(ctx context.Context) {
	var all sync.WaitGroup
	for range reviewers {
		all.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case r := <-i.reviews:
					r.answer.Store(i.review(ctx, r))
				}
			}
		})
	}
	all.Wait()
}

func (i *introspector) review(ctx context.Context, r *review) *reviewed {
	said := &reviewed{until: r.at.Add(i.patience())}
	if r.opaque {
		said.claims, _, said.reason = i.claims(ctx, r.raw, r.at)
	} else {
		_, said.reason = i.active(ctx, r.raw, r.at)
	}
	return said
}

// wordAgain returns whom a token proves that was introspected, by what its issuer has
// said last: when that has ceased to count, it is asked, and was stands until it
// answers, or for as long again.
func (a *Authenticator) wordAgain(p *provider, was *policy.Principal, try *attempt) (*policy.Principal, Reason) {
	if p.asks == nil {
		return nil, IntrospectionUnavailable
	}
	w, now := &try.again.word, try.now
	if r := w.review; r != nil && r.by == p.asks {
		said := r.answer.Load()
		switch {
		case said == nil:
		case said.reason == IntrospectionUnavailable:
			w.review = nil // it is asked again
		case said.reason != "":
			return nil, said.reason
		default:
			*w = word{until: said.until}
			if said.claims == nil {
				return was, ""
			}
			if next := p.principal(said.claims, byIntrospection); next.ID == was.ID {
				return next, ""
			}
			return nil, tokenPrefix + Reason(token.Inactive) // it is somebody else's
		}
	}
	if now.Before(w.until) || a.saidMeanwhile(p, w, try) {
		return was, ""
	}
	if w.overdue.IsZero() {
		w.overdue = now
	}
	if now.Sub(w.overdue) >= p.asks.patience() {
		return nil, IntrospectionUnavailable
	}
	if w.review == nil || w.review.by != p.asks {
		w.ask(p.asks, was.AuthenticatedBy == byIntrospection, try)
	}
	return was, ""
}

// saidMeanwhile learns what was said to another request with the same token.
func (a *Authenticator) saidMeanwhile(p *provider, w *word, try *attempt) bool {
	raw, _, reason := bearer(try.Header["Authorization"])
	if reason != "" || a.cache == nil {
		return false
	}
	v := a.cache.get(cacheKey{hash: a.cache.hash(raw), provider: p.id, asked: true}, raw)
	if v == nil || !try.now.Before(v.until) {
		return false
	}
	*w = word{until: v.until}
	return true
}

// ask has the issuer asked, if it is not asked too much.
func (w *word) ask(by *introspector, opaque bool, try *attempt) {
	raw, _, reason := bearer(try.Header["Authorization"])
	if reason != "" {
		return
	}
	r := &review{by: by, raw: raw, opaque: opaque, at: try.now}
	select {
	case by.reviews <- r:
		w.review = r
	default:
		w.review = nil
	}
}
