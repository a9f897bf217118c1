package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sallyport/sallyport/controlplane/keyring"
	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1/proxyv1connect"
)

const (
	// silence is how long a proxy may say nothing: three heartbeats and a half.
	silence = 35 * time.Second
	// sendWithin is how long a proxy may take to send a request, or to receive a
	// message, before it is cut off.
	sendWithin = 10 * time.Second
	// ackWithin is how long a proxy may take to apply an update before it is cut
	// off.
	ackWithin = time.Minute
	// pendingRetry is when a proxy that is not admitted asks again.
	pendingRetry = 2 * time.Second
	// refusedRetry is when one asks again whom an operator has refused or
	// quarantined.
	refusedRetry = 5 * time.Second
	// Bounds of the time that the proxies of a replica that ends are spread over, so
	// that movesPerSecond of them come to the others.
	shortestMove   = time.Second
	longestMove    = 30 * time.Second
	movesPerSecond = 400
	// balanceWithin is what those proxies are spread over that another replica is to
	// have.
	balanceWithin = 5 * time.Second
	// confirmsPerSecond is how many proxies are sent a freshness statement per second,
	// and latestConfirm bounds what that adds to the age of what they enforce. What it
	// is put off for a change adds longestConfirm at most, however many follow.
	confirmsPerSecond = 2000
	latestConfirm     = 3 * time.Second
	longestConfirm    = 5 * time.Second
	// recheckEvery is how often it is looked whether the certificate of a stream
	// would still be taken.
	recheckEvery = 3 * time.Minute
	// shortestLife is for how long a certificate has to be good for its stream to be
	// moved to the next one before it expires.
	shortestLife = 4 * time.Second
	// maxMessage bounds what a proxy sends at once. An ack with many rejects is
	// the largest.
	maxMessage = 4 << 20
)

// errEnding is why the streams of a replica end that is about to.
var errEnding = errors.New("this replica is ending")

// errExpired is why a stream ended that was opened with the certificate.
var errExpired = errors.New("the client certificate has expired")

// Keys tells the cookie keys of an environment. It is a *keyring.Keyring.
type Keys interface {
	State(environment string) keyring.State
}

// Config is what a Service needs. All fields but Keys, LoggedOut, Shown and Recheck
// are required.
type Config struct {
	Hub      *Hub
	Registry *registry.Registry
	// Keys are sent to proxies that ask for them; none when it is nil.
	Keys Keys
	// LoggedOut is called with proof of a proxy of an environment that a session
	// has ended. It returns nil when that is committed, and ErrProof when there is
	// no use in trying again. When it is nil, no proxy can say so.
	LoggedOut func(ctx context.Context, environment, proxy string, proof *proxyv1.LogoutRequest) error
	// Shown is called with a head that a proxy enforces and that is not known here, of
	// the epoch that is or a later one. It was verified. It must not wait.
	Shown func(head snapshot.Head, proxy string)
	// Recheck returns why the peer of a connection would not be taken any more. It is
	// asked every three minutes; when it is nil, what the handshake said is good until
	// the certificate expires.
	Recheck func(*tls.ConnectionState) error
	Log     *slog.Logger
}

// Service serves proxies. Use Handler to mount it. It is safe for concurrent
// use.
type Service struct {
	hub      *Hub
	registry *registry.Registry
	keys     Keys // nil for none
	ended    func(ctx context.Context, environment, proxy string, proof *proxyv1.LogoutRequest) error
	shown    func(head snapshot.Head, proxy string) // nil for nobody
	log      *slog.Logger

	recheck func(*tls.ConnectionState) error // nil for none

	silence, sendWithin, ackWithin, recheckEvery time.Duration

	streams atomic.Int64 // that are open

	drained    sync.Once
	drain      chan struct{} // closed when this replica is about to end
	moveWithin time.Duration // for who learns that drain is closed
}

var _ proxyv1connect.ProxyServiceHandler = (*Service)(nil)

// NewService returns a service that is ready to be mounted.
func NewService(c Config) *Service {
	return &Service{
		hub: c.Hub, registry: c.Registry, keys: c.Keys, ended: c.LoggedOut, shown: c.Shown, recheck: c.Recheck, log: c.Log,
		silence: silence, sendWithin: sendWithin, ackWithin: ackWithin, recheckEvery: recheckEvery,
		drain: make(chan struct{}),
	}
}

