// Package decisions takes the decision records of proxies and has them kept, for
// as long as they are to be.
package decisions

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/controlplane/stream"
	"github.com/sallyport/sallyport/internal/identity"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1/proxyv1connect"
	"github.com/sallyport/sallyport/storage"
)

const (
	// maxPush bounds what a proxy pushes at once, in bytes.
	maxPush = 4 << 20
	// pushWithin is how long it may take to send it.
	pushWithin = 10 * time.Second
	// keepWithin is how long keeping it may take. The proxy has them all the while.
	keepWithin = 20 * time.Second
	// keepEvery is how often days are made and dropped, and keepRetry when that is
	// tried again after it has failed.
	keepEvery = time.Hour
	keepRetry = 10 * time.Second
	// Retention is for how long records are kept where nothing else is said.
	Retention = 30 * 24 * time.Hour
)

// Sink keeps records. It is safe for concurrent use.
type Sink interface {
	// SaveDecisions keeps the records of a journal that come after those that it
	// has, all or none, and returns nil when they are safe.
	// storage.ErrUnavailable says to try again.
	SaveDecisions(ctx context.Context, r storage.Records) error
	// KeepDecisions drops what is older than one moment, to the day, and prepares
	// for the other.
	KeepDecisions(ctx context.Context, from, until time.Time) error
}

// Config is what a Service needs. The first five are required.
type Config struct {
	Sink     Sink
	Registry *registry.Registry
	// States are the environments, which say how records are kept.
	States interface {
		State(environment string) stream.State
	}
	Pseudonyms *Pseudonyms
	Log        *slog.Logger

	// Retention is for how long records are kept; 30 days when zero.
	Retention  time.Duration
	Registerer prometheus.Registerer // none when nil
	Now        func() time.Time      // time.Now when nil
}

// Service takes records. Use Handler to mount it. It is safe for concurrent use.
type Service struct {
	Config
	metrics *metrics
	rules   rules

	mu      sync.Mutex
	pushing map[storage.ProxyID]struct{}
}

var _ proxyv1connect.RecordServiceHandler = (*Service)(nil)

// New returns a service that is ready to be mounted.
func New(c Config) (*Service, error) {
	if c.Retention < 0 {
		return nil, errors.New("the retention of decisions must not be negative")
	}
	if c.Retention == 0 {
		c.Retention = Retention
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	m, err := newMetrics(c.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register metrics of decisions: %w", err)
	}
	return &Service{Config: c, metrics: m, pushing: map[storage.ProxyID]struct{}{}}, nil
}

// Run drops days that are over, and makes room for those to come, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		now := s.Now()
		err := s.Sink.KeepDecisions(ctx, now.Add(-s.Retention), now.Add(24*time.Hour))
		switch {
		case err == nil:
			timer.Reset(keepEvery)
		default:
			timer.Reset(keepRetry)
		}
		if err != nil && !failing && ctx.Err() == nil {
			s.Log.WarnContext(ctx, "old decisions could not be dropped", "err", err)
		}
		failing = err != nil
	}
}

type peerKey struct{}

// Handler returns the path and the handler of the service. Calls of a peer
// without a verified SPIFFE ID are refused before anything of them is read.
func (s *Service) Handler() (string, http.Handler) {
	path, next := proxyv1connect.NewRecordServiceHandler(s,
		connect.WithReadMaxBytes(maxPush), connect.WithCompression("gzip", nil, nil))
	return path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := identity.PeerID(r.TLS)
		if err != nil {
			http.Error(w, "a client certificate with a SPIFFE ID is required", http.StatusUnauthorized)
			return
		}
		if r.TLS.PeerCertificates[0].NotAfter.Before(s.Now()) {
			http.Error(w, "the client certificate has expired", http.StatusUnauthorized)
			return
		}
		control, now := http.NewResponseController(w), time.Now()
		if err := errors.Join(control.SetReadDeadline(now.Add(pushWithin)), control.SetWriteDeadline(now.Add(2*pushWithin+keepWithin))); err != nil {
			http.Error(w, "internal", http.StatusInternalServerError)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxPush+1)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), peerKey{}, id)))
	})
}

// Push implements proxyv1connect.RecordServiceHandler.
func (s *Service) Push(ctx context.Context, req *connect.Request[proxyv1.PushRequest]) (*connect.Response[proxyv1.PushResponse], error) {
	id, ok := ctx.Value(peerKey{}).(identity.ID)
	if !ok {
		return nil, connect.NewError(connect.CodeUnauthenticated, errors.New("no verified peer"))
	}
	kept, err := s.Take(ctx, string(id), req.Msg)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(kept), nil
}

// Take keeps what the proxy with a SPIFFE ID pushes, and answers as Push does: who it
// is was found out by whoever calls.
func (s *Service) Take(ctx context.Context, id string, m *proxyv1.PushRequest) (*proxyv1.PushResponse, error) {
	if err := protovalidate.Validate(m); err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	environment, err := s.admit(id)
	if err != nil {
		return nil, err
	}
	proxy := registry.ProxyID(id, m.GetInstance())
	if !s.begin(proxy) {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("another push of this proxy is under way"))
	}
	defer s.end(proxy)
	rule, err := s.rules.of(environment, s.States.State(environment).Snapshot)
	if err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, err)
	}
	b := s.read(m, environment, rule)
	b.Proxy = proxy
	if err := s.keep(ctx, b); err != nil {
		return nil, err
	}
	return &proxyv1.PushResponse{Sequence: b.Last, Refused: b.refused}, nil
}

// admit returns the environment of a proxy.
func (s *Service) admit(id string) (string, error) {
	if !s.Registry.Ready() {
		return "", connect.NewError(connect.CodeUnavailable, errors.New("enrollments are not known yet"))
	}
	a, err := s.Registry.Admit(id)
	if err != nil {
		return "", connect.NewError(connect.CodePermissionDenied, registry.ErrNotAdmitted)
	}
	return a.Environment, nil
}

// begin reports whether a proxy may push: one push at a time, so that none takes
// the connections of all others.
func (s *Service) begin(proxy storage.ProxyID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, busy := s.pushing[proxy]; busy {
		return false
	}
	s.pushing[proxy] = struct{}{}
	return true
}

func (s *Service) end(proxy storage.ProxyID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pushing, proxy)
}

func (s *Service) keep(ctx context.Context, b batch) error {
	ctx, cancel := context.WithTimeout(ctx, keepWithin)
	defer cancel()
	began := s.Now()
	err := s.Sink.SaveDecisions(ctx, b.Records)
	s.metrics.saved(len(b.Decisions)+len(b.Outcomes), b.refused, s.Now().Sub(began), err)
	switch {
	case err == nil:
		if b.refused > 0 {
			s.Log.WarnContext(ctx, "decision records were refused", "proxy", string(b.Proxy), "records", b.refused)
		}
		return nil
	case errors.Is(err, storage.ErrUnavailable), ctx.Err() != nil:
		s.Log.DebugContext(ctx, "decision records were not kept", "proxy", string(b.Proxy), "err", err)
		return connect.NewError(connect.CodeUnavailable, errors.New("records cannot be kept now"))
	}
	s.Log.ErrorContext(ctx, "decision records were not kept", "proxy", string(b.Proxy), "err", err)
	return connect.NewError(connect.CodeInternal, errors.New("internal"))
}
