package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/sallyport/sallyport/controlplane/access"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	"github.com/sallyport/sallyport/storage"
)

// call is what guard knows of a call that it lets through.
type call struct {
	caller  access.Caller
	control *http.ResponseController
}

type callKey struct{}

// callOf returns what guard knows of the call.
func callOf(ctx context.Context) call {
	c, _ := ctx.Value(callKey{}).(call)
	return c
}

// callerOf returns who was let in by guard.
func callerOf(ctx context.Context) access.Caller { return callOf(ctx).caller }

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
		if hint := unservable(r); hint != "" {
			a.write(w, r, connect.NewError(connect.CodeInvalidArgument, errors.New(hint)))
			return
		}
		if r.ContentLength > MaxRequest {
			a.write(w, r, connect.NewError(connect.CodeResourceExhausted,
				fmt.Errorf("the request has %d bytes: more than %d", r.ContentLength, MaxRequest)))
			return
		}
		c := call{caller: caller, control: http.NewResponseController(w)}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callKey{}, c)))
	})
}

// unservable says what is missing of a call that the handlers would turn away
// without a word; empty when nothing is.
func unservable(r *http.Request) string {
	form := "application/json"
	switch r.URL.Path {
	case adminv1connect.FleetServiceWaitEnforcedProcedure, adminv1connect.DecisionServiceTailProcedure,
		adminv1connect.BundleServiceExportProcedure:
		form = "application/connect+json" // it streams
	}
	content, _, _ := strings.Cut(strings.ToLower(r.Header.Get("Content-Type")), ";")
	content = strings.TrimSpace(content)
	switch {
	case r.Method == http.MethodGet && r.URL.Query().Has("message") && onlyReads(r.URL.Path):
		return ""
	case r.Method != http.MethodPost:
		return "this is a procedure: send POST with Content-Type: " + form
	case content == form, content == strings.Replace(form, "json", "proto", 1), strings.HasPrefix(content, "application/grpc"):
		return ""
	}
	return "send it with Content-Type: " + form
}

// onlyReads reports whether a procedure may be called with GET: the schema says of
// it that it has no side effects.
func onlyReads(procedure string) bool {
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(procedure, "/"), "/", "."))
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		return false
	}
	options, ok := d.Options().(*descriptorpb.MethodOptions)
	return ok && options.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS
}

// bound takes so many bytes of a request, and gives it so long to be read and
// thrice as long to be answered. Who streams extends the latter.
func bound(limit int64, patience time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control, now := http.NewResponseController(w), time.Now()
		if control.SetReadDeadline(now.Add(patience)) != nil || control.SetWriteDeadline(now.Add(3*patience)) != nil {
			http.Error(w, "internal", http.StatusInternalServerError) // not a connection of ours
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, limit+1)
		next.ServeHTTP(w, r)
	})
}

// refuse answers a call that was not allowed. What known callers try is in the
// audit; strangers are only logged, so that they cannot fill it. Callers whom
// the settings do not name are known by their SVID, and take turns.
func (a *API) refuse(w http.ResponseWriter, r *http.Request, caller access.Caller, why error) {
	a.log.WarnContext(r.Context(), "call was refused", "caller", caller.String(), "procedure", r.URL.Path, "err", why)
	if errors.Is(why, access.ErrDenied) && (a.named(caller) || a.unnamed.Allow()) {
		a.audit(r.Context(), storage.AuditEntry{Caller: caller.String(), Action: r.URL.Path, Detail: why.Error()})
	}
	err := public(r.Context(), a.log, why)
	a.metrics.count(r.URL.Path, err)
	a.write(w, r, err)
}

// named reports whether the settings name the caller.
func (a *API) named(caller access.Caller) bool {
	return a.control.Authorize(caller, adminv1connect.ConfigServiceListProcedure) == nil
}

// write answers a call whose body is left unread.
func (a *API) write(w http.ResponseWriter, r *http.Request, err error) {
	// The connection cannot be used again.
	w.Header().Set("Connection", "close")
	if connect.CodeOf(err) == connect.CodeUnauthenticated {
		w.Header().Set("WWW-Authenticate", `Bearer realm="sallyport"`)
	}
	if err := a.errors.Write(w, r, err); err != nil {
		a.log.DebugContext(r.Context(), "answer was not written", "err", err)
	}
}

// audit records a call that made no revision; one that did is recorded with it.
func (a *API) audit(ctx context.Context, e storage.AuditEntry) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditTimeout)
	defer cancel()
	e.At = a.now()
	if err := a.store.Record(ctx, e); err != nil {
		a.log.ErrorContext(ctx, "audit entry was not recorded", "caller", e.Caller, "action", e.Action, "err", err)
	}
}
