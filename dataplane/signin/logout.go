package signin

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/authn"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/token"
)

// maxEnded bounds how many sessions and subjects are known to have ended, and how
// many logout tokens to have been here, and to be done with.
const maxEnded = 1 << 17

// named is a session or a subject of an issuer, or a logout token.
type named struct{ kind, issuer, id string }

// ended is what has ended at this proxy before it has expired. Only those who sign
// in, and providers, add to it.
type ended struct {
	count atomic.Int64 // of all, so that usually nothing is looked up

	mu  sync.RWMutex
	all map[named]end
}

// end is what has ended.
type end struct {
	before time.Time // sessions that began no later
	until  time.Time // when none is left of them
}

// put reports whether there was room.
func (e *ended) put(name named, what end, now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.all == nil {
		e.all = map[named]end{}
	}
	if len(e.all) >= maxEnded {
		for name, old := range e.all {
			if !now.Before(old.until) {
				delete(e.all, name)
			}
		}
	}
	_, known := e.all[name]
	if len(e.all) >= maxEnded && !known {
		return false
	}
	e.all[name] = what
	e.count.Store(int64(len(e.all)))
	return true
}

func (e *ended) has(name named, began, now time.Time) bool {
	if e.count.Load() == 0 {
		return false
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	what, ok := e.all[name]
	return ok && now.Before(what.until) && !began.After(what.before)
}

// Ended reports whether the session of a principal, its own or beside it, has ended
// at this proxy. Of other principals it knows nothing.
func (c *Client) Ended(p *policy.Principal, now time.Time) bool {
	if c.ended.count.Load() == 0 {
		return false
	}
	return c.over(p, now) || slices.ContainsFunc(p.Beside, func(other *policy.Principal) bool { return c.over(other, now) })
}

func (c *Client) over(p *policy.Principal, now time.Time) bool {
	if p.AuthenticatedBy != authn.BySession {
		return false
	}
	sub := p.ID
	if original, ok := p.Claims["sub"].(string); ok {
		sub = original
	}
	return c.ended.has(named{"session", p.Issuer, p.Session}, p.IssuedAt, now) ||
		c.ended.has(named{"subject", p.Issuer, sub}, p.IssuedAt, now)
}

// forget is when nothing is left of what has ended now.
func forget(now time.Time) time.Time { return now.Add(session.MaxLifetime + time.Minute) }

// Leave ends a session, nil for none, at this proxy, and removes all cookies that
// are ours. The browser goes where the provider ends its own session (OpenID
// Connect RP-Initiated Logout 1.0); nowhere when that is not known. p is the
// session's provider, nil if it is not there any more.
func (c *Client) Leave(ctx context.Context, at Site, s *session.Session, p *Provider, now time.Time) *Answer {
	answer := &Answer{Cookies: []string{session.Clear(session.CookieName)}}
	answer.clear(session.Ours(at.Cookies, session.PendingPrefix))
	if s == nil {
		return answer
	}
	c.ended.put(named{"session", s.Issuer, s.ID}, end{before: now, until: forget(now)}, now)
	if p == nil || !c.enter() {
		return answer
	}
	defer c.leave()
	if m, err := c.discover(ctx, p, now); err == nil && m.EndSession != "" {
		answer.Location = endSession(m.EndSession, p.ClientID)
	}
	return answer
}

// endSession has been checked to be a URL.
func endSession(endpoint, client string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return ""
	}
	query := u.Query()
	query.Set("client_id", client)
	u.RawQuery = query.Encode()
	return u.String()
}

// LoggedOut takes a logout token (OpenID Connect Back-Channel Logout 1.0) of one of
// some providers, and ends at this proxy what it names. A token is taken until
// Committed was called for it: a provider that was not told that all is done sends
// it again.
func (c *Client) LoggedOut(ctx context.Context, raw string, providers []*Provider, by Verifier, now time.Time) (*token.Logout, *Failure) {
	if !c.enter() {
		return nil, fail(Busy, nil)
	}
	defer c.leave()
	out, reason := verifyLogout(ctx, raw, providers, by, now)
	switch {
	case reason == authn.KeysUnavailable:
		return nil, fail(ProviderUnavailable, errors.New(string(reason)))
	case reason != "":
		return nil, fail(LogoutInvalid, errors.New(string(reason)))
	}
	switch {
	case c.ended.has(named{"committed", out.Issuer, out.ID}, time.Time{}, now):
		return nil, fail(LogoutInvalid, errors.New("the token was here before"))
	case c.ended.has(named{"token", out.Issuer, out.ID}, time.Time{}, now):
		return out, nil // what has begun since then goes on
	}
	who := named{"session", out.Issuer, out.Session}
	if out.Session == "" {
		who = named{"subject", out.Issuer, out.Subject}
	}
	if !c.ended.put(who, end{before: now, until: forget(now)}, now) ||
		!c.ended.put(named{"token", out.Issuer, out.ID}, taken(out, now), now) {
		return nil, fail(Busy, errors.New("too many sessions have ended"))
	}
	return out, nil
}

// Committed says that what a logout token names is cut off in the whole fleet: it
// is not taken again.
func (c *Client) Committed(out *token.Logout, now time.Time) {
	c.ended.put(named{"committed", out.Issuer, out.ID}, taken(out, now), now)
}

// taken is kept for longer than the token is one.
func taken(out *token.Logout, now time.Time) end {
	return end{before: now, until: out.IssuedAt.Add(2 * token.MaxLogoutAge)}
}

func verifyLogout(ctx context.Context, raw string, providers []*Provider, by Verifier, now time.Time) (out *token.Logout, reason authn.Reason) {
	reason = authn.Reason("token_" + token.WrongIssuer)
	issuer := token.IssuerOf(raw)
	for _, p := range providers {
		if p.Issuer != issuer {
			continue
		}
		if out, reason = by.LoggedOut(ctx, p.Name, raw, p.ClientID, now); reason == "" {
			return out, ""
		}
	}
	return nil, reason
}
