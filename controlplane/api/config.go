package api

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/controlplane/access"
	"github.com/sallyport/sallyport/controlplane/admission"
	"github.com/sallyport/sallyport/internal/failpoint"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	"github.com/sallyport/sallyport/storage"
)

const defaultRevisions = 50

// state is the fleet as admission sees it. It is safe for concurrent use; the
// mutex is held for computing only, never while the database is asked.
type state struct {
	store Store

	mu    sync.Mutex
	known admission.State
}

func newState(s Store) *state { return &state{store: s} }

// sync brings the state up to the database.
func (s *state) sync(ctx context.Context) error {
	s.mu.Lock()
	after := s.known.Revision()
	s.mu.Unlock()
	versions, to, err := s.store.Since(ctx, after)
	if err != nil {
		return err
	}
	return s.advance(versions, to)
}

func (s *state) advance(versions []storage.Version, to snapshot.Revision) error {
	read, err := admission.ReadVersions(versions, to)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known.Advance(read)
	return nil
}

// plan plans the request on the newest state that is known, whose revision it
// returns. Conditions are compiled before the state is locked.
func (s *state) plan(r *admission.Request) (*admission.Plan, snapshot.Revision, resource.Problems) {
	s.mu.Lock()
	unknown := s.known.Unknown(r)
	s.mu.Unlock()
	r.Compile(unknown)
	s.mu.Lock()
	defer s.mu.Unlock()
	plan, problems := s.known.Plan(r)
	return plan, s.known.Revision(), problems
}

// configService implements adminv1connect.ConfigServiceHandler.
type configService struct{ *API }

var _ adminv1connect.ConfigServiceHandler = configService{}

// change is what Apply and Delete ask for.
type change struct {
	procedure string
	message   string
	expected  *int64
	dryRun    bool
	refused   connect.Code // for problems
	request   *admission.Request
}