// Drain asks every proxy to connect elsewhere, spread over the longer the more of
// them there are, and ends its stream.
func (s *Service) Drain() {
	s.drained.Do(func() {
		streams := 0
		for _, n := range s.registry.Streams() {
			streams += n
		}
		s.moveWithin = moveWithin(streams)
		close(s.drain)
	})
}

func moveWithin(streams int) time.Duration {
	return min(max(time.Duration(streams)*time.Second/movesPerSecond, shortestMove), longestMove)
}

// peer is the other end of a connection, for the life of one call.
type peer struct {
	id      identity.ID
	expires time.Time
	control *http.ResponseController
	out     io.Writer // of the response
	tls     *tls.ConnectionState
}

type peerKey struct{}

// Handler returns the path and the handler of the service. Calls of a peer
// without a verified SPIFFE ID are refused before anything of them is read.
// Connect compresses nothing: see docs/decisions.
func (s *Service) Handler(opts ...connect.HandlerOption) (string, http.Handler) {
	opts = append(opts,
		connect.WithReadMaxBytes(maxMessage),
		connect.WithCompression("gzip", nil, nil),
	)
	path, next := proxyv1connect.NewProxyServiceHandler(s, opts...)
	return path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := identity.PeerID(r.TLS)
		if err != nil {
			http.Error(w, "a client certificate with a SPIFFE ID is required", http.StatusUnauthorized)
			return
		}
		p := peer{id: id, expires: r.TLS.PeerCertificates[0].NotAfter, control: http.NewResponseController(w), out: w, tls: r.TLS}
		now := time.Now()
		if err := errors.Join(p.control.SetReadDeadline(now.Add(s.sendWithin)), p.control.SetWriteDeadline(now.Add(3*s.sendWithin))); err != nil {
			http.Error(w, "internal", http.StatusInternalServerError)
			return
		}
		if r.URL.Path != proxyv1connect.ProxyServiceStreamProcedure {
			// Connect reads on to tell how large a message is that is too large.
			r.Body = http.MaxBytesReader(w, r.Body, maxMessage+1)
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), peerKey{}, p)))
	})
}

func peerOf(ctx context.Context) (peer, error) {
	p, ok := ctx.Value(peerKey{}).(peer)
	if !ok {
		return peer{}, connect.NewError(connect.CodeUnauthenticated, errors.New("no verified peer"))
	}
	return p, nil
}

