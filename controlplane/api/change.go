package api

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/controlplane/access"
	"github.com/sallyport/sallyport/controlplane/admission"
	"github.com/sallyport/sallyport/internal/failpoint"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	"github.com/sallyport/sallyport/storage"
)

// maxAttempts bounds how often a change is planned anew because other replicas
// committed what concerns it. This replica's own changes take turns.
const maxAttempts = 10

// change is what Apply, Delete and Rollback ask for.
type change struct {
	procedure string
	message   string
	expected  *int64
	dryRun    bool
	// request is what it asks of the fleet. Where renew is set, it is made by that,
	// for the revision that the plan is made at.
	request *admission.Request
	renew   func(ctx context.Context, base snapshot.Revision) (*admission.Request, error)
}

// outcome is what has become of a change: a revision for some environments, or
// a sequence of the security lane.
type outcome struct {
	plan         *admission.Plan
	revision     snapshot.Revision
	environments []string
	sequence     snapshot.Revision
}

// outcomeOf returns the outcome of a change to a lane.
func outcomeOf(c change, plan *admission.Plan, at snapshot.Revision, environments []string) outcome {
	if c.request.Immediate() {
		return outcome{plan: plan, sequence: at}
	}
	return outcome{plan: plan, revision: at, environments: environments}
}

func (s configService) Apply(ctx context.Context, req *connect.Request[adminv1.ApplyRequest]) (*connect.Response[adminv1.ApplyResponse], error) {
	m, caller := req.Msg, callerOf(ctx)
	request := admission.NewApply(m.GetResources(), s.now())
	request.AppliedBy(caller.String(), caller.Subject, caller.SPIFFEID)
	if m.GetAllowRemovals() {
		request.AllowRemovals()
	}
	done, err := s.change(ctx, caller, change{
		procedure: adminv1connect.ConfigServiceApplyProcedure,
		message:   m.GetMessage(),
		expected:  m.ExpectedRevision,
		dryRun:    m.GetDryRun(),
		request:   request,
	})
	if err != nil {
		return nil, err
	}
	res := &adminv1.ApplyResponse{Revision: int64(done.revision), Environments: done.environments, SecuritySequence: int64(done.sequence)}
	for i, r := range m.GetResources() {
		res.Changes = append(res.Changes, &adminv1.Change{
			Key: &adminv1.Key{
				Kind: r.GetKind(), Namespace: r.GetMetadata().GetNamespace(), Name: r.GetMetadata().GetName(),
			},
			Type: done.plan.Types[i],
		})
	}
	return connect.NewResponse(res), nil
}

func (s configService) Delete(ctx context.Context, req *connect.Request[adminv1.DeleteRequest]) (*connect.Response[adminv1.DeleteResponse], error) {
	m := req.Msg
	keys := make([]resource.Key, len(m.GetKeys()))
	for i, k := range m.GetKeys() {
		keys[i] = keyOf(k)
	}
	request := admission.NewDelete(keys)
	if m.GetAllowRemovals() {
		request.AllowRemovals()
	}
	done, err := s.change(ctx, callerOf(ctx), change{
		procedure: adminv1connect.ConfigServiceDeleteProcedure,
		message:   m.GetMessage(),
		expected:  m.ExpectedRevision,
		dryRun:    m.GetDryRun(),
		request:   request,
	})
	if err != nil {
		return nil, err
	}
	res := &adminv1.DeleteResponse{Revision: int64(done.revision), Environments: done.environments, SecuritySequence: int64(done.sequence)}
	for i, k := range m.GetKeys() {
		res.Changes = append(res.Changes, &adminv1.Change{Key: k, Type: done.plan.Types[i]})
	}
	return connect.NewResponse(res), nil
}

// change makes a change, or says what keeps it from being made. One that makes
// no revision is recorded in the audit here, others with their revision.
func (s configService) change(ctx context.Context, caller access.Caller, c change) (outcome, error) {
	failpoint.Hit("apply.received")
	done, committed, err := s.try(ctx, caller, c)
	if !committed && !errors.Is(err, storage.ErrUnavailable) {
		s.audit(ctx, storage.AuditEntry{Caller: caller.String(), Action: c.procedure, Allowed: true, Detail: detail(c, err)})
	}
	failpoint.Hit("apply.answering")
	return done, err
}

