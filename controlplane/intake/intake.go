// Package intake takes what edges hand on: replicas near proxies that have no
// database. It believes them nothing that a proxy could have signed.
package intake

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/controlplane/stream"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	replicav1 "github.com/sallyport/sallyport/proto/gen/sallyport/replica/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/replica/v1/replicav1connect"
)

const (
	// maxRequest bounds what an edge sends at once, in bytes: what it may gather, and
	// the largest that a proxy may say besides.
	maxRequest = 8 << 20
	// sendWithin is how long it may take to send it.
	sendWithin = 10 * time.Second
	// reportWithin, pushWithin and logoutWithin bound the calls.
	reportWithin = 8 * time.Second
	pushWithin   = 20 * time.Second
	logoutWithin = 8 * time.Second
	// arriveWithin is for how long a report waits for what proxies acknowledge to
	// arrive here: the etcd of an edge may have it first.
	arriveWithin = time.Second
)

// Config is what a Service needs. All fields are required, but for Shown.
type Config struct {
	// Edges are who may call.
	Edges    []identity.ID
	Registry *registry.Registry
	Hub      *stream.Hub
	Verifier *snapshot.Verifier
	// Push keeps records of a proxy; its errors are those of connect.
	Push func(ctx context.Context, spiffeID string, m *proxyv1.PushRequest) (*proxyv1.PushResponse, error)
	// LoggedOut and Shown are as in stream.Config.
	LoggedOut func(ctx context.Context, environment, proxy string, proof *proxyv1.LogoutRequest) error
	Shown     func(head snapshot.Head, proxy string)
	// Questions are what edges are asked of their proxies.
	Questions *Questions
	Log       *slog.Logger
}

// Service takes what edges hand on. Use Handler to mount it. It is safe for concurrent
// use.
type Service struct {
	Config

	drained sync.Once
	drain   chan struct{} // closed when this replica is about to end
}

var _ replicav1connect.ReplicaServiceHandler = (*Service)(nil)

// New returns a service that is ready to be mounted.
func New(c Config) *Service { return &Service{Config: c, drain: make(chan struct{})} }

// Drain ends the calls that wait for questions.
func (s *Service) Drain() { s.drained.Do(func() { close(s.drain) }) }

type peerKey struct{}

// Handler returns the path and the handler of the service. Calls of anybody but an edge
// are refused before anything of them is read.
func (s *Service) Handler() (string, http.Handler) {
	path, next := replicav1connect.NewReplicaServiceHandler(s,
		connect.WithReadMaxBytes(maxRequest), connect.WithCompression("gzip", nil, nil))
	return path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := identity.PeerID(r.TLS)
		switch {
		case err != nil:
			http.Error(w, "a client certificate with a SPIFFE ID is required", http.StatusUnauthorized)
			return
		case !slices.Contains(s.Edges, id):
			s.Log.WarnContext(r.Context(), "call of somebody who is no edge was refused", "spiffe_id", string(id))
			http.Error(w, "this SPIFFE ID is not that of an edge", http.StatusForbidden)
			return
		case r.TLS.PeerCertificates[0].NotAfter.Before(time.Now()):
			http.Error(w, "the client certificate has expired", http.StatusUnauthorized)
			return
		}
		if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(sendWithin)); err != nil {
			http.Error(w, "internal", http.StatusInternalServerError)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxRequest+1)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), peerKey{}, id)))
	})
}

func check(m proto.Message) error {
	if err := protovalidate.Validate(m); err != nil {
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	return nil
}

// admit returns where a proxy belongs.
func (s *Service) admit(spiffeID string) (string, error) {
	if !s.Registry.Ready() {
		return "", connect.NewError(connect.CodeUnavailable, errors.New("enrollments are not known yet"))
	}
	a, err := s.Registry.Admit(spiffeID)
	if err != nil {
		return "", connect.NewError(connect.CodePermissionDenied, err)
	}
	return a.Environment, nil
}

// Push implements replicav1connect.ReplicaServiceHandler.
func (s *Service) Push(ctx context.Context, req *connect.Request[replicav1.PushRequest]) (*connect.Response[replicav1.PushResponse], error) {
	if err := check(req.Msg); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, pushWithin)
	defer cancel()
	kept, err := s.Config.Push(ctx, req.Msg.GetSpiffeId(), req.Msg.GetPush())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&replicav1.PushResponse{Push: kept}), nil
}

// Logout implements replicav1connect.ReplicaServiceHandler.
func (s *Service) Logout(ctx context.Context, req *connect.Request[replicav1.LogoutRequest]) (*connect.Response[replicav1.LogoutResponse], error) {
	if err := check(req.Msg); err != nil {
		return nil, err
	}
	environment, err := s.admit(req.Msg.GetSpiffeId())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, logoutWithin)
	defer cancel()
	if err := s.LoggedOut(ctx, environment, req.Msg.GetSpiffeId(), req.Msg.GetLogout()); err != nil {
		s.Log.ErrorContext(ctx, "logout was not passed on to the fleet", "proxy", req.Msg.GetSpiffeId(), "err", err)
		return nil, stream.LogoutError(err)
	}
	return connect.NewResponse(&replicav1.LogoutResponse{}), nil
}