func (s configService) Apply(ctx context.Context, req *connect.Request[adminv1.ApplyRequest]) (*connect.Response[adminv1.ApplyResponse], error) {
	m := req.Msg
	plan, done, err := s.change(ctx, callerOf(ctx), change{
		procedure: adminv1connect.ConfigServiceApplyProcedure,
		message:   m.GetMessage(),
		expected:  m.ExpectedRevision,
		dryRun:    m.GetDryRun(),
		refused:   connect.CodeInvalidArgument,
		request:   admission.NewApply(m.GetResources()),
	})
	if err != nil {
		return nil, err
	}
	res := &adminv1.ApplyResponse{Revision: int64(done.Revision), Environments: done.Environments}
	for i, r := range m.GetResources() {
		res.Changes = append(res.Changes, &adminv1.Change{
			Key: &adminv1.Key{
				Kind: r.GetKind(), Namespace: r.GetMetadata().GetNamespace(), Name: r.GetMetadata().GetName(),
			},
			Type: plan.Types[i],
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
	plan, done, err := s.change(ctx, callerOf(ctx), change{
		procedure: adminv1connect.ConfigServiceDeleteProcedure,
		message:   m.GetMessage(),
		expected:  m.ExpectedRevision,
		dryRun:    m.GetDryRun(),
		refused:   connect.CodeFailedPrecondition,
		request:   admission.NewDelete(keys),
	})
	if err != nil {
		return nil, err
	}
	res := &adminv1.DeleteResponse{Revision: int64(done.Revision), Environments: done.Environments}
	for i, k := range m.GetKeys() {
		res.Changes = append(res.Changes, &adminv1.Change{Key: k, Type: plan.Types[i]})
	}
	return connect.NewResponse(res), nil
}

// change plans, checks and commits. What was refused is in the audit.
func (s configService) change(ctx context.Context, caller access.Caller, c change) (*admission.Plan, storage.Committed, error) {
	failpoint.Hit("apply.received")
	plan, done, err := s.tryChange(ctx, caller, c)
	if err != nil || c.dryRun {
		detail := "dry run"
		if err != nil {
			detail = "refused: " + connect.CodeOf(public(ctx, s.log, err)).String()
		}
		s.audit(ctx, storage.AuditEntry{Caller: caller.String(), Action: c.procedure, Allowed: true, Detail: detail})
	}
	failpoint.Hit("apply.answering")
	return plan, done, err
}

// errMoved says that others committed between a plan and its commit, so that
// the plan has become another one.
var errMoved = errors.New("the fleet has changed meanwhile")

func (s configService) tryChange(ctx context.Context, caller access.Caller, c change) (*admission.Plan, storage.Committed, error) {
	for {
		if err := s.state.sync(ctx); err != nil {
			return nil, storage.Committed{}, err
		}
		plan, base, problems := s.state.plan(c.request)
		switch {
		case problems.Total > 0:
			return nil, storage.Committed{}, problem(c.refused, problems)
		case c.expected != nil && snapshot.Revision(*c.expected) != base:
			return nil, storage.Committed{}, fmt.Errorf("%w: it is at %d", storage.ErrConflict, base)
		case c.dryRun || len(plan.Changes) == 0:
			return plan, storage.Committed{Revision: base, Environments: plan.Environments}, nil
		}
		failpoint.Hit("apply.planned")
		done, err := s.commit(ctx, caller, c, plan, base)
		if !errors.Is(err, errMoved) {
			return plan, done, err
		}
	}
}

func (s configService) commit(ctx context.Context, caller access.Caller, c change, plan *admission.Plan, base snapshot.Revision) (storage.Committed, error) {
	commit := storage.Commit{
		Caller: caller.String(), Action: c.procedure, Message: c.message, Base: base, Changes: plan.Changes,
	}
	if c.expected != nil {
		expected := snapshot.Revision(*c.expected)
		commit.Expected = &expected
	}
	done, err := s.store.Commit(ctx, commit, func(since []storage.Version) error {
		return s.recheck(c, plan, since)
	})
	if err != nil {
		return storage.Committed{}, err
	}
	s.log.InfoContext(ctx, "revision committed", "revision", done.Revision, "caller", caller.String(),
		"changes", len(plan.Changes), "environments", done.Environments)
	return done, nil
}

// recheck plans the request again on what others committed since. It runs
// under the lock that orders commits.
func (s configService) recheck(c change, plan *admission.Plan, since []storage.Version) error {
	if len(since) == 0 {
		return nil
	}
	var to snapshot.Revision
	for _, v := range since {
		to = max(to, v.Revision)
	}
	if err := s.state.advance(since, to); err != nil {
		return err
	}
	again, _, problems := s.state.plan(c.request)
	switch {
	case problems.Total > 0:
		return problem(c.refused, problems)
	case !plan.Same(again):
		return errMoved
	}
	return nil
}

func (s configService) Get(ctx context.Context, req *connect.Request[adminv1.GetRequest]) (*connect.Response[adminv1.GetResponse], error) {
	v, err := s.store.Resource(ctx, keyOf(req.Msg.GetKey()), snapshot.Revision(req.Msg.GetRevision()))
	if err != nil {
		return nil, err
	}
	stored, err := present(v)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.GetResponse{Resource: stored}), nil
}

func (s configService) List(ctx context.Context, req *connect.Request[adminv1.ListRequest]) (*connect.Response[adminv1.ListResponse], error) {
	m := req.Msg
	limit := pageSize(m.GetPageSize(), defaultPage)
	filter := storage.Filter{Kind: resource.Kind(m.GetKind()), At: snapshot.Revision(m.GetRevision()), Limit: limit + 1}
	if m.GetNamespace() != "" {
		filter.Namespace = &m.Namespace
	}
	if token := m.GetPageToken(); token != "" {
		var at string
		if err := decodeToken(token, &at, (*string)(&filter.After.Kind), &filter.After.Namespace, &filter.After.Name); err != nil {
			return nil, err
		}
		if err := parseRevision(at, &filter.At); err != nil {
			return nil, err
		}
	}
	versions, at, err := s.store.List(ctx, filter)
	if err != nil {
		return nil, err
	}
	res := &adminv1.ListResponse{Revision: int64(at)}
	if len(versions) > limit {
		versions = versions[:limit]
		last := versions[limit-1].Key
		res.NextPageToken = encodeToken(formatRevision(at), string(last.Kind), last.Namespace, last.Name)
	}
	for _, v := range versions {
		stored, err := present(v)
		if err != nil {
			return nil, err
		}
		res.Resources = append(res.Resources, stored)
	}
	return connect.NewResponse(res), nil
}

func (s configService) ListRevisions(ctx context.Context, req *connect.Request[adminv1.ListRevisionsRequest]) (*connect.Response[adminv1.ListRevisionsResponse], error) {
	limit := pageSize(req.Msg.GetPageSize(), defaultRevisions)
	var before snapshot.Revision
	if token := req.Msg.GetPageToken(); token != "" {
		var at string
		if err := decodeToken(token, &at); err != nil {
			return nil, err
		}
		if err := parseRevision(at, &before); err != nil {
			return nil, err
		}
	}
	revisions, err := s.store.Revisions(ctx, before, limit+1)
	if err != nil {
		return nil, err
	}
	res := &adminv1.ListRevisionsResponse{}
	if len(revisions) > limit {
		revisions = revisions[:limit]
		res.NextPageToken = encodeToken(formatRevision(revisions[limit-1].Revision))
	}
	for _, r := range revisions {
		res.Revisions = append(res.Revisions, &adminv1.Revision{
			Revision: int64(r.Revision), CommittedAt: timestamppb.New(r.CommittedAt), Caller: r.Caller,
			Message: r.Message, Changes: int32(r.Changes), Environments: r.Environments, //nolint:gosec // bounded by a request
		})
	}
	return connect.NewResponse(res), nil
}

func keyOf(k *adminv1.Key) resource.Key {
	return resource.Key{Kind: resource.Kind(k.GetKind()), Namespace: k.GetNamespace(), Name: k.GetName()}
}

func present(v storage.Version) (*adminv1.StoredResource, error) {
	r, err := resource.Present(v.Document)
	if err != nil {
		return nil, fmt.Errorf("present %s: %w", v.Key, err)
	}
	return &adminv1.StoredResource{Resource: r, Revision: int64(v.Revision), Digest: v.Digest[:]}, nil
}
