// Package policy compiles policies and decides by them, in the same way in the
// control plane and in every proxy, so that what was validated is what is
// enforced.
//
// A policy has an effect and four parts, all of which must match: principals,
// methods, paths and a condition. A DENY that matches overrides every ALLOW,
// and a request that no ALLOW matches is denied. Policies in shadow say what they
// would have turned round, and turn nothing round. Methods and paths left empty
// match any, and so does an empty condition. Principals left empty match
// everybody in a DENY, where that denies more; an ALLOW must name its
// principals.
package policy

import "github.com/sallyport/sallyport/internal/pattern"

// Effect is what a policy does to the requests it matches. The zero value is
// invalid.
type Effect uint8

// The effects.
const (
	EffectUnspecified Effect = iota // does not compile
	Allow
	Deny
)

// String returns the effect as it is written in a resource.
func (e Effect) String() string {
	switch e {
	case Allow:
		return "ALLOW"
	case Deny:
		return "DENY"
	}
	return "EFFECT_UNSPECIFIED"
}

// Bounds of a Spec. They keep one policy from costing a request more than a
// few microseconds.
const (
	MaxPrincipals = 256  // matchers of one policy
	MaxMethods    = 32   // methods of one policy
	MaxPaths      = 256  // path templates of one policy
	MaxNameLength = 1024 // bytes of a group, an ID or an issuer
	MaxWhenLength = 4096 // bytes of a condition
)

// Spec is a policy as an operator wrote it.
type Spec struct {
	Namespace, Name string
	Digest          [32]byte // of the resource: of two of one name, which comes first
	Source          any      // what it was read from, for who compiles it; returned by Policy.Source
	Effect          Effect

	// Shadow policies are asked and never enforced: decisions say what they would
	// have turned round.
	Shadow bool

	// Principals says whose requests match: those that any matcher names.
	// An ALLOW without matchers does not compile; a DENY without matchers is
	// for everybody, anonymous callers included.
	Principals []PrincipalMatcher

	// Grant makes it an ALLOW that counts for a time only; nil for one that always
	// does.
	Grant *Grant

	// Methods are upper-case method names. Empty is any method.
	Methods []string

	// Paths are templates as in pattern.ParsePath. Empty is any path.
	Paths []string

	// When is a condition in CEL, of type bool. Empty is true. It may use
	//
	//	principal  kind ("anonymous", "user", "workload", "key"), id, issuer,
	//	           spiffe_id, scopes, groups, claims, acr, amr, authenticated_at
	//	request    method, host, path, query, headers (first value by name;
	//	           names are lower-case and looked up in any case),
	//	           params (of the query, decoded, first value by name),
	//	           path_params (of the route's template, decoded, by name)
	//	route      namespace, name, labels
	//	signals    ip (net.IP), time (timestamp), tls.version, tls.sni, tls.alpn,
	//	           device.id, .os, .os_version, .owner (string), .disk_encrypted,
	//	           .screen_lock, .compliant, .managed (bool), .last_seen (timestamp)
	//
	// and the functions of the CEL standard library and of cel-go's network
	// library, as in cidr("10.0.0.0/8").containsIP(signals.ip). Times are UTC
	// but where a function is given a time zone, as in
	// signals.time.getHours("Europe/Berlin"); zones and the pattern of matches()
	// are literals. What is not there at run time
	// (a header, a claim, an unknown address) is an error unless it was asked
	// for with has() or in, and a policy whose condition fails never allows: an
	// ALLOW does not match, a DENY denies.
	When string

	// Terms are what When refers to by name: condition("office-hours") is a
	// condition, signals.ip.inSet("office") and principal.id.inSet("staff") look
	// an address or a text up in a set. When nil, such a reference has no value.
	Terms *Terms
}

// Policy is a compiled Spec. It is immutable and safe for concurrent use. Only
// Compile makes one that matches anything.
type Policy struct {
	namespace, name, key string
	digest               [32]byte
	source               any
	effect               Effect
	shadow               bool
	principals           principals
	methods              []string // sorted, each once
	paths                []pattern.Path
	grant                *Grant     // nil for none
	note                 string     // Detail of what it allows
	when                 *condition // nil is true
}

// Namespace returns the namespace of the resource.
func (p *Policy) Namespace() string { return p.namespace }

// Name returns the name of the resource within its namespace.
func (p *Policy) Name() string { return p.name }

// Key returns "namespace/name", the form that decisions name; of a grant
// "Grant/namespace/name".
func (p *Policy) Key() string { return p.key }

// Source returns the Source of the Spec that p was compiled from.
func (p *Policy) Source() any { return p.source }

// Shadow reports whether p is asked only, and not enforced.
func (p *Policy) Shadow() bool { return p.shadow }

// Granted reports whether p was compiled from a grant.
func (p *Policy) Granted() bool { return p.grant != nil }

// Effect returns Allow or Deny.
func (p *Policy) Effect() Effect { return p.effect }
