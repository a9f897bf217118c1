package resource

import (
	"cmp"
	"strings"
)

// Kind names what a resource is, as in the kind field of a file.
type Kind string

// The kinds, in the order in which listings show them.
const (
	KindEnvironment      Kind = "Environment"
	KindEnrollment       Kind = "Enrollment"
	KindTrustDomain      Kind = "TrustDomain"
	KindListener         Kind = "Listener"
	KindIdentityProvider Kind = "IdentityProvider"
	KindAPIKey           Kind = "ApiKey"
	KindUpstream         Kind = "Upstream"
	KindSchema           Kind = "Schema"
	KindRoute            Kind = "Route"
	KindSet              Kind = "Set"
	KindCondition        Kind = "Condition"
	KindPolicy           Kind = "Policy"
	KindGrant            Kind = "Grant"
	KindRateLimit        Kind = "RateLimit"
	KindDevice           Kind = "Device"
	KindRevocation       Kind = "Revocation"
)

// Key identifies a resource in the fleet. It is comparable. Namespace is empty
// for the kinds that belong to none.
type Key struct {
	Kind      Kind
	Namespace string
	Name      string
}

// String returns kind/namespace/name, or kind/name without a namespace.
func (k Key) String() string {
	if k.Namespace == "" {
		return string(k.Kind) + "/" + k.Name
	}
	return string(k.Kind) + "/" + k.Namespace + "/" + k.Name
}

// Compare orders keys by kind, namespace and name, as text.
func (k Key) Compare(o Key) int {
	return cmp.Or(
		strings.Compare(string(k.Kind), string(o.Kind)),
		strings.Compare(k.Namespace, o.Namespace),
		strings.Compare(k.Name, o.Name),
	)
}
