package intake

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	replicav1 "github.com/sallyport/sallyport/proto/gen/sallyport/replica/v1"
)

// Report implements replicav1connect.ReplicaServiceHandler.
func (s *Service) Report(ctx context.Context, req *connect.Request[replicav1.ReportRequest]) (*connect.Response[replicav1.ReportResponse], error) {
	if err := check(req.Msg); err != nil {
		return nil, err
	}
	if !s.Registry.Ready() {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("enrollments are not known yet"))
	}
	ctx, cancel := context.WithTimeout(ctx, reportWithin)
	defer cancel()
	var told []registry.Told
	arriving, stop := context.WithTimeout(ctx, arriveWithin)
	defer stop()
	for _, p := range req.Msg.GetProxies() {
		if _, err := identity.ParseID(p.GetSpiffeId()); err != nil || p.GetSilentFor().CheckValid() != nil {
			return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("a SPIFFE ID, or a duration, is none"))
		}
		s.arrive(arriving, p)
		s.show(p)
		told = append(told, registry.Told{
			SPIFFEID: p.GetSpiffeId(), Instance: p.GetInstance(), Status: p.GetStatus(), SilentFor: p.GetSilentFor().AsDuration(),
			Connected: p.GetConnected(), Ack: p.GetAck(), SecurityAck: p.GetSecurityAck(),
			Binding: p.GetBinding(),
		})
	}
	approved, err := s.Registry.Report(ctx, req.Msg.GetReplica(), told, s.known)
	if err != nil {
		s.Log.WarnContext(ctx, "what an edge told was not saved", "replica", req.Msg.GetReplica(), "proxies", len(told), "err", err)
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("nothing was saved"))
	}
	return connect.NewResponse(&replicav1.ReportResponse{Approved: approved}), nil
}

// known is a registry.Known.
func (s *Service) known(environment string, ack *proxyv1.Ack) *snapshot.Snapshot {
	if digest, ok := snapshot.ParseDigest(ack.GetHeadDigest()); ok {
		if snap := s.Hub.Find(environment, digest); snap != nil {
			return snap
		}
	}
	return s.Hub.At(environment, position(ack))
}

func position(ack *proxyv1.Ack) snapshot.Position {
	return snapshot.Position{Epoch: snapshot.Epoch(ack.GetEpoch()), Revision: snapshot.Revision(ack.GetRevision())}
}

// arrive waits until what a proxy acknowledges could be known here, or ctx ends.
func (s *Service) arrive(ctx context.Context, p *replicav1.ProxyReport) {
	a, err := s.Registry.Admit(p.GetSpiffeId())
	if err != nil {
		return
	}
	for environment, ack := range map[string]*proxyv1.Ack{a.Environment: p.GetAck(), snapshot.SecurityLane: p.GetSecurityAck()} {
		for ack != nil {
			state := s.Hub.State(environment)
			if !position(ack).After(state.Snapshot.Head().Position()) {
				break
			}
			select {
			case <-state.Changed:
				continue
			case <-ctx.Done():
				return
			}
		}
	}
}

// show hands on the heads that a proxy came with, if they prove more than is known
// here: what it only says proves nothing.
func (s *Service) show(p *replicav1.ProxyReport) {
	if s.Shown == nil {
		return
	}
	for _, ack := range []*proxyv1.Ack{p.GetAck(), p.GetSecurityAck()} {
		if ack.GetHead() == nil {
			continue
		}
		head, err := s.Verifier.VerifyHead(ack.GetHead())
		if err != nil || s.Hub.State(head.Environment).Snapshot.Head().NewerThan(head) || s.Hub.Find(head.Environment, head.Digest()) != nil {
			continue
		}
		s.Shown(head, string(registry.ProxyID(p.GetSpiffeId(), p.GetInstance())))
	}
}
