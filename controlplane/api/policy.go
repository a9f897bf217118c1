package api

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/controlplane/admission"
	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/evaluate"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
	"github.com/sallyport/sallyport/storage"
)

// maxTests bounds the tests of a call.
const maxTests = 5000

// policyService implements adminv1connect.PolicyServiceHandler.
type policyService struct{ *API }

var _ adminv1connect.PolicyServiceHandler = policyService{}

var (
	errNoRecord = connect.NewError(connect.CodeNotFound, errors.New("there is no record of this decision: it may still be on its way; "+
		"of allowed requests a sample is recorded, and denials in great numbers are counted; records are kept for so many days"))
	errNoRecords = connect.NewError(connect.CodeUnimplemented, errors.New("decisions are not recorded here"))
)

// Explain implements adminv1connect.PolicyServiceHandler.
func (s policyService) Explain(ctx context.Context, req *connect.Request[adminv1.ExplainRequest]) (*connect.Response[adminv1.ExplainResponse], error) {
	if s.decisions == nil {
		return nil, errNoRecords
	}
	id, err := storage.ParseDecisionID(req.Msg.GetId())
	if err != nil {
		return nil, errID
	}
	found, err := s.decisions.Decisions(ctx, storage.DecisionPage{DecisionFilter: storage.DecisionFilter{ID: id}, Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, errNoRecord
	}
	records, err := told(found)
	if err != nil {
		return nil, err
	}
	res, err := s.explain(ctx, records[0])
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

// explain asks again what can be asked again.
func (s policyService) explain(ctx context.Context, d *decisionv1.Decision) (*adminv1.ExplainResponse, error) {
	note, ok := evaluate.Repeatable(d)
	if ok {
		at, err := s.store.Position(ctx)
		if err != nil {
			return nil, err
		}
		if d.GetEpoch() != int64(at.Epoch) || d.GetRevision() > int64(at.Revision) || d.GetRevision() <= 0 {
			ok, note = false, "the history that the revision belongs to has ended"
		}
	}
	if !ok {
		return evaluate.Explain(nil, d, note), nil
	}
	var res *adminv1.ExplainResponse
	err := s.tables.with(ctx, d.GetEnvironment(), snapshot.Revision(d.GetRevision()), edit{}, func(t *compile.Table) error {
		res = evaluate.Explain(t, d, "")
		return nil
	})
	if errors.Is(err, errNoEnvironment) {
		return evaluate.Explain(nil, d, "the environment held nothing at this revision"), nil
	}
	return res, err
}

// Evaluate implements adminv1connect.PolicyServiceHandler.
func (s policyService) Evaluate(ctx context.Context, req *connect.Request[adminv1.EvaluateRequest]) (*connect.Response[adminv1.EvaluateResponse], error) {
	m := req.Msg
	q, err := evaluate.Describe(m.GetQuestion(), s.now())
	if err != nil {
		return nil, invalid("question", err.Error())
	}
	if len(m.GetCandidates()) > 0 && m.GetRevision() > 0 {
		return nil, unfit("revision", "candidates go on top of the newest revision: leave it out")
	}
	environment := m.GetQuestion().GetEnvironment()
	candidates, err := s.candidates(ctx, m.GetCandidates())
	if err != nil {
		return nil, err
	}
	res := &adminv1.EvaluateResponse{}
	err = s.tables.with(ctx, environment, snapshot.Revision(m.GetRevision()), candidates.of(environment), func(t *compile.Table) error {
		res.Answer = evaluate.Ask(t, &q)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

// WhoCan implements adminv1connect.PolicyServiceHandler.
func (s policyService) WhoCan(ctx context.Context, req *connect.Request[adminv1.WhoCanRequest]) (*connect.Response[adminv1.WhoCanResponse], error) {
	m := req.Msg
	if (m.GetRoute() == "") == (m.GetHost() == "") {
		return nil, unfit("route", "give either a route, as namespace/name, or host and path")
	}
	var res *adminv1.WhoCanResponse
	err := s.tables.with(ctx, m.GetEnvironment(), snapshot.Revision(m.GetRevision()), edit{}, func(t *compile.Table) error {
		res = evaluate.WhoCan(t, m)
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case res == nil:
		return nil, errNoRoute
	}
	return connect.NewResponse(res), nil
}

var errNoRoute = connect.NewError(connect.CodeNotFound, errors.New("there is no such route"))

// RunTests implements adminv1connect.PolicyServiceHandler.
func (s policyService) RunTests(ctx context.Context, req *connect.Request[adminv1.RunTestsRequest]) (*connect.Response[adminv1.RunTestsResponse], error) {
	m := req.Msg
	var all []evaluate.Test
	var problems resource.Problems
	for _, f := range m.GetFiles() {
		tests, found := evaluate.ParseTests(f.GetName(), f.GetText())
		all = append(all, tests...)
		problems.Merge(found)
	}
	where := evaluate.ByEnvironment(all, m.GetEnvironment())
	switch {
	case problems.Total > 0:
		return nil, problem(connect.CodeInvalidArgument, problems)
	case len(all) > maxTests:
		return nil, invalid("files", fmt.Sprintf("there are %d tests: more than %d", len(all), maxTests))
	case len(where[""]) > 0:
		return nil, invalid("environment", "is required: there are tests that name none")
	}
	candidates, err := s.candidates(ctx, m.GetCandidates())
	if err != nil {
		return nil, err
	}
	res := &adminv1.RunTestsResponse{Results: make([]*adminv1.TestResult, len(all))}
	for environment, indexes := range where {
		err := s.tables.with(ctx, environment, 0, candidates.of(environment), func(t *compile.Table) error {
			for _, i := range indexes {
				res.Results[i] = all[i].Run(t, s.now())
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return connect.NewResponse(res), nil
}

// candidates are changes that are not to be made.
type candidates []storage.Change

// candidates returns what resources would change, or what keeps them from being
// applied.
func (s policyService) candidates(ctx context.Context, resources []*adminv1.Resource) (candidates, error) {
	if len(resources) == 0 {
		return nil, nil
	}
	request := admission.NewApply(resources, s.now())
	if request.Immediate() {
		return nil, invalid("candidates", "of the security lane nothing is evaluated")
	}
	s.fleet.state.compile(request)
	if err := s.fleet.state.sync(ctx); err != nil {
		return nil, err
	}
	plan, _, problems := s.fleet.state.plan(request)
	if problems.Total > 0 {
		return nil, problem(connect.CodeInvalidArgument, problems)
	}
	return plan.Changes, nil
}

// of is what the changes do to an environment.
func (c candidates) of(environment string) (e edit) {
	for _, change := range c {
		entry, err := snapshot.NewEntry(change.Document)
		if err == nil && change.Scope.Includes(environment) {
			e.upserts = append(e.upserts, entry)
		} else {
			e.removed = append(e.removed, change.Key)
		}
	}
	return e
}

// invalid refuses the value of a field.
func invalid(field, message string) error {
	var problems resource.Problems
	problems.Add(resource.Problem{Index: -1, Field: field, Reason: resource.ReasonInvalidValue, Message: message})
	return problem(connect.CodeInvalidArgument, problems)
}
