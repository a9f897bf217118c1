// Package access decides who may administer what: deny by default.
package access

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
)

var (
	// ErrUnauthenticated says that the caller did not prove who it is.
	ErrUnauthenticated = errors.New("prove who you are with an X.509-SVID or a bearer token")
	// ErrDenied says that the caller may not do that.
	ErrDenied = errors.New("not allowed")
)

// Role is what an administrator may do. The zero Role may nothing.
type Role int

// The roles. Each may what those before it may.
const (
	RoleNone Role = iota
	RoleViewer
	RoleAdmin
)

// ParseRole returns the role of a name in the settings.
func ParseRole(s string) (Role, error) {
	switch s {
	case "viewer":
		return RoleViewer, nil
	case "admin":
		return RoleAdmin, nil
	}
	return RoleNone, fmt.Errorf("role is viewer or admin, not %q", s)
}

func (r Role) String() string {
	switch r {
	case RoleViewer:
		return "viewer"
	case RoleAdmin:
		return "admin"
	case RoleNone:
	}
	return "none"
}

// Caller is who administers. The zero Caller is nobody.
type Caller struct {
	// SPIFFEID is set when the caller proved it by its certificate.
	SPIFFEID string
	// Issuer and Subject are set when the caller proved them by a token.
	Issuer, Subject string
}

// IsZero reports whether c is nobody.
func (c Caller) IsZero() bool { return c == Caller{} }

// String names the caller in the history and the audit.
func (c Caller) String() string {
	switch {
	case c.SPIFFEID != "":
		return c.SPIFFEID
	case c.Subject != "":
		return c.Issuer + "#" + c.Subject
	}
	return "nobody"
}

// Administrator gives a role to one caller: by SPIFFE ID, or by issuer and
// subject.
type Administrator struct {
	Caller
	Role Role
}

// required is the role that each procedure asks for. What is not here is
// denied to everyone.
var required = map[string]Role{
	adminv1connect.ConfigServiceApplyProcedure:            RoleAdmin,
	adminv1connect.ConfigServiceDeleteProcedure:           RoleAdmin,
	adminv1connect.ConfigServiceRollbackProcedure:         RoleAdmin, // whoever may Apply and Delete
	adminv1connect.ConfigServiceGetProcedure:              RoleViewer,
	adminv1connect.ConfigServiceListProcedure:             RoleViewer,
	adminv1connect.ConfigServiceListRevisionsProcedure:    RoleViewer,
	adminv1connect.ConfigServiceListVersionsProcedure:     RoleViewer,
	adminv1connect.ConfigServiceDiffProcedure:             RoleViewer,
	adminv1connect.FleetServiceListProxiesProcedure:       RoleViewer,
	adminv1connect.FleetServiceGetProxyProcedure:          RoleViewer,
	adminv1connect.FleetServiceWaitEnforcedProcedure:      RoleViewer,
	adminv1connect.FleetServiceVerifyProcedure:            RoleViewer,
	adminv1connect.FleetServiceStatusProcedure:            RoleViewer,
	adminv1connect.FleetServiceExportStatementProcedure:   RoleViewer,
	adminv1connect.FleetServiceApproveProcedure:           RoleAdmin,
	adminv1connect.FleetServiceRefuseProcedure:            RoleAdmin,
	adminv1connect.FleetServiceQuarantineProcedure:        RoleAdmin,
	adminv1connect.FleetServiceReleaseProcedure:           RoleAdmin,
	adminv1connect.FleetServiceDrainProcedure:             RoleAdmin,
	adminv1connect.FleetServiceUndrainProcedure:           RoleAdmin,
	adminv1connect.FleetServiceSetLabelsProcedure:         RoleAdmin,
	adminv1connect.FleetServiceForgetProcedure:            RoleAdmin,
	adminv1connect.DecisionServiceQueryProcedure:          RoleViewer,
	adminv1connect.DecisionServiceTailProcedure:           RoleViewer,
	adminv1connect.PolicyServiceExplainProcedure:          RoleViewer,
	adminv1connect.PolicyServiceEvaluateProcedure:         RoleViewer,
	adminv1connect.PolicyServiceWhoCanProcedure:           RoleViewer,
	adminv1connect.PolicyServiceRunTestsProcedure:         RoleViewer,
	adminv1connect.ConfigServiceAnnotateRevisionProcedure: RoleAdmin,
	adminv1connect.BundleServiceExportProcedure:           RoleViewer,
}

// Control knows the administrators. It is immutable and safe for concurrent
// use. The zero Control denies everything.
type Control struct {
	roles map[Caller]Role
}

// NewControl returns a control for the administrators. One that names nobody,
// both kinds of name, no role, or a caller that was named before is an error.
func NewControl(administrators []Administrator) (*Control, error) {
	c := &Control{roles: map[Caller]Role{}}
	var errs []error
	for i, a := range administrators {
		byToken := a.Issuer != "" && a.Subject != ""
		if (a.SPIFFEID != "") == byToken || !byToken && (a.Issuer != "" || a.Subject != "") {
			errs = append(errs, fmt.Errorf("administrator %d: name spiffe_id, or issuer and subject", i))
			continue
		}
		if a.Role != RoleViewer && a.Role != RoleAdmin {
			errs = append(errs, fmt.Errorf("administrator %d: has no role", i))
		}
		if _, twice := c.roles[a.Caller]; twice {
			errs = append(errs, fmt.Errorf("administrator %d: %s is named twice", i, a.Caller))
		}
		c.roles[a.Caller] = a.Role
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return c, nil
}

// Authorize returns nil if the caller may call the procedure; else
// ErrUnauthenticated when it is nobody, and ErrDenied.
func (c *Control) Authorize(caller Caller, procedure string) error {
	if caller.IsZero() {
		return ErrUnauthenticated
	}
	role, known := required[procedure]
	if !known || c.roles[caller] < role || role == RoleNone {
		return fmt.Errorf("%w: %s has the role %s for %s", ErrDenied, caller, c.roles[caller], procedure)
	}
	return nil
}

// Procedures returns the procedures that anyone may be allowed to call, sorted.
func Procedures() []string {
	all := make([]string, 0, len(required))
	for p := range required {
		all = append(all, p)
	}
	slices.Sort(all)
	return all
}
