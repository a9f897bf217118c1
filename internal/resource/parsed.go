package resource

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// Parsed is a resource that this build understands whole. Decode and
// ParseDocument make it; it is not to be changed.
type Parsed struct {
	Key    Key
	Labels map[string]string
	// Spec is the message of the kind: *resourcev1.Route for a Route.
	Spec proto.Message
	// Document is the bytes that it was parsed from; nil from Decode.
	Document []byte
}

// Scope returns the environments that the resource is distributed to, sorted,
// or all. An Environment goes to itself, an Enrollment nowhere, a Revocation
// and a Device everywhere.
func (p Parsed) Scope() (all bool, environments []string) {
	switch spec := p.Spec.(type) {
	case *resourcev1.Revocation, *resourcev1.Device:
		return true, nil
	case *resourcev1.Environment:
		return false, []string{p.Key.Name}
	case interface{ GetEnvironments() []string }:
		return len(spec.GetEnvironments()) == 0, slices.Sorted(slices.Values(spec.GetEnvironments()))
	}
	return false, nil
}

// Expires returns when the resource has no effect any more; false for never. A
// Device has one for as long as it may be revoked, whatever becomes of its facts.
func (p Parsed) Expires() (at time.Time, ok bool) {
	spec, ok := p.Spec.(*resourcev1.Revocation)
	if !ok || spec.GetExpiresAt() == nil {
		return time.Time{}, false
	}
	return spec.GetExpiresAt().AsTime(), true
}

// reach says what denies when a proxy cannot understand the resource, and with
// REACH_ROUTES which routes.
func (p Parsed) reach() (resourcev1.Reach, *resourcev1.RouteSelector) {
	switch spec := p.Spec.(type) {
	case *resourcev1.Environment, *resourcev1.Revocation:
		return resourcev1.Reach_REACH_ENVIRONMENT, nil
	case *resourcev1.Policy:
		return resourcev1.Reach_REACH_ROUTES, spec.GetRoutes()
	case *resourcev1.RateLimit:
		return resourcev1.Reach_REACH_ROUTES, spec.GetRoutes()
	}
	return resourcev1.Reach_REACH_REFERENCES, nil
}
