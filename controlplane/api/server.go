package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/access"
	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	"github.com/sallyport/sallyport/storage"
)

// MaxRequest bounds a request's body, in bytes, compressed or not.
const MaxRequest = 16 << 20

const (
	// callTimeout bounds every call but WaitEnforced, which has its own, and Tail.
	callTimeout = 30 * time.Second
	// auditTimeout bounds what an audit entry may take of a call that has
	// failed.
	auditTimeout = 5 * time.Second
	// inquireWithin bounds what another replica may take to verify a proxy.
	inquireWithin = 25 * time.Second
	// warmRetry is when reading the fleet is tried again at the start.
	warmRetry = time.Second
	// maxHealth bounds a request for health, which strangers may send.
	maxHealth = 4 << 10
)

// Store is the part of the store that the API needs.
type Store interface {
	storage.Resources // the fleet's
	storage.Annotations
	storage.Audit
	// Begins is that of storage.Retention.
	Begins(ctx context.Context) (snapshot.Revision, error)
	// Security returns the resources of the security lane.
	Security() storage.Resources
	// EnvironmentState and Head are those of storage.Publishing.
	EnvironmentState(ctx context.Context, environment string, at snapshot.Revision) ([]storage.Version, error)
	Head(ctx context.Context, environment string, at snapshot.Revision) (storage.EnvironmentHead, error)
	storage.Inquiries
	storage.Targets
}

// Identify says who calls: access.ErrUnauthenticated for a bad credential, the
// zero Caller for none.
type Identify func(r *http.Request) (access.Caller, error)

// Config is what an API needs. Store, Registry, Control, Identify and Log are
// required.
type Config struct {
	Store    Store
	Registry *registry.Registry
	Control  *access.Control
	Identify Identify
	Log      *slog.Logger
	// Targets names the etcds of this replica's settings; Status knows others from the
	// store.
	Targets []string
	// Decisions are the records of proxies, and Pseudonym is what stands for a
	// principal in some. DecisionService is not served when they are nil.
	Decisions storage.Decisions
	Pseudonym func(principal string) string
	// Published is what bundles are made of. BundleService is not served when it is nil.
	Published Published
	// Signer signs statements, and Verifier knows the keys that sign for the fleet.
	// None are exported when they are nil.
	Signer   *snapshot.Signer
	Verifier *snapshot.Verifier
	// Edges are asked about the proxies that are connected to them; none when it is nil.
	Edges Edges
	// Ready reports what gRPC health answers; serving from the start when nil.
	Ready   func() bool
	Metrics prometheus.Registerer // none when nil
	Now     func() time.Time      // time.Now when nil
}

// API serves ConfigService, FleetService, DecisionService, PolicyService,
// BundleService and gRPC health.
type API struct {
	store    Store
	registry *registry.Registry
	control  *access.Control
	identify Identify
	ready    func() bool
	log      *slog.Logger
	now      func() time.Time
	rules    protovalidate.Validator
	errors   *connect.ErrorWriter
	metrics  *metrics
	fleet    *lane
	security *lane
	// rolling is held by the one Rollback that is under way: it takes memory.
	rolling chan struct{}
	// judging and judgingBehind are the turns of ways to ask proxies.
	judging, judgingBehind chan struct{}

	truths  *truths
	edges   Edges    // nil for none
	targets []string // of the settings
	// inquireWithin is how long the answer of another replica is waited for.
	inquireWithin time.Duration
	// maxRollback bounds the resources of a Rollback.
	maxRollback int
	// unnamed bounds the audit entries of callers who may do nothing at all.
	unnamed *rate.Limiter
	// sendWithin is how long a caller may take to receive a message.
	sendWithin time.Duration

	decisions storage.Decisions // nil for none
	pseudonym func(string) string
	published Published // nil for none
	signer    *snapshot.Signer
	verifier  *snapshot.Verifier
	tails     atomic.Int64 // callers of Tail
	tables    *tables

	drained sync.Once
	drain   chan struct{} // closed when this replica is about to end
}

// New returns an API. It reads nothing until it is called or run.
func New(c Config) (*API, error) {
	rules, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("validation rules: %w", err)
	}
	m, err := newMetrics(c.Metrics)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	a := &API{
		store:    c.Store,
		registry: c.Registry,
		control:  c.Control,
		identify: c.Identify,
		ready:    c.Ready,
		log:      c.Log,
		now:      c.Now,
		rules:    rules,
		errors:   connect.NewErrorWriter(),
		metrics:  m,
		fleet:    newLane(c.Store),
		security: newLane(c.Store.Security()),
		rolling:  make(chan struct{}, 1),
		truths:   newTruths(c.Store),
		edges:    c.Edges,
		targets:  c.Targets,

		judging:       make(chan struct{}, judgedAtOnce),
		judgingBehind: make(chan struct{}, judgedAtOnce),

		inquireWithin: inquireWithin,

		maxRollback: maxRollback,

		unnamed: rate.NewLimiter(1, 100),
		drain:   make(chan struct{}),

		sendWithin: sendWithin,
		decisions:  c.Decisions,
		pseudonym:  c.Pseudonym,
		published:  c.Published,
		signer:     c.Signer,
		verifier:   c.Verifier,
		tables:     newTables(c.Store),
	}
	if a.ready == nil {
		a.ready = func() bool { return true }
	}
	if a.now == nil {
		a.now = time.Now
	}
	return a, nil
}

