package api

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/controlplane/admission"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	"github.com/sallyport/sallyport/storage"
)

// What one Rollback takes, which is in memory at once: as many resources as an
// Apply, and what several of those may have brought.
const (
	maxRollback      = 20_000
	maxRollbackBytes = 64 << 20
)

// rollback is a call to go back, under way.
type rollback struct {
	store storage.Resources
	to    snapshot.Revision
	most  int // how many resources it may change
	how   admission.Rollback
	// removals is as in admission.Request.
	removals bool
	// appliers are the names of who calls.
	appliers []string
	// differences are from where the fleet was when it was last planned.
	differences []storage.Difference
}

func (s configService) Rollback(ctx context.Context, req *connect.Request[adminv1.RollbackRequest]) (*connect.Response[adminv1.RollbackResponse], error) {
	m, caller := req.Msg, callerOf(ctx)
	select {
	case s.rolling <- struct{}{}:
		defer func() { <-s.rolling }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	r := &rollback{
		store: s.store, to: snapshot.Revision(m.GetToRevision()), most: s.maxRollback,
		how:      admission.Rollback{Now: s.now(), Trust: m.GetRestoreTrust()},
		removals: m.GetAllowRemovals(), appliers: []string{caller.String(), caller.Subject, caller.SPIFFEID},
	}
	done, err := s.change(ctx, caller, change{
		procedure: adminv1connect.ConfigServiceRollbackProcedure,
		message:   r.message(m.GetMessage()),
		expected:  m.ExpectedRevision,
		dryRun:    m.GetDryRun(),
		renew:     r.request,
	})
	if err != nil {
		return nil, err
	}
	res := &adminv1.RollbackResponse{Revision: int64(done.revision), Environments: done.environments}
	for i, d := range r.differences {
		res.Changes = append(res.Changes, &adminv1.Change{
			Key:  &adminv1.Key{Kind: string(d.Key.Kind), Namespace: d.Key.Namespace, Name: d.Key.Name},
			Type: done.plan.Types[i],
		})
	}
	if m.GetDryRun() {
		res.Resources, err = presented(len(r.differences), func(i int) (*adminv1.ResourceDiff, error) { return difference(r.differences[i]) })
	}
	return connect.NewResponse(res), err
}

// message is what the history says of it.
func (r *rollback) message(why string) string {
	text := fmt.Sprintf("back to revision %d", r.to)
	if why != "" {
		text += ": " + why
	}
	return text
}

// request asks for all that is not at the base as it was.
func (r *rollback) request(ctx context.Context, base snapshot.Revision) (*admission.Request, error) {
	differences, err := r.store.Differences(ctx, storage.Span{
		From: base, To: r.to, Page: storage.Page{Limit: r.most + 1, Bytes: maxRollbackBytes},
	})
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("there is no revision %d yet", r.to))
	case err != nil:
		return nil, err
	}
	bytes := 0
	for _, d := range differences {
		bytes += len(d.Before.Document) + len(d.After.Document)
	}
	if len(differences) > r.most || bytes > maxRollbackBytes {
		return nil, r.tooFar()
	}
	r.differences = differences
	request := admission.NewRollback(differences, r.how)
	request.AppliedBy(r.appliers...)
	if r.removals {
		request.AllowRemovals()
	}
	return request, nil
}

// tooFar refuses to go back over more than fits.
func (r *rollback) tooFar() error {
	var problems resource.Problems
	problems.Add(resource.Problem{
		Index: -1, Field: "to_revision", Reason: resource.ReasonTooMany,
		Message: fmt.Sprintf("since revision %d more than %d resources were changed, or %d MiB of them: go back in steps, over revisions in between",
			r.to, r.most, maxRollbackBytes>>20),
	})
	return problem(connect.CodeFailedPrecondition, problems)
}
