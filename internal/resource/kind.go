package resource

import (
	"google.golang.org/protobuf/proto"

	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// Kinds returns every kind, in the order in which listings show them.
func Kinds() []Kind {
	return []Kind{
		KindEnvironment, KindEnrollment, KindTrustDomain, KindListener, KindIdentityProvider,
		KindAPIKey, KindUpstream, KindSchema, KindRoute, KindSet, KindCondition, KindPolicy, KindGrant, KindRateLimit,
		KindDevice, KindRevocation,
	}
}

// Namespaced reports whether resources of the kind belong to a namespace.
func (k Kind) Namespaced() bool {
	switch k {
	case KindEnvironment, KindEnrollment, KindTrustDomain, KindDevice, KindRevocation:
		return false
	}
	return true
}

// Immediate reports whether resources of the kind travel in the security lane:
// they are in force everywhere and at once, and make no revision.
func (k Kind) Immediate() bool { return k == KindRevocation || k == KindDevice }

// newSpec returns an empty message for the kind's spec; nil for a kind that
// this build does not know.
func (k Kind) newSpec() proto.Message {
	switch k {
	case KindEnvironment:
		return &resourcev1.Environment{}
	case KindEnrollment:
		return &resourcev1.Enrollment{}
	case KindTrustDomain:
		return &resourcev1.TrustDomain{}
	case KindListener:
		return &resourcev1.Listener{}
	case KindIdentityProvider:
		return &resourcev1.IdentityProvider{}
	case KindAPIKey:
		return &resourcev1.ApiKey{}
	case KindUpstream:
		return &resourcev1.Upstream{}
	case KindSchema:
		return &resourcev1.Schema{}
	case KindRoute:
		return &resourcev1.Route{}
	case KindSet:
		return &resourcev1.Set{}
	case KindCondition:
		return &resourcev1.Condition{}
	case KindPolicy:
		return &resourcev1.Policy{}
	case KindGrant:
		return &resourcev1.Grant{}
	case KindRateLimit:
		return &resourcev1.RateLimit{}
	case KindDevice:
		return &resourcev1.Device{}
	case KindRevocation:
		return &resourcev1.Revocation{}
	}
	return nil
}
