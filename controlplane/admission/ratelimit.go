package admission

import (
	"slices"

	"github.com/sallyport/sallyport/internal/policy"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// limitsByAddress reports whether a RateLimit looks at where requests come from.
func limitsByAddress(spec *resourcev1.RateLimit) bool {
	return policy.LooksAtAddress(spec.GetWhen()) || policy.LooksAtAddress(spec.GetCost()) ||
		slices.ContainsFunc(spec.GetKey(), func(k *resourcev1.LimitKey) bool {
			return k.GetClientAddress() != nil || policy.LooksAtAddress(k.GetExpression())
		})
}
