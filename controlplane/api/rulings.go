package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/internal/pattern"
	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
)

// maxOperatorLabels bounds the labels of a proxy.
const maxOperatorLabels = 32

var (
	errQuarantined = connect.NewError(connect.CodeFailedPrecondition, errors.New("it is quarantined: release it first"))
	errNotHeld     = connect.NewError(connect.CodeFailedPrecondition, errors.New("it is not quarantined"))
	errManyLabels  = connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("a proxy has at most %d labels of operators", maxOperatorLabels))
)

// ruling is what an operator says of a subject, and what that makes of what was
// ruled before.
type ruling struct {
	subject, reason string
	// detail is what the audit has beside subject and reason.
	detail string
	revise func(r *storage.Ruling) error
	// process says that the subject is a process, which has to be known.
	process bool
	// quiet leaves the reason of before.
	quiet bool
}

// rule keeps a ruling and records it, or records that it was refused. It returns how
// many proxies are known of the subject.
func (s fleetService) rule(ctx context.Context, req connect.AnyRequest, of ruling) (int32, error) {
	caller := callerOf(ctx).String()
	e := storage.AuditEntry{At: s.now(), Caller: caller, Action: req.Spec().Procedure, Allowed: true, Detail: of.String()}
	var known int
	err := s.registry.Rule(ctx, of.subject, e, func(r storage.Ruling, proxies int) (storage.Ruling, error) {
		known = proxies
		if of.process && (proxies == 0 || !strings.Contains(of.subject, "#")) {
			return r, storage.ErrNotFound
		}
		if !of.quiet {
			r.Reason, r.Caller, r.At = of.reason, caller, e.At
		}
		if r.At.IsZero() {
			r.At = e.At
		}
		err := of.revise(&r)
		return r, err
	})
	if err != nil {
		s.refused(ctx, e, err)
		return 0, err
	}
	s.log.InfoContext(ctx, "proxy was ruled on", "proxy", of.subject, "procedure", e.Action, "caller", caller)
	return int32(min(known, 1<<30)), nil //nolint:gosec // bounded
}

// refused records that a ruling was not made.
func (s fleetService) refused(ctx context.Context, e storage.AuditEntry, err error) {
	if errors.Is(err, storage.ErrUnavailable) {
		return // nor could that be recorded
	}
	e.Detail = "refused: " + codeOf(err).String() + ": " + e.Detail
	s.audit(ctx, e)
}

// String is the detail of the audit.
func (r ruling) String() string {
	parts := slices.DeleteFunc([]string{r.subject, r.detail, r.reason}, func(s string) bool { return s == "" })
	return strings.Join(parts, ": ")
}

// ruleIdentity is rule for a SPIFFE ID.
func (s fleetService) ruleIdentity(ctx context.Context, req connect.AnyRequest, id, reason string, revise func(r *storage.Ruling) error) (int32, error) {
	// A template without wildcards matches itself alone.
	if p, err := pattern.ParseSPIFFE(id); err != nil || !p.Match(id) {
		return 0, unfit("spiffe_id", "is a SPIFFE ID, such as spiffe://prod.example/proxy/aws: without an instance, and without wildcards")
	}
	return s.rule(ctx, req, ruling{subject: id, reason: reason, revise: revise})
}

// Approve implements adminv1connect.FleetServiceHandler.
func (s fleetService) Approve(ctx context.Context, req *connect.Request[adminv1.ApproveRequest]) (*connect.Response[adminv1.ApproveResponse], error) {
	n, err := s.ruleIdentity(ctx, req, req.Msg.GetSpiffeId(), req.Msg.GetReason(), approval(storage.Approved))
	return connect.NewResponse(&adminv1.ApproveResponse{Proxies: n}), err
}

// Refuse implements adminv1connect.FleetServiceHandler.
func (s fleetService) Refuse(ctx context.Context, req *connect.Request[adminv1.RefuseRequest]) (*connect.Response[adminv1.RefuseResponse], error) {
	n, err := s.ruleIdentity(ctx, req, req.Msg.GetSpiffeId(), req.Msg.GetReason(), approval(storage.Refused))
	return connect.NewResponse(&adminv1.RefuseResponse{Proxies: n}), err
}

// approval makes an approval of what was ruled. In a quarantine nobody is to take
// one for being let in.
func approval(to storage.Approval) func(r *storage.Ruling) error {
	return func(r *storage.Ruling) error {
		if r.Quarantined {
			return errQuarantined
		}
		r.Approval = to
		return nil
	}
}

// Quarantine implements adminv1connect.FleetServiceHandler.
func (s fleetService) Quarantine(ctx context.Context, req *connect.Request[adminv1.QuarantineRequest]) (*connect.Response[adminv1.QuarantineResponse], error) {
	n, err := s.ruleIdentity(ctx, req, req.Msg.GetSpiffeId(), req.Msg.GetReason(), func(r *storage.Ruling) error {
		r.Quarantined = true
		return nil
	})
	return connect.NewResponse(&adminv1.QuarantineResponse{Proxies: n}), err
}

