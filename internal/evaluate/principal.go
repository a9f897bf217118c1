package evaluate

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/internal/policy"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

// maxClaims bounds the claims of a principal, in bytes.
const maxClaims = 64 << 10

// who returns the principal of a message; nil, the anonymous one, for none.
func who(m *decisionv1.Principal) (*policy.Principal, error) {
	if m == nil {
		return nil, nil //nolint:nilnil // documented
	}
	kind, ok := kinds[m.GetKind()]
	if !ok {
		return nil, fmt.Errorf("principal.kind: %.40q is none of anonymous, user, workload and key", m.GetKind())
	}
	p := &policy.Principal{
		Kind: kind, ID: m.GetId(), Issuer: m.GetIssuer(), SPIFFEID: m.GetSpiffeId(), Groups: m.GetGroups(), Scopes: m.GetScopes(),
		Provider: m.GetProvider(), KeyName: m.GetKey(), AuthenticatedBy: m.GetAuthenticatedBy(), KeyID: m.GetKeyId(),
		IssuedAt: moment(m.GetIssuedAt()), Expires: moment(m.GetExpiresAt()),
		AuthenticatedAt: moment(m.GetAuthenticatedAt()), ACR: m.GetAcr(), AMR: m.GetAmr(),
	}
	if kind == policy.Workload && p.SPIFFEID == "" && strings.HasPrefix(p.ID, "spiffe://") {
		p.SPIFFEID = p.ID
	}
	if len(m.GetClaims()) > maxClaims {
		return nil, fmt.Errorf("principal.claims: more than %d bytes", maxClaims)
	}
	if m.GetClaims() != "" {
		if err := json.Unmarshal([]byte(m.GetClaims()), &p.Claims); err != nil {
			return nil, fmt.Errorf("principal.claims: is no JSON object")
		}
	}
	return p, nil
}

var kinds = map[string]policy.Kind{
	"":                        policy.Anonymous,
	policy.Anonymous.String(): policy.Anonymous,
	policy.User.String():      policy.User,
	policy.Workload.String():  policy.Workload,
	policy.Key.String():       policy.Key,
}
