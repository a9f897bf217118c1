package signin

import (
	"time"

	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/token"
)

// newSession keeps of an ID token what is decided by later. Its name is the
// provider's, by which that ends it, or new: never one that the browser had before.
func newSession(p *Provider, c *token.Claims, lasts time.Duration, now time.Time) *session.Session {
	s := &session.Session{
		Provider: p.Name.String(), Issuer: c.Issuer, Subject: c.Subject, ID: c.Session, Groups: c.Groups,
		Claims: map[string]any{}, SignedIn: now.UTC().Truncate(time.Second),
	}
	s.Expires = s.SignedIn.Add(lasts)
	if s.ID == "" {
		s.ID = session.NewID()
	}
	for _, name := range p.Claims {
		if v, given := c.All[name]; given {
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