// Release implements adminv1connect.FleetServiceHandler.
func (s fleetService) Release(ctx context.Context, req *connect.Request[adminv1.ReleaseRequest]) (*connect.Response[adminv1.ReleaseResponse], error) {
	n, err := s.ruleIdentity(ctx, req, req.Msg.GetSpiffeId(), req.Msg.GetReason(), func(r *storage.Ruling) error {
		if !r.Quarantined {
			return errNotHeld
		}
		r.Quarantined = false
		return nil
	})
	return connect.NewResponse(&adminv1.ReleaseResponse{Proxies: n}), err
}

// Drain implements adminv1connect.FleetServiceHandler.
func (s fleetService) Drain(ctx context.Context, req *connect.Request[adminv1.DrainRequest]) (*connect.Response[adminv1.DrainResponse], error) {
	_, err := s.rule(ctx, req, ruling{subject: req.Msg.GetId(), reason: req.Msg.GetReason(), process: true, revise: draining(true)})
	return connect.NewResponse(&adminv1.DrainResponse{}), err
}

// Undrain implements adminv1connect.FleetServiceHandler.
func (s fleetService) Undrain(ctx context.Context, req *connect.Request[adminv1.UndrainRequest]) (*connect.Response[adminv1.UndrainResponse], error) {
	_, err := s.rule(ctx, req, ruling{subject: req.Msg.GetId(), reason: req.Msg.GetReason(), process: true, revise: draining(false)})
	return connect.NewResponse(&adminv1.UndrainResponse{}), err
}

func draining(to bool) func(r *storage.Ruling) error {
	return func(r *storage.Ruling) error {
		r.Draining = to
		return nil
	}
}

// SetLabels implements adminv1connect.FleetServiceHandler.
func (s fleetService) SetLabels(ctx context.Context, req *connect.Request[adminv1.SetLabelsRequest]) (*connect.Response[adminv1.SetLabelsResponse], error) {
	m := req.Msg
	if err := checkLabels(m); err != nil {
		return nil, err
	}
	res := &adminv1.SetLabelsResponse{}
	_, err := s.rule(ctx, req, ruling{
		subject: m.GetId(), detail: labelled(m), process: true, quiet: true,
		revise: func(r *storage.Ruling) error {
			labels := maps.Clone(r.Labels)
			if labels == nil {
				labels = map[string]string{}
			}
			for _, key := range m.GetRemove() {
				delete(labels, key)
			}
			maps.Copy(labels, m.GetLabels())
			if len(labels) > maxOperatorLabels {
				return errManyLabels
			}
			r.Labels, res.Labels = labels, labels
			return nil
		},
	})
	return connect.NewResponse(res), err
}

func checkLabels(m *adminv1.SetLabelsRequest) error {
	var problems resource.Problems
	for _, key := range slices.Sorted(maps.Keys(m.GetLabels())) {
		if err := resource.CheckLabel(key, m.GetLabels()[key]); err != nil {
			problems.Add(resource.Problem{
				Index: -1, Field: fmt.Sprintf("labels[%q]", key), Reason: resource.ReasonInvalidValue, Message: err.Error(),
			})
		}
	}
	if problems.Total > 0 {
		return problem(connect.CodeInvalidArgument, problems)
	}
	return nil
}

// labelled says what a request does to labels.
func labelled(m *adminv1.SetLabelsRequest) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(m.GetLabels())) {
		parts = append(parts, key+"="+m.GetLabels()[key])
	}
	for _, key := range m.GetRemove() {
		parts = append(parts, key+"-")
	}
	return strings.Join(parts, " ")
}

// Forget implements adminv1connect.FleetServiceHandler.
func (s fleetService) Forget(ctx context.Context, req *connect.Request[adminv1.ForgetRequest]) (*connect.Response[adminv1.ForgetResponse], error) {
	of := ruling{subject: req.Msg.GetId(), reason: req.Msg.GetReason()}
	e := storage.AuditEntry{
		At: s.now(), Caller: callerOf(ctx).String(), Action: req.Spec().Procedure, Allowed: true, Detail: of.String(),
	}
	err := s.registry.Forget(ctx, storage.ProxyID(of.subject), e)
	if err != nil {
		err = cmp.Or(unforgotten(err), err)
		s.refused(ctx, e, err)
	}
	return connect.NewResponse(&adminv1.ForgetResponse{}), err
}

// unforgotten says why a proxy is kept; nil if it is not for what it is.
func unforgotten(err error) error {
	switch {
	case errors.Is(err, storage.ErrHeard):
		return connect.NewError(connect.CodeFailedPrecondition,
			fmt.Errorf("%w: it would be back at once. Stop it first, or refuse or quarantine it", storage.ErrHeard))
	case errors.Is(err, storage.ErrBarred):
		return connect.NewError(connect.CodeFailedPrecondition,
			fmt.Errorf("%w: it could come back as if nothing had been said. Approve or release it first", storage.ErrBarred))
	}
	return nil
}
