package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/access"
	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	"github.com/sallyport/sallyport/storage"
)

// MaxRequest bounds a request's body, in bytes.
const MaxRequest = 16 << 20

// callTimeout bounds every call but WaitEnforced, which has its own.
const callTimeout = 30 * time.Second

// Store is the part of the store that the API needs.
type Store interface {
	storage.Resources
	storage.Audit
}

// Identify says who calls: access.ErrUnauthenticated for a bad credential, the
// zero Caller for none.
type Identify func(r *http.Request) (access.Caller, error)

// Config is what an API needs. All fields but Now are required.
type Config struct {
	Store    Store
	Registry *registry.Registry
	Control  *access.Control
	Identify Identify
	Log      *slog.Logger
	Now      func() time.Time // time.Now when nil
}

// API serves ConfigService, FleetService and gRPC health.
type API struct {
	store    Store
	registry *registry.Registry
	control  *access.Control
	identify Identify
	log      *slog.Logger
	now      func() time.Time
	rules    protovalidate.Validator
	errors   *connect.ErrorWriter
	state    *state
}

// New returns an API. It reads nothing until it is called.
func New(c Config) (*API, error) {
	rules, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("validation rules: %w", err)
	}
	now := c.Now
	if now == nil {
		now = time.Now
	}
	return &API{
		store:    c.Store,
		registry: c.Registry,
		control:  c.Control,
		identify: c.Identify,
		log:      c.Log,
		now:      now,
		rules:    rules,
		errors:   connect.NewErrorWriter(),
		state:    newState(c.Store),
	}, nil
}

// Handler serves Connect, gRPC and gRPC-Web. Every procedure but health's is
// authorized before its body is read.
func (a *API) Handler() http.Handler {
	options := []connect.HandlerOption{
		strictCodecs(),
		connect.WithReadMaxBytes(MaxRequest),
		connect.WithInterceptors(a.interceptor()),
	}
	services := http.NewServeMux()
	services.Handle(adminv1connect.NewConfigServiceHandler(configService{a}, options...))
	services.Handle(adminv1connect.NewFleetServiceHandler(fleetService{a}, options...))
	mux := http.NewServeMux()
	mux.Handle(grpchealth.NewHandler(grpchealth.NewStaticChecker(
		adminv1connect.ConfigServiceName, adminv1connect.FleetServiceName)))
	mux.Handle("/", a.guard(services))
	return mux
}

type callerKey struct{}

// guard lets through only whom the access rules allow, with a body that is not
// larger than MaxRequest.
func (a *API) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := a.identify(r)
		if err == nil {
			err = a.control.Authorize(caller, r.URL.Path)
		}
		if err != nil {
			a.refuse(w, r, caller, err)
			return
		}
		if r.ContentLength > MaxRequest {
			a.write(w, r, connect.NewError(connect.CodeResourceExhausted,
				fmt.Errorf("the request has %d bytes, more than %d", r.ContentLength, MaxRequest)))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, MaxRequest+1)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, caller)))
	})
}

// refuse answers a call that was not allowed. What known callers try is in the
// audit; strangers are only logged, so that they cannot fill it.
func (a *API) refuse(w http.ResponseWriter, r *http.Request, caller access.Caller, why error) {
	if errors.Is(why, access.ErrDenied) {
		a.audit(r.Context(), storage.AuditEntry{Caller: caller.String(), Action: r.URL.Path, Detail: why.Error()})
	}
	a.log.WarnContext(r.Context(), "call was refused", "caller", caller.String(), "procedure", r.URL.Path, "err", why)
	a.write(w, r, public(r.Context(), a.log, why))
}

func (a *API) write(w http.ResponseWriter, r *http.Request, err error) {
	// The body is left unread: the connection cannot be used again.
	w.Header().Set("Connection", "close")
	if !a.errors.IsSupported(r) {
		status := http.StatusForbidden
		if connect.CodeOf(err) == connect.CodeUnauthenticated {
			status = http.StatusUnauthorized
		}
		http.Error(w, err.Error(), status)
		return
	}
	if err := a.errors.Write(w, r, err); err != nil {
		a.log.DebugContext(r.Context(), "answer was not written", "err", err)
	}
}

// audit records a call that made no revision; one that did is recorded with it.
func (a *API) audit(ctx context.Context, e storage.AuditEntry) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	e.At = a.now()
	if err := a.store.Record(ctx, e); err != nil {
		a.log.ErrorContext(ctx, "audit entry was not recorded", "caller", e.Caller, "action", e.Action, "err", err)
	}
}

// interceptor checks requests against the rules of their messages and turns
// errors into what callers may see.
func (a *API) interceptor() connect.Interceptor {
	return connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			if err := a.check(req.Any()); err != nil {
				return nil, public(ctx, a.log, err)
			}
			res, err := next(ctx, req)
			if err != nil {
				return nil, public(ctx, a.log, err)
			}
			return res, nil
		}
	})
}

// check returns every rule of the message that it breaks.
func (a *API) check(message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return connect.NewError(connect.CodeInternal, errNotProto)
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
			Field:   protovalidate.FieldPathString(v.Proto.GetField()),
			Reason:  resource.ReasonInvalidValue,
			Message: v.Proto.GetMessage(),
		})
	}
	return problem(connect.CodeInvalidArgument, problems)
}

// callerOf returns who was let in by guard.
func callerOf(ctx context.Context) access.Caller {
	caller, _ := ctx.Value(callerKey{}).(access.Caller)
	return caller
}