// check applies the rules of proxy.proto.
func check(m proto.Message) error {
	if err := protovalidate.Validate(m); err != nil {
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	return nil
}

// known returns an error until it is known who is admitted.
func (s *Service) known() error {
	if !s.registry.Ready() {
		return connect.NewError(connect.CodeUnavailable, errors.New("enrollments are not known yet"))
	}
	return nil
}

// public turns an error of the registry into what a proxy sees.
func public(err error) error {
	switch {
	case errors.Is(err, registry.ErrNotAdmitted):
		return connect.NewError(connect.CodePermissionDenied, err)
	case errors.Is(err, registry.ErrInstance):
		return connect.NewError(connect.CodeInvalidArgument, err)
	case errors.Is(err, registry.ErrTooMany):
		return connect.NewError(connect.CodeResourceExhausted, err)
	}
	return connect.NewError(connect.CodeInternal, errors.New("internal"))
}

// Register implements proxyv1connect.ProxyServiceHandler.
func (s *Service) Register(ctx context.Context, req *connect.Request[proxyv1.RegisterRequest]) (*connect.Response[proxyv1.RegisterResponse], error) {
	p, err := peerOf(ctx)
	if err != nil {
		return nil, err
	}
	if err := check(req.Msg); err != nil {
		return nil, err
	}
	if err := s.known(); err != nil {
		return nil, err
	}
	spoken := snapshot.Protocol(req.Msg.GetProtocolVersion()).Common()
	admission, err := s.registry.Register(registry.Registration{
		SPIFFEID:        string(p.id),
		Instance:        req.Msg.GetInstance(),
		Build:           req.Msg.GetBuild(),
		ProtocolVersion: req.Msg.GetProtocolVersion(),
		SealingKey:      req.Msg.GetSealingKey(),
		Cloud:           req.Msg.GetCloud(),
		Region:          req.Msg.GetRegion(),
		StartedAt:       startedAt(req.Msg),
		AckKey:          req.Msg.GetAckKey(),
		Binding:         req.Msg.GetBinding(),
	})
	switch {
	case errors.Is(err, registry.ErrBarred):
		return connect.NewResponse(&proxyv1.RegisterResponse{
			Admission:       refusedTo(spoken),
			RetryAfter:      durationpb.New(refusedRetry),
			ProtocolVersion: int32(spoken),
		}), nil
	case errors.Is(err, registry.ErrNotAdmitted):
		return connect.NewResponse(&proxyv1.RegisterResponse{
			Admission:       proxyv1.Admission_ADMISSION_PENDING,
			RetryAfter:      durationpb.New(pendingRetry),
			ProtocolVersion: int32(spoken),
		}), nil
	case err != nil:
		return nil, public(err)
	}
	return connect.NewResponse(&proxyv1.RegisterResponse{
		Admission:       proxyv1.Admission_ADMISSION_ADMITTED,
		Environment:     admission.Environment,
		ProtocolVersion: int32(spoken),
	}), nil
}

// refusedTo is how a proxy is told that an operator has refused it. One that does not
// know the word would ask again and again.
func refusedTo(spoken snapshot.Protocol) proxyv1.Admission {
	if spoken < snapshot.SecondProtocol {
		return proxyv1.Admission_ADMISSION_PENDING
	}
	return proxyv1.Admission_ADMISSION_REFUSED
}

// startedAt is when the process began, as it says; zero if it does not.
func startedAt(m *proxyv1.RegisterRequest) time.Time {
	if m.GetStartedAt().CheckValid() != nil {
		return time.Time{}
	}
	return m.GetStartedAt().AsTime()
}

// unpacks reports whether the proxy takes messages of the stream compressed, and says
// that some of them will be. What is sent is compressed here, and not by Connect.
func unpacks(conn *connect.BidiStream[proxyv1.StreamRequest, proxyv1.StreamResponse]) bool {
	accepted := conn.RequestHeader().Get("Connect-Accept-Encoding")
	if conn.Peer().Protocol != connect.ProtocolConnect || !slices.Contains(strings.Split(accepted, ","), "gzip") {
		return false
	}
	conn.ResponseHeader().Set("Connect-Content-Encoding", "gzip")
	return true
}

// Stream implements proxyv1connect.ProxyServiceHandler.
func (s *Service) Stream(ctx context.Context, conn *connect.BidiStream[proxyv1.StreamRequest, proxyv1.StreamResponse]) error {
	p, err := peerOf(ctx)
	if err != nil {
		return err
	}
	if strings.Contains(conn.RequestHeader().Get("Content-Type"), "json") {
		return connect.NewError(connect.CodeUnimplemented, errors.New("the stream is in binary alone"))
	}
	first, err := conn.Receive()
	if err != nil {
		return heard(err)
	}
	if err := check(first); err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("the first message is not a hello"))
	}
	if err := s.known(); err != nil {
		return err
	}
	admission, err := s.registry.Admit(string(p.id))
	if err != nil {
		return public(err)
	}
	session, err := s.registry.Open(registry.Registration{SPIFFEID: string(p.id), Instance: hello.GetInstance()}, admission)
	if err != nil {
		return public(err)
	}
	defer session.Close()
	s.streams.Add(1)
	defer s.streams.Add(-1)
	log := s.log.With("proxy", string(registry.ProxyID(string(p.id), hello.GetInstance())))
	t := &talk{
		Service:     s,
		conn:        conn,
		peer:        p,
		environment: admission.Environment,
		session:     session,
		log:         log.With("environment", admission.Environment),
		said:        make(chan struct{}, 1),
		unpacks:     unpacks(conn),

		security: &lane{
			hub: s.hub, name: snapshot.SecurityLane, session: session.Security(),
			log: log.With("environment", snapshot.SecurityLane),
		},
		configuration: &lane{
			hub: s.hub, name: admission.Environment, session: session,
			log: log.With("environment", admission.Environment),
		},
	}
	// A certificate that has expired proves nothing any more.
	ctx, cancel := context.WithDeadlineCause(ctx, p.expires, errExpired)
	defer cancel()
	return t.run(ctx, hello, admission.Changed)
}
