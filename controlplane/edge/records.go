package edge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/controlplane/stream"
	"github.com/sallyport/sallyport/internal/identity"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1/proxyv1connect"
	replicav1 "github.com/sallyport/sallyport/proto/gen/sallyport/replica/v1"
)

const (
	// maxPush bounds what a proxy pushes at once, in bytes, and sendWithin is how long
	// it may take to send it.
	maxPush    = 4 << 20
	sendWithin = 10 * time.Second
	// maxPushes bounds the pushes that are under way at one time, which are in memory.
	maxPushes = 32
)

// LoggedOut hands on proof of a proxy that a session has ended: see stream.Config. It
// returns nil when a replica with a database has committed that.
func (e *Edge) LoggedOut(ctx context.Context, _, proxy string, proof *proxyv1.LogoutRequest) error {
	req := &replicav1.LogoutRequest{SpiffeId: proxy, Logout: proof}
	err := e.full.call(ctx, "logout", logoutWithin, func(ctx context.Context, c client) error {
		_, err := c.Logout(ctx, connect.NewRequest(req))
		return err
	})
	if err != nil && settled(err) {
		return fmt.Errorf("%w: %w", stream.ErrProof, err)
	}
	return err
}

// Records serves the proxies of an edge that push records. Nothing of these is kept:
// proxies have them until a replica with a database does.
type Records struct {
	edge *Edge

	pushes chan struct{} // held by each push
	mu     sync.Mutex
	busy   map[identity.ID]int // pushes of each SPIFFE ID that are under way
}

var _ proxyv1connect.RecordServiceHandler = (*Records)(nil)

// Records returns a service that is ready to be mounted.
func (e *Edge) Records() *Records {
	return &Records{edge: e, pushes: make(chan struct{}, maxPushes), busy: map[identity.ID]int{}}
}

type peerKey struct{}

// Handler returns the path and the handler of the service. Calls of a peer without a
// verified SPIFFE ID are refused before anything of them is read.
func (s *Records) Handler() (string, http.Handler) {
	path, next := proxyv1connect.NewRecordServiceHandler(s,
		connect.WithReadMaxBytes(maxPush), connect.WithCompression("gzip", nil, nil))
	return path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := identity.PeerID(r.TLS)
		if err != nil {
			http.Error(w, "a client certificate with a SPIFFE ID is required", http.StatusUnauthorized)
			return
		}
		if r.TLS.PeerCertificates[0].NotAfter.Before(s.edge.now()) {
			http.Error(w, "the client certificate has expired", http.StatusUnauthorized)
			return
		}
		if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(sendWithin)); err != nil {
			http.Error(w, "internal", http.StatusInternalServerError)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxPush+1)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), peerKey{}, id)))
	})
}

// Push implements proxyv1connect.RecordServiceHandler.
func (s *Records) Push(ctx context.Context, req *connect.Request[proxyv1.PushRequest]) (*connect.Response[proxyv1.PushResponse], error) {
	id, ok := ctx.Value(peerKey{}).(identity.ID)
	if !ok {
		return nil, connect.NewError(connect.CodeUnauthenticated, errors.New("no verified peer"))
	}
	if err := protovalidate.Validate(req.Msg); err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	if err := s.admit(id); err != nil {
		return nil, err
	}
	if !s.begin(id) {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("too many pushes are under way"))
	}
	defer s.end(id)
	var kept *proxyv1.PushResponse
	err := s.edge.full.call(ctx, "records", pushWithin, func(ctx context.Context, c client) error {
		res, err := c.Push(ctx, connect.NewRequest(&replicav1.PushRequest{SpiffeId: string(id), Push: req.Msg}))
		if err == nil {
			kept = res.Msg.GetPush()
		}
		return err
	})
	if err != nil {
		return nil, unkept(err)
	}
	return connect.NewResponse(kept), nil
}

// unkept is what a proxy is told of records that no replica with a database has taken.
// It keeps them and tries again, whatever that was, unless it was what it would be told
// there as well: records that are not understood would hold up all that come after.
func unkept(err error) error {
	if settled(err) {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("a replica with a database does not understand the records"))
	}
	return connect.NewError(connect.CodeUnavailable, errors.New("records cannot be handed on now"))
}

func (s *Records) admit(id identity.ID) error {
	if !s.edge.registry.Ready() {
		return connect.NewError(connect.CodeUnavailable, errors.New("enrollments are not known yet"))
	}
	if _, err := s.edge.registry.Admit(string(id)); err != nil {
		return connect.NewError(connect.CodePermissionDenied, err)
	}
	return nil
}

// perIdentity bounds the pushes of one SPIFFE ID at one time.
const perIdentity = 4

// begin reports whether a proxy may push now.
func (s *Records) begin(id identity.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[id] >= perIdentity {
		return false
	}
	select {
	case s.pushes <- struct{}{}:
		s.busy[id]++
		return true
	default:
		return false
	}
}

func (s *Records) end(id identity.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[id]--; s.busy[id] == 0 {
		delete(s.busy, id)
	}
	<-s.pushes
}
