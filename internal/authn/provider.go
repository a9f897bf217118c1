package authn

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/token"
)

// ProviderName is the key of an IdentityProvider.
type ProviderName struct{ Namespace, Name string }

// String returns "namespace/name".
func (n ProviderName) String() string { return n.Namespace + "/" + n.Name }

// Provider is an IdentityProvider as a snapshot has it. Its keys come from
// exactly one of JWKSURL, Discovery and JWKS, or from none when it has an
// Introspection.
type Provider struct {
	Namespace, Name string
	Digest          [32]byte // of its document, for the proof of what is enforced

	Issuer    string // equal to the token's iss
	JWKSURL   string // where the key set is
	Discovery bool   // the metadata below Issuer tell where the key set is
	JWKS      string // the key set itself

	// Introspection asks the issuer for tokens that are no JWT, and for every
	// token when there are no keys. Nil asks for none.
	Introspection *Introspection

	// AllowPrivateAddresses lets the URLs lead to loopback and private addresses,
	// and over http to this machine itself; and it lets a proxy of the
	// environment be used, behind which nobody sees where they lead.
	AllowPrivateAddresses bool

	// What tokens have to meet, as in token.Rules.
	Audiences                 []string
	SubjectClaim, GroupsClaim string
	Required                  []token.Requirement
	Leeway, MaxLifetime       time.Duration
	Algorithms                []token.Algorithm
	Types                     []token.Type
}

// Key returns the provider's name.
func (p *Provider) Key() ProviderName { return ProviderName{p.Namespace, p.Name} }

// own replaces what the caller may change by copies.
func (p *Provider) own() {
	p.Audiences, p.Algorithms, p.Types = slices.Clone(p.Audiences), slices.Clone(p.Algorithms), slices.Clone(p.Types)
	p.Required = slices.Clone(p.Required)
	for i := range p.Required {
		p.Required[i].Values = slices.Clone(p.Required[i].Values)
	}
	if p.Introspection != nil {
		i := *p.Introspection
		p.Introspection = &i
	}
}

func (p *Provider) rules() token.Rules {
	return token.Rules{
		Issuer: p.Issuer, Audiences: p.Audiences, SubjectClaim: p.SubjectClaim, GroupsClaim: p.GroupsClaim,
		Required: p.Required, Leeway: p.Leeway, MaxLifetime: p.MaxLifetime, Algorithms: p.Algorithms, Types: p.Types,
	}
}

// source is where a key set comes from: one of three. Providers with an equal
// source have the same keys.
type source struct {
	url     string // of the key set,
	issuer  string // or whose metadata tell it,
	jwks    string // or the set itself
	private bool   // as AllowPrivateAddresses
}

var errNoKeys = errors.New("needs one of JWKSURL, Discovery and JWKS, or an Introspection")

// source returns where the keys come from; none is the zero source.
func (p *Provider) source() (source, error) {
	s := source{url: p.JWKSURL, jwks: p.JWKS, private: p.AllowPrivateAddresses}
	if p.Discovery {
		s.issuer = p.Issuer
	}
	given := 0
	for _, from := range []string{s.url, s.issuer, s.jwks} {
		if from != "" {
			given++
		}
	}
	switch {
	case given == 0 && p.Introspection != nil:
		return source{}, nil
	case given != 1:
		return source{}, errNoKeys
	case s.url != "":
		return s, checkURL(s.url, s.private)
	case s.issuer != "":
		return s, checkIssuer(s.issuer, s.private)
	}
	return s, nil
}

// checkURL accepts https, and http to this machine itself where private
// addresses are allowed. Whoever can change the keys on their way is the issuer.
// To which address the URL leads is seen when it is dialled.
func checkURL(raw string, private bool) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return withoutURL(err)
	case u.Host == "" || u.User != nil:
		return errors.New("needs a host and no user")
	case u.Scheme == "https", u.Scheme == "http" && private && loopback(u.Hostname()):
		return nil
	}
	return errors.New("has to be https")
}

// checkIssuer accepts issuers that have metadata (RFC 8414 §2).
func checkIssuer(issuer string, private bool) error {
	if strings.ContainsAny(issuer, "?#") {
		return errors.New("an issuer with metadata has no query and no fragment")
	}
	return checkURL(issuer, private)
}

// metadataURL is where OpenID Connect Discovery 1.0 §4 puts the metadata.
func metadataURL(issuer string) string {
	return strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration"
}

// provider is immutable but for what its keys and its endpoint do themselves.
type provider struct {
	spec   Provider
	source source
	name   string
	id     uint64 // distinguishes it from all others of the pool, also by spec
	rules  token.Rules

	// keys is nil without keys, asks without an endpoint. With neither, for err,
	// every token is refused.
	keys *keys
	asks *introspector
	err  error
}

// newProvider makes the provider for spec, with what it can take over from old,
// which may be nil.
func (p *Pool) newProvider(spec Provider, old *provider) *provider {
	v := &provider{spec: spec, name: spec.Key().String(), id: p.id, rules: spec.rules()}
	if v.source, v.err = spec.source(); v.err != nil {
		return v
	}
	if spec.Introspection != nil {
		if v.asks, v.err = p.newIntrospector(v); v.err != nil {
			return v
		}
	}
	switch {
	case v.source == source{}:
	case old != nil && old.keys != nil && old.source == v.source:
		v.keys = old.keys
	case v.source.jwks != "":
		v.keys, v.err = p.fixedKeys(v.name, v.source.jwks)
	default:
		v.keys = p.newKeys(v.name, v.source)
	}
	if v.err != nil {
		v.asks = nil
	}
	return v
}

// works reports whether the provider can let anybody in.
func (p *provider) works() bool { return p.keys != nil || p.asks != nil }

// fixedKeys never fetches, and its keys do not age.
func (p *Pool) fixedKeys(name, jwks string) (*keys, error) {
	set, err := token.ParseKeySet([]byte(jwks))
	if err != nil {
		return nil, fmt.Errorf("read JWKS: %w", err)
	}
	k := p.newKeys(name, source{jwks: jwks})
	k.pending, k.stopped = nil, true
	k.current.Store(&published{set: set})
	return k, nil
}