// Run reads what there is, so that the first change does not have to wait for it, and
// then answers other replicas, also for edges, until ctx ends.
func (a *API) Run(ctx context.Context) error {
	a.warm(ctx)
	var g sync.WaitGroup
	g.Go(func() { a.answer(ctx, func() []string { return []string{a.registry.Replica()} }) })
	if a.edges != nil {
		g.Go(func() { a.answer(ctx, a.edges.Here) })
	}
	g.Wait()
	return nil
}

func (a *API) warm(ctx context.Context) {
	for {
		err := errors.Join(a.security.state.sync(ctx), a.fleet.state.sync(ctx))
		if err == nil || ctx.Err() != nil {
			return
		}
		a.log.WarnContext(ctx, "fleet could not be read yet", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(warmRetry):
		}
	}
}

// Drain ends the calls that wait for proxies, for whom this may take long.
func (a *API) Drain() { a.drained.Do(func() { close(a.drain) }) }

// Handler serves Connect, gRPC and gRPC-Web. Every procedure but health's is
// authorized before its body is read.
func (a *API) Handler() http.Handler {
	options := []connect.HandlerOption{
		strictCodecs(),
		boundedGzip(MaxRequest),
		connect.WithReadMaxBytes(MaxRequest),
		connect.WithRecover(a.recovered),
		connect.WithInterceptors(a.interceptor()),
	}
	services := http.NewServeMux()
	services.Handle(adminv1connect.NewConfigServiceHandler(configService{a}, options...))
	services.Handle(adminv1connect.NewFleetServiceHandler(fleetService{a}, options...))
	services.Handle(adminv1connect.NewPolicyServiceHandler(policyService{a}, options...))
	if a.decisions != nil {
		services.Handle(adminv1connect.NewDecisionServiceHandler(decisionService{a}, options...))
	}
	if a.published != nil {
		services.Handle(adminv1connect.NewBundleServiceHandler(bundleService{a}, options...))
	}
	mux := http.NewServeMux()
	path, health := grpchealth.NewHandler(health{a.ready}, boundedGzip(maxHealth), connect.WithReadMaxBytes(maxHealth))
	mux.Handle(path, bound(maxHealth, callTimeout, health))
	mux.Handle("/", bound(MaxRequest, callTimeout, a.guard(services)))
	return mux
}

// health answers gRPC's health checks.
type health struct{ ready func() bool }

// Check implements grpchealth.Checker.
func (h health) Check(_ context.Context, req *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	switch req.Service {
	case "", adminv1connect.ConfigServiceName, adminv1connect.FleetServiceName, adminv1connect.DecisionServiceName,
		adminv1connect.PolicyServiceName, adminv1connect.BundleServiceName:
	default:
		return nil, connect.NewError(connect.CodeNotFound, errors.New("no such service"))
	}
	if !h.ready() {
		return &grpchealth.CheckResponse{Status: grpchealth.StatusNotServing}, nil
	}
	return &grpchealth.CheckResponse{Status: grpchealth.StatusServing}, nil
}

// recovered answers a call that has panicked.
func (a *API) recovered(ctx context.Context, spec connect.Spec, _ http.Header, what any) error {
	a.log.ErrorContext(ctx, "call panicked", "procedure", spec.Procedure, "err", what, "stack", string(debug.Stack()))
	return errInternal
}

// interceptor checks requests against the rules of their messages and turns
// errors into what callers may see.
func (a *API) interceptor() connect.Interceptor {
	return connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (res connect.AnyResponse, err error) {
			began := a.now()
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			if err = a.check(req.Any()); err == nil {
				res, err = next(ctx, req)
			}
			err = public(ctx, a.log, err)
			a.metrics.observe(req.Spec().Procedure, err, a.now().Sub(began))
			if err != nil {
				return nil, err
			}
			return res, nil
		}
	})
}

// check returns every rule of the message that it breaks.
func (a *API) check(message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return errNotProto
	}
	err := a.rules.Validate(m)
	if err == nil {
		return nil
	}
	var broken *protovalidate.ValidationError
	if !errors.As(err, &broken) {
		return fmt.Errorf("check request: %w", err)
	}
	var problems resource.Problems
	for _, v := range broken.Violations {
		problems.Add(resource.Problem{
			Index:   -1,
			Field:   protovalidate.FieldPathString(v.Proto.GetField()),
			Reason:  resource.ReasonInvalidValue,
			Message: v.Proto.GetMessage(),
		})
	}
	return problem(connect.CodeInvalidArgument, problems)
}
