package api

import (
	"context"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// Status implements adminv1connect.FleetServiceHandler.
func (s fleetService) Status(ctx context.Context, req *connect.Request[adminv1.StatusRequest]) (*connect.Response[adminv1.StatusResponse], error) {
	revision, at, err := s.at(ctx, snapshot.Revision(req.Msg.GetRevision()), req.Msg.GetEnvironments())
	if err != nil {
		return nil, err
	}
	environments, err := s.registry.Status(ctx, at)
	if err != nil {
		return nil, err
	}
	res := &adminv1.StatusResponse{Revision: int64(revision), Environments: environments}
	return connect.NewResponse(res), s.published(ctx, res, req.Msg.GetEnvironments())
}

// at returns a revision, the newest when 0, and where environments are at it: the
// named ones, all when none is.
func (s fleetService) at(ctx context.Context, revision snapshot.Revision, named []string) (snapshot.Revision, map[string]snapshot.Revision, error) {
	position, err := s.store.Position(ctx)
	switch {
	case err != nil:
		return 0, nil, err
	case revision == 0:
		revision = position.Revision
	}
	if len(named) == 0 && revision <= position.Revision {
		at, err := s.store.EnvironmentsAt(ctx, revision)
		return revision, at, err
	}
	at, err := s.touched(ctx, revision, named)
	return revision, at, err
}
