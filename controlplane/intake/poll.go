package intake

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/identity"
	replicav1 "github.com/sallyport/sallyport/proto/gen/sallyport/replica/v1"
)

// pollWithin is for how long a poll waits for questions.
const pollWithin = 20 * time.Second

// edgeOf returns who calls.
func edgeOf(ctx context.Context) (identity.ID, error) {
	id, ok := ctx.Value(peerKey{}).(identity.ID)
	if !ok {
		return "", connect.NewError(connect.CodeUnauthenticated, errors.New("no verified peer"))
	}
	return id, nil
}

// Poll implements replicav1connect.ReplicaServiceHandler.
func (s *Service) Poll(ctx context.Context, req *connect.Request[replicav1.PollRequest]) (*connect.Response[replicav1.PollResponse], error) {
	by, err := edgeOf(ctx)
	if err != nil {
		return nil, err
	}
	if err := check(req.Msg); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, pollWithin)
	defer cancel()
	questions, err := s.Questions.poll(ctx, s.drain, registry.AtEdge(req.Msg.GetReplica()), by)
	if err != nil {
		return nil, connect.NewError(connect.CodeResourceExhausted, err)
	}
	return connect.NewResponse(&replicav1.PollResponse{Questions: questions}), nil
}

// Answer implements replicav1connect.ReplicaServiceHandler.
func (s *Service) Answer(ctx context.Context, req *connect.Request[replicav1.AnswerRequest]) (*connect.Response[replicav1.AnswerResponse], error) {
	by, err := edgeOf(ctx)
	if err != nil {
		return nil, err
	}
	if err := check(req.Msg); err != nil {
		return nil, err
	}
	if !s.Questions.answered(req.Msg.GetId(), answer{by, req.Msg.GetInspection()}) {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("nobody waits for this answer"))
	}
	return connect.NewResponse(&replicav1.AnswerResponse{}), nil
}
