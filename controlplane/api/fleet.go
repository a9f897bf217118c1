package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	"github.com/sallyport/sallyport/storage"
)

const (
	defaultPage = 100
	defaultWait = 30 * time.Second
	// sendWithin bounds how long a caller may take to receive a message.
	sendWithin = 10 * time.Second
)

// fleetService implements adminv1connect.FleetServiceHandler.
type fleetService struct{ *API }

var _ adminv1connect.FleetServiceHandler = fleetService{}

func (s fleetService) ListProxies(ctx context.Context, req *connect.Request[adminv1.ListProxiesRequest]) (*connect.Response[adminv1.ListProxiesResponse], error) {
	limit := pageSize(req.Msg.GetPageSize(), defaultPage)
	var after storage.Proxy
	if token := req.Msg.GetPageToken(); token != "" {
		if err := decodeToken(token, &after.Environment, (*string)(&after.ID)); err != nil {
			return nil, err
		}
	}
	proxies, err := s.registry.Proxies(ctx, req.Msg.GetEnvironment(), after, limit+1)
	if err != nil {
		return nil, err
	}
	res := &adminv1.ListProxiesResponse{Proxies: proxies}
	if len(proxies) > limit {
		res.Proxies = proxies[:limit]
		last := res.GetProxies()[limit-1]
		res.NextPageToken = encodeToken(last.GetEnvironment(), last.GetId())
	}
	return connect.NewResponse(res), nil
}

func (s fleetService) GetProxy(ctx context.Context, req *connect.Request[adminv1.GetProxyRequest]) (*connect.Response[adminv1.GetProxyResponse], error) {
	p, err := s.registry.Proxy(ctx, storage.ProxyID(req.Msg.GetId()))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.GetProxyResponse{Proxy: p}), nil
}

func (s fleetService) WaitEnforced(ctx context.Context, req *connect.Request[adminv1.WaitEnforcedRequest], stream *connect.ServerStream[adminv1.WaitEnforcedResponse]) error {
	began := s.now()
	err := public(ctx, s.log, s.waitEnforced(ctx, req.Msg, func(m *adminv1.WaitEnforcedResponse) error {
		if control := callOf(ctx).control; control != nil {
			if err := control.SetWriteDeadline(time.Now().Add(sendWithin)); err != nil {
				return err
			}
		}
		return stream.Send(m)
	}))
	s.metrics.observe(req.Spec().Procedure, err, s.now().Sub(began))
	return err
}

func (s fleetService) waitEnforced(ctx context.Context, req *adminv1.WaitEnforcedRequest, send func(*adminv1.WaitEnforcedResponse) error) error {
	if err := s.check(req); err != nil {
		return err
	}
	timeout := defaultWait
	if req.GetTimeout() != nil {
		timeout = req.GetTimeout().AsDuration()
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errNotEnforced)
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case <-s.drain:
			stop(errDraining)
		case <-ctx.Done():
		}
	}()
	environments, err := s.waitFor(ctx, snapshot.Revision(req.GetRevision()), req.GetEnvironments())
	if err != nil {
		return err
	}
	began := s.now()
	err = s.registry.Wait(ctx, environments, func(progress []*adminv1.EnvironmentProgress, done bool) error {
		return send(&adminv1.WaitEnforcedResponse{
			Environments: progress,
			Elapsed:      durationpb.New(s.now().Sub(began)),
			Done:         done,
		})
	})
	switch cause := context.Cause(ctx); {
	case err != nil && errors.Is(cause, errDraining):
		return connect.NewError(connect.CodeUnavailable, errDraining)
	case err != nil && errors.Is(cause, errNotEnforced):
		return connect.NewError(connect.CodeDeadlineExceeded,
			fmt.Errorf("revision %d is %w after %s", req.GetRevision(), errNotEnforced, timeout))
	}
	return err
}

var (
	errNotEnforced = errors.New("not enforced everywhere")
	errDraining    = errors.New("this replica is about to end: ask again")
)

// waitFor returns the environments to wait for, each with its revision at the
// fleet's revision: the named ones, or those that the revision touched.
func (s fleetService) waitFor(ctx context.Context, revision snapshot.Revision, named []string) (map[string]snapshot.Revision, error) {
	position, err := s.store.Position(ctx)
	if err != nil {
		return nil, err
	}
	if revision > position.Revision {
		return nil, connect.NewError(connect.CodeNotFound,
			fmt.Errorf("there is no revision %d yet: the fleet is at %d", revision, position.Revision))
	}
	at, err := s.store.EnvironmentsAt(ctx, revision)
	if err != nil {
		return nil, err
	}
	wanted := map[string]snapshot.Revision{}
	for environment, r := range at {
		if slices.Contains(named, environment) || len(named) == 0 && r == revision {
			wanted[environment] = r
		}
	}
	var unknown []string
	for _, name := range named {
		if _, ok := wanted[name]; !ok {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		return nil, connect.NewError(connect.CodeNotFound,
			errors.New("there is nothing to enforce at that revision in "+strings.Join(unknown, ", ")))
	}
	return wanted, nil
}
