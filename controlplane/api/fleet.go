package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/resource"
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
	for _, p := range proxies {
		p.Proofs, p.SecurityProof = nil, nil
	}
	res := &adminv1.ListProxiesResponse{Proxies: proxies}
	if len(proxies) > limit {
		res.Proxies = proxies[:limit]
		last := res.GetProxies()[limit-1]
		res.NextPageToken = encodeToken(last.GetEnvironment(), last.GetId())
	}
	return connect.NewResponse(res), s.target(ctx, res.GetProxies()...)
}

func (s fleetService) GetProxy(ctx context.Context, req *connect.Request[adminv1.GetProxyRequest]) (*connect.Response[adminv1.GetProxyResponse], error) {
	p, err := s.registry.Proxy(ctx, storage.ProxyID(req.Msg.GetId()))
	if err != nil {
		return nil, err
	}
	// What this replica knows itself it tells without the database.
	if err := s.target(ctx, p); err != nil && !errors.Is(err, storage.ErrUnavailable) {
		return nil, err
	}
	return connect.NewResponse(&adminv1.GetProxyResponse{Proxy: p}), nil
}

// target adds to proxies the revision that they should enforce.
func (s fleetService) target(ctx context.Context, proxies ...*adminv1.Proxy) error {
	position, err := s.store.Position(ctx)
	if err != nil {
		return err
	}
	at, err := s.store.EnvironmentsAt(ctx, position.Revision)
	if err != nil {
		return err
	}
	for _, p := range proxies {
		p.EnvironmentRevision = int64(at[p.GetEnvironment()])
	}
	return nil
}

func (s fleetService) WaitEnforced(ctx context.Context, req *connect.Request[adminv1.WaitEnforcedRequest], stream *connect.ServerStream[adminv1.WaitEnforcedResponse]) error {
	began := s.now()
	p := patient[adminv1.WaitEnforcedResponse]{stream, callOf(ctx).control, s.sendWithin}
	err := p.rest()
	if err == nil {
		err = s.waitEnforced(ctx, req.Msg, p.send)
	}
	err = public(ctx, s.log, err)
	s.metrics.observe(req.Spec().Procedure, err, s.now().Sub(began))
	return cmp.Or(err, p.hurry())
}

// patient is a stream that may be silent for as long as it likes, and whose
// client has to take in time what is sent.
type patient[M any] struct {
	stream  *connect.ServerStream[M]
	control *http.ResponseController
	within  time.Duration
}

func (p patient[M]) send(m *M) error {
	if err := p.hurry(); err != nil {
		return err
	}
	if err := p.stream.Send(m); err != nil {
		return err
	}
	return p.rest()
}

// rest ends the deadline, which would end the stream even when nothing is being
// sent.
func (p patient[M]) rest() error { return p.control.SetWriteDeadline(time.Time{}) }

func (p patient[M]) hurry() error { return p.control.SetWriteDeadline(time.Now().Add(p.within)) }

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
	began := s.now()
	err := s.waitFor(ctx, req, func(progress []*adminv1.EnvironmentProgress, done bool) error {
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
			fmt.Errorf("%s is %w after %s", awaited(req), errNotEnforced, timeout))
	}
	return err
}

var (
	errNotEnforced = errors.New("not enforced everywhere")
	errDraining    = errors.New("this replica is about to end: ask again")
)

// awaited names what is waited for.
func awaited(req *adminv1.WaitEnforcedRequest) string {
	if n := req.GetSecuritySequence(); n > 0 {
		return fmt.Sprintf("security sequence %d", n)
	}
	return fmt.Sprintf("revision %d", req.GetRevision())
}

func (s fleetService) waitFor(ctx context.Context, req *adminv1.WaitEnforcedRequest, report registry.Report) error {
	if sequence := snapshot.Revision(req.GetSecuritySequence()); sequence > 0 {
		environments, err := s.existing(ctx, sequence, req.GetEnvironments())
		if err != nil {
			return err
		}
		return s.registry.WaitSecurity(ctx, environments, sequence, report)
	}
	environments, err := s.touched(ctx, snapshot.Revision(req.GetRevision()), req.GetEnvironments())
	if err != nil {
		return err
	}
	return s.registry.Wait(ctx, environments, report)
}

// existing returns the environments to wait for a sequence of the security lane
// in: the named ones, or all.
func (s fleetService) existing(ctx context.Context, sequence snapshot.Revision, named []string) ([]string, error) {
	position, err := s.security.store.Position(ctx)
	if err != nil {
		return nil, err
	}
	if sequence > position.Revision {
		return nil, connect.NewError(connect.CodeNotFound,
			fmt.Errorf("there is no security sequence %d yet: the lane is at %d", sequence, position.Revision))
	}
	all, err := s.environments(ctx)
	if err != nil || len(named) == 0 {
		return all, err
	}
	if unknown := slices.DeleteFunc(slices.Clone(named), func(name string) bool { return slices.Contains(all, name) }); len(unknown) > 0 {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("there is no environment "+strings.Join(unknown, ", ")))
	}
	return named, nil
}

// environments returns the names of all environments.
func (s fleetService) environments(ctx context.Context) (all []string, err error) {
	const page = 1000
	f := storage.Filter{Kind: resource.KindEnvironment, Limit: page}
	for {
		var versions []storage.Version
		if versions, f.At, err = s.store.List(ctx, f); err != nil {
			return nil, err
		}
		for _, v := range versions {
			all = append(all, v.Key.Name)
		}
		if len(versions) < page {
			return all, nil
		}
		f.After = versions[page-1].Key
	}
}

// touched returns the environments to wait for, each with its revision at the
// fleet's revision: the named ones, or those that the revision touched.
func (s fleetService) touched(ctx context.Context, revision snapshot.Revision, named []string) (map[string]snapshot.Revision, error) {
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
