package token

import (
	"slices"
	"time"
)

// MaxLogoutAge is how long ago a logout token may have been issued. Providers send
// it at once.
const MaxLogoutAge = 5 * time.Minute

// Logout is what a verified logout token says (OpenID Connect Back-Channel Logout
// 1.0, section 2.4): that a session has ended, or all of a subject.
type Logout struct {
	Issuer   string
	Subject  string // sub, or empty when Session is not
	Session  string // sid, or empty when Subject is not
	ID       string // jti, never empty
	IssuedAt time.Time
	Expires  time.Time
}

const logoutEvent = "http://schemas.openid.net/event/backchannel-logout"

// ParseLogout is Parse for logout tokens, which nothing else is: it wants typ to be
// logout+jwt. Every error is an *Error.
func ParseLogout(raw string) (*Parsed, error) { return parse(raw, isLogout) }

func isLogout(typ Type, _ bool) bool { return typ == "logout+jwt" }

// IssuerOf returns whom a token claims to be of, empty when it is not a token. It
// may choose whom to ask, and proves nothing.
func IssuerOf(raw string) string {
	p, err := parse(raw, func(Type, bool) bool { return true })
	if err != nil {
		return ""
	}
	return p.Issuer
}

// VerifyLogout checks header, signature and claims of what ParseLogout has read.
// Of rules, the claims for subject and groups say nothing here. Every error is an
// *Error.
func (p *Parsed) VerifyLogout(rules Rules, keys *KeySet, now time.Time) (*Logout, error) {
	if err := p.checkSignature(rules.Algorithms, keys); err != nil {
		return nil, err
	}
	if iss, _ := p.claims["iss"].(string); iss == "" || iss != rules.Issuer {
		return nil, refuse(WrongIssuer)
	}
	if !p.For(rules.Audiences) {
		return nil, refuse(WrongAudience)
	}
	l, ok := readLogout(p.claims)
	if !ok {
		return nil, refuse(BadClaim)
	}
	switch leeway := rules.leeway(); {
	case l.IssuedAt.After(now.Add(leeway)):
		return nil, refuse(NotYetValid)
	case now.Sub(l.IssuedAt) > MaxLogoutAge+leeway, !now.Before(l.Expires.Add(leeway)):
		return nil, refuse(Expired)
	}
	return l, nil
}

func readLogout(claims map[string]any) (*Logout, bool) {
	l := &Logout{}
	var ok [6]bool
	l.Issuer, ok[0] = claims["iss"].(string)
	l.ID, ok[1] = claims["jti"].(string)
	l.Subject, ok[2] = optionalString(claims, "sub")
	l.Session, ok[3] = optionalString(claims, "sid")
	l.IssuedAt, ok[4] = date(claims, "iat")
	l.Expires, ok[5] = date(claims, "exp")
	events, _ := claims["events"].(map[string]any)
	_, event := events[logoutEvent].(map[string]any)
	_, nonce := claims["nonce"]
	if slices.Contains(ok[:], false) || l.ID == "" || len(l.ID) > maxKeyID || l.IssuedAt.IsZero() || l.Expires.IsZero() {
		return nil, false
	}
	return l, event && !nonce && (l.Subject != "" || l.Session != "") && len(l.Subject)+len(l.Session) <= maxLogoutName
}

// maxLogoutName bounds what a logout token names.
const maxLogoutName = 1024
