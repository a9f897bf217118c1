package resource

import (
	"errors"

	"google.golang.org/protobuf/proto"

	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// PolicyOf returns a Policy as it is, of a Grant the policy that it is in its time,
// and of a RateLimit the one that denies what it may; nil of other kinds. It is not
// to be changed.
func PolicyOf(spec proto.Message) *resourcev1.Policy {
	switch s := spec.(type) {
	case *resourcev1.Policy:
		return s
	case *resourcev1.Grant:
		return &resourcev1.Policy{
			Environments: s.GetEnvironments(), Routes: s.GetRoutes(), Effect: resourcev1.Effect_EFFECT_ALLOW,
			Principals: s.GetPrincipals(), Methods: s.GetMethods(), Paths: s.GetPaths(),
		}
	case *resourcev1.RateLimit:
		return &resourcev1.Policy{
			Environments: s.GetEnvironments(), Routes: s.GetRoutes(), Effect: resourcev1.Effect_EFFECT_DENY,
			When: s.GetWhen(), Mode: s.GetMode(),
		}
	}
	return nil
}

func (d *decoder) grant(s *resourcev1.Grant) {
	d.policy(PolicyOf(s))
	d.checked(atSpec().to("reason"), s.GetReason(), checkText)
	d.checked(atSpec().to("approver"), s.GetApprover(), checkText)
	for _, m := range s.GetPrincipals() {
		if who := s.GetApprover(); who != "" && (m.GetSubject() == who || m.GetSpiffe() == who) {
			d.checked(atSpec().to("approver"), who, func(string) error { return errors.New("nobody approves what is for themselves") })
		}
	}
}
