package signin

import (
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/token"
)

// newSession keeps what is decided by later, of an ID token, and of what the
// userinfo endpoint says besides, which may be nil: there, nothing takes the place
// of what is signed, and nothing tells how somebody has signed in. Its name is the
// provider's, by which that ends it, or new: never one that the browser had before.
func newSession(p *Provider, c *token.Claims, info *token.UserInfo, lasts time.Duration, now time.Time) *session.Session {
	if info == nil {
		info = &token.UserInfo{}
	}
	s := &session.Session{
		Provider: p.Name.String(), Issuer: c.Issuer, Subject: c.Subject, ID: c.Session, Groups: union(c.Groups, info.Groups),
		Claims: map[string]any{}, SignedIn: now.UTC().Truncate(time.Second),
	}
	s.Expires = s.SignedIn.Add(lasts)
	if s.ID == "" {
		s.ID = session.NewID()
	}
	for _, name := range p.Claims {
		if v, given := c.All[name]; given {
			s.Claims[name] = v
		} else if v, given := info.All[name]; given {
			s.Claims[name] = v
		}
	}
	// A provider ends sessions by sub, whatever claim is the subject here.
	if sub, _ := c.All["sub"].(string); sub != s.Subject {
		s.Claims["sub"] = sub
	}
	how := c.Authentication()
	s.AuthTime, s.ACR, s.AMR = how.At, how.Class, how.Methods
	return s
}

// union returns the groups of both, those of the first in their order.
func union(groups, more []string) []string {
	known := make(map[string]bool, len(groups))
	for _, g := range groups {
		known[g] = true
	}
	all := slices.Clone(groups)
	for _, g := range more {
		if !known[g] {
			known[g], all = true, append(all, g)
		}
	}
	return all
}