func detail(c change, err error) string {
	text := "nothing to change"
	switch {
	case err != nil:
		text = "refused: " + codeOf(err).String()
	case c.dryRun:
		text = "dry run"
	}
	if c.renew != nil { // which revision it was to go back to
		text += ": " + c.message
	}
	return text
}

func (s configService) try(ctx context.Context, caller access.Caller, c change) (done outcome, committed bool, err error) {
	l, err := s.laneOf(c)
	if err != nil {
		return outcome{}, false, err
	}
	if c.renew == nil {
		l.state.compile(c.request)
	}
	if !c.dryRun {
		select {
		case l.turn <- struct{}{}:
			defer func() { <-l.turn }()
		case <-ctx.Done():
			return outcome{}, false, ctx.Err()
		}
	}
	for range maxAttempts {
		if err := l.state.sync(ctx); err != nil {
			return outcome{}, false, err
		}
		base := l.state.revision()
		if c.renew != nil {
			if c.request, err = c.renew(ctx, base); err != nil {
				return outcome{}, false, err
			}
			l.state.compile(c.request)
		}
		done, committed, err = s.attempt(ctx, l, caller, c, base)
		if !errors.Is(err, errMoved) {
			return done, committed, err
		}
	}
	return outcome{}, false, connect.NewError(connect.CodeAborted,
		errors.New("other replicas keep changing what this changes: nothing was changed, try again"))
}

func (s configService) attempt(ctx context.Context, l *lane, caller access.Caller, c change, at snapshot.Revision) (done outcome, committed bool, err error) {
	plan, base, problems := l.state.plan(c.request)
	switch {
	case c.renew != nil && base != at:
		return outcome{}, false, errMoved
	case c.expected != nil && snapshot.Revision(*c.expected) != base:
		return outcome{}, false, connect.NewError(connect.CodeAborted,
			fmt.Errorf("the fleet is at revision %d, not at the expected %d: nothing was changed", base, *c.expected))
	case problems.Total > 0:
		return outcome{}, false, refusal(problems, c)
	case c.dryRun || len(plan.Changes) == 0:
		return outcomeOf(c, plan, base, plan.Environments), false, nil
	}
	failpoint.Hit("apply.planned")
	commit := storage.Commit{
		Caller: caller.String(), Action: c.procedure, Message: c.message, Base: base, Changes: plan.Changes,
	}
	if c.expected != nil {
		commit.Expected = &base // they are equal
	}
	made, err := l.store.Commit(ctx, commit, func(since []storage.Version) error {
		if c.renew != nil && len(since) > 0 {
			return errMoved
		}
		problems, err := l.state.replan(c.request, plan, since)
		if problems.Total > 0 {
			return refusal(problems, c)
		}
		return err
	})
	if err != nil {
		return outcome{}, false, err
	}
	if l == s.security {
		s.log.InfoContext(ctx, "security lane changed", "sequence", made.Revision, "caller", caller.String(), "changes", len(plan.Changes))
	} else {
		s.log.InfoContext(ctx, "revision committed", "revision", made.Revision, "caller", caller.String(),
			"changes", len(plan.Changes), "environments", made.Environments)
	}
	return outcomeOf(c, plan, made.Revision, made.Environments), true, nil
}

// refusal makes an error of the problems of a change.
func refusal(problems resource.Problems, c change) error {
	has := func(reason string) bool {
		return slices.ContainsFunc(problems.Kept, func(p resource.Problem) bool { return p.Reason == reason })
	}
	onlyMuch := !slices.ContainsFunc(problems.Kept, func(p resource.Problem) bool { return p.Reason != admission.ReasonRemovesTooMuch })
	switch {
	case onlyMuch, c.renew != nil:
	case c.procedure != adminv1connect.ConfigServiceDeleteProcedure || has(admission.ReasonMixedLanes):
		return problem(connect.CodeInvalidArgument, problems)
	case has(admission.ReasonNotFound):
		return problem(connect.CodeNotFound, problems)
	}
	return problem(connect.CodeFailedPrecondition, problems)
}
