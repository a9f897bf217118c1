package registry

import (
	"context"

	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
)

// Proven returns the proxies of an environment that are connected and have signed
// that they enforce a revision, or one after it, with what they signed first, ordered
// by ID and with what they have signed last of the security lane; and how many others
// there are.
func (r *Registry) Proven(ctx context.Context, environment string, revision snapshot.Revision) (proven []*distributionv1.ProvenProxy, others int, err error) {
	err = r.each(ctx, environment, func(p *adminv1.Proxy) {
		s := statusOf(p, int64(revision))
		if s.GetProgress() != adminv1.Progress_PROGRESS_ENFORCING || !s.GetSigned() {
			others++
			return
		}
		first, _ := firstProof(p, int64(revision))
		security := p.GetSecurityProof()
		if len(security.GetSignature()) == 0 {
			security = nil
		}
		proven = append(proven, &distributionv1.ProvenProxy{
			Id: p.GetId(), AckKey: p.GetAckKey(), Statement: first.GetStatement(), Signature: first.GetSignature(),
			SecurityStatement: security.GetStatement(), SecuritySignature: security.GetSignature(),
		})
	})
	return proven, others, err
}
