package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/access"
	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
)

// public turns err into what a caller may see. Only our own words leave: every
// other cause is logged here, once, and goes out as "internal".
func public(ctx context.Context, log *slog.Logger, err error) error {
	var already *connect.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &already):
		return err
	case errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, context.Canceled)
	case errors.Is(err, context.DeadlineExceeded):
		return connect.NewError(connect.CodeDeadlineExceeded, context.DeadlineExceeded)
	case errors.Is(err, access.ErrUnauthenticated):
		return connect.NewError(connect.CodeUnauthenticated, access.ErrUnauthenticated)
	case errors.Is(err, access.ErrDenied):
		return connect.NewError(connect.CodePermissionDenied, err)
	case errors.Is(err, storage.ErrNotFound):
		return connect.NewError(connect.CodeNotFound, storage.ErrNotFound)
	case errors.Is(err, storage.ErrConflict):
		return connect.NewError(connect.CodeAborted, storage.ErrConflict)
	case errors.Is(err, storage.ErrUnknownOutcome):
		log.ErrorContext(ctx, "outcome of a commit is not known", "err", err)
		return connect.NewError(connect.CodeUnavailable,
			fmt.Errorf("%w: look at the newest revisions before trying again", storage.ErrUnknownOutcome))
	case errors.Is(err, storage.ErrUnavailable):
		log.WarnContext(ctx, "database could not be reached", "err", err)
		return connect.NewError(connect.CodeUnavailable, fmt.Errorf("%w: nothing was changed", storage.ErrUnavailable))
	}
	log.ErrorContext(ctx, "request failed", "err", err)
	return connect.NewError(connect.CodeInternal, errors.New("internal"))
}

// problem makes an error of problems, with those that were kept as its detail.
func problem(code connect.Code, problems resource.Problems) error {
	detail := &adminv1.Problems{Total: int32(min(problems.Total, 1<<30))} //nolint:gosec // bounded
	for _, p := range problems.Kept {
		detail.Problems = append(detail.Problems, &adminv1.Problem{
			Resource: p.Resource,
			Index:    int32(p.Index), //nolint:gosec // bounded by the size of a request
			Field:    p.Field,
			Reason:   p.Reason,
			Message:  p.Message,
			Line:     int32(p.Line),   //nolint:gosec // bounded by the size of an expression
			Column:   int32(p.Column), //nolint:gosec // as above
		})
	}
	err := connect.NewError(code, errors.New(summary(detail)))
	return withDetail(err, detail)
}

// summary says it in one line, for callers that do not read details.
func summary(p *adminv1.Problems) string {
	if len(p.GetProblems()) == 0 {
		return "the request is not valid"
	}
	first := p.GetProblems()[0]
	text := first.GetMessage()
	if first.GetField() != "" {
		text = first.GetField() + ": " + text
	}
	if first.GetResource() != "" {
		text = first.GetResource() + ": " + text
	}
	if p.GetTotal() > 1 {
		text = fmt.Sprintf("%s (and %d more problems)", text, p.GetTotal()-1)
	}
	return text
}

func withDetail(err *connect.Error, m proto.Message) error {
	detail, mistake := connect.NewErrorDetail(m)
	if mistake != nil {
		return errors.Join(err, mistake)
	}
	err.AddDetail(detail)
	return err
}
