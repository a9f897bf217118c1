package policy

import (
	"iter"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/pattern"
)

// Kind is the kind of a principal.
type Kind uint8

// The kinds. A principal of any other kind is matched by no matcher.
const (
	Anonymous Kind = iota // nobody proved anything
	User                  // a person or program known to an identity provider
	Workload              // a program with a SPIFFE ID
	Key                   // a program with an API key
)

// String returns the kind as conditions see it.
func (k Kind) String() string {
	switch k {
	case Anonymous:
		return "anonymous"
	case User:
		return "user"
	case Workload:
		return "workload"
	case Key:
		return "key"
	}
	return "unknown"
}

// Principal is who passes through, as it was authenticated. The zero value is
// the anonymous principal, and so is nil.
type Principal struct {
	Kind            Kind
	ID              string // within Issuer: a subject, the SPIFFE ID, or the key's
	Issuer          string
	SPIFFEID        string // that was proven, by itself or beside something else
	Groups          []string
	Scopes          []string       // what it may be used for, in its issuer's words
	Claims          map[string]any // JSON values as encoding/json decodes them
	Provider        string         // namespace/name of the IdentityProvider
	AuthenticatedBy string         // "jwt", "introspection", "api-key", "x509-svid", ...
	Expires         time.Time      // zero: never
	KeyName         string         // namespace/name of the ApiKey that was proven, as SPIFFEID is

	// What revocations go by, besides Issuer, ID and SPIFFEID; empty and zero
	// where a credential does not tell.
	TokenID  string    // jti
	Session  string    // sid
	KeyID    string    // of an API key
	IssuedAt time.Time // iat, or when the certificate or key was made

	// How and when a person signed in, as far as their issuer tells.
	AuthenticatedAt time.Time // auth_time
	ACR             string    // the class of it
	AMR             []string  // the methods

	// Beside is what other credentials of the same request proved, each as if it
	// were alone. Matchers of IDs and revocations go by them as well; groups,
	// scopes and claims that conditions see are the principal's own.
	Beside []*Principal
}

func (p *Principal) kind() Kind {
	if p == nil {
		return Anonymous
	}
	return p.Kind
}

// PrincipalMatcher names principals. Exactly one of Group, ID, SPIFFE, Key,
// Authenticated and Anonymous is set; the zero value does not compile.
type PrincipalMatcher struct {
	Group  string // those with this group
	ID     string // the one with exactly this ID, as their own or beside it
	SPIFFE string // workloads, by a pattern as in pattern.ParseSPIFFE
	Key    string // whoever has this ApiKey, "namespace/name"

	// Issuer narrows Group or ID to principals of that issuer. When it is empty
	// the word of every identity provider counts.
	Issuer string

	// Provider narrows Group or ID to principals that this IdentityProvider,
	// "namespace/name", has vouched for.
	Provider string

	Authenticated bool // whoever proved who they are
	Anonymous     bool // whoever did not: the one way to open a route to all
}

// principals are the compiled matchers of one policy. The zero value matches
// nobody.
type principals struct {
	everybody     bool
	authenticated bool
	anonymous     bool
	groups, ids   []qualified
	spiffe        []pattern.SPIFFE
	keys          []string
}

// qualified is a name, of one issuer or (when issuer is empty) of any, and
// likewise of one provider.
type qualified struct{ name, issuer, provider string }

func (m *principals) match(p *Principal) bool {
	if m.everybody {
		return true
	}
	switch p.kind() {
	case Anonymous:
		return m.anonymous
	case User, Workload, Key:
		return m.authenticated || m.matchIssued(p) || p.SPIFFEID != "" && m.matchSPIFFE(p.SPIFFEID) ||
			p.KeyName != "" && slices.Contains(m.keys, p.KeyName)
	}
	return false
}

func (m *principals) matchIssued(p *Principal) bool {
	if m.matchID(p) || slices.ContainsFunc(p.Beside, m.matchID) {
		return true
	}
	for i := range m.groups {
		if slices.Contains(p.Groups, m.groups[i].name) && m.groups[i].of(p) {
			return true
		}
	}
	return false
}

func (m *principals) matchID(p *Principal) bool {
	for i := range m.ids {
		if m.ids[i].name == p.ID && m.ids[i].of(p) {
			return true
		}
	}
	return false
}

func (q *qualified) of(p *Principal) bool {
	return (q.issuer == "" || q.issuer == p.Issuer) && (q.provider == "" || q.provider == p.Provider)
}

func (m *principals) matchSPIFFE(id string) bool {
	for i := range m.spiffe {
		if m.spiffe[i].Match(id) {
			return true
		}
	}
	return false
}

// tell is which of the matchers has matched p. Where none has, it is those that
// would but for the issuer or the provider, or else the first.
func (m *principals) tell(p *Principal) string {
	var near, other []string
	for one, text := range m.each() {
		if one.match(p) {
			return text
		}
		if one.resembles(p) {
			near = append(near, text)
		}
		if len(other) <= maxNamed {
			other = append(other, text)
		}
	}
	if len(near) > 0 {
		other = near
	}
	return shortened(other, " or ")
}

// each yields every matcher alone, with its text.
func (m *principals) each() iter.Seq2[*principals, string] {
	return func(yield func(*principals, string) bool) {
		for _, one := range m.ids {
			if !yield(&principals{ids: []qualified{one}}, "id: "+one.text()) {
				return
			}
		}
		for _, one := range m.groups {
			if !yield(&principals{groups: []qualified{one}}, "group: "+one.text()) {
				return
			}
		}
		for _, one := range m.spiffe {
			if !yield(&principals{spiffe: []pattern.SPIFFE{one}}, "spiffe: "+one.String()) {
				return
			}
		}
		for _, one := range m.keys {
			if !yield(&principals{keys: []string{one}}, "key: "+one) {
				return
			}
		}
		if m.authenticated && !yield(&principals{authenticated: true}, "authenticated: true") {
			return
		}
		if m.anonymous {
			yield(&principals{anonymous: true}, "anonymous: true")
		}
	}
}

// resembles reports whether m would match p if any issuer and provider counted.
func (m *principals) resembles(p *Principal) bool {
	anyones := func(qq []qualified) (names []qualified) {
		for _, q := range qq {
			names = append(names, qualified{name: q.name})
		}
		return names
	}
	loose := *m
	loose.ids, loose.groups = anyones(m.ids), anyones(m.groups)
	return loose.match(p)
}

func (q *qualified) text() string {
	text := q.name
	if q.issuer != "" {
		text += " of " + q.issuer
	}
	if q.provider != "" {
		text += " by " + q.provider
	}
	return text
}
