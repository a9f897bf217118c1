package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/access"
	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
)

var errInternal = connect.NewError(connect.CodeInternal, errors.New("internal"))

// public turns err into what a caller may see. Only our own words leave: every
// other cause is logged here, once, and goes out as "internal".
func public(ctx context.Context, log *slog.Logger, err error) error {
	if err == nil {
		return nil
	}
	seen := visible(err)
	switch {
	case seen.Code() == connect.CodeInternal:
		log.ErrorContext(ctx, "request failed", "err", err)
	case errors.Is(err, storage.ErrUnknownOutcome):
		log.ErrorContext(ctx, "outcome of a commit is not known", "err", err)
	case errors.Is(err, storage.ErrUnavailable):
		log.WarnContext(ctx, "database could not be reached", "err", err)
	}
	return seen
}

// codeOf returns the code that a caller sees of an error.
func codeOf(err error) connect.Code { return visible(err).Code() }

func visible(err error) *connect.Error {
	var ours *connect.Error
	var ahead *storage.AheadError
	var forgotten *storage.ForgottenError
	switch {
	case errors.As(err, &ours):
		return ours
	case errors.As(err, &forgotten):
		return connect.NewError(connect.CodeOutOfRange, forgotten)
	case errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, errors.New("the call was cancelled"))
	case errors.Is(err, context.DeadlineExceeded):
		return connect.NewError(connect.CodeDeadlineExceeded, errors.New("this took too long"))
	case errors.Is(err, access.ErrUnauthenticated):
		return connect.NewError(connect.CodeUnauthenticated, access.ErrUnauthenticated)
	case errors.Is(err, access.ErrDenied):
		return connect.NewError(connect.CodePermissionDenied, err)
	case errors.Is(err, storage.ErrNotFound):
		return connect.NewError(connect.CodeNotFound, storage.ErrNotFound)
	case errors.As(err, &ahead):
		return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("nothing was changed: %w. Bring the newer database back, or "+
			"begin a new epoch with sallyport-controlplane recover; until then nothing is changed or published", ahead))
	case errors.Is(err, storage.ErrConflict):
		return connect.NewError(connect.CodeAborted, fmt.Errorf("%w than expected: nothing was changed", storage.ErrConflict))
	case errors.Is(err, storage.ErrUnknownOutcome):
		return connect.NewError(connect.CodeUnavailable,
			fmt.Errorf("%w: look at the newest revisions before trying again", storage.ErrUnknownOutcome))
	case errors.Is(err, storage.ErrUnavailable):
		return connect.NewError(connect.CodeUnavailable, fmt.Errorf("%w: nothing was changed", storage.ErrUnavailable))
	}
	return errInternal
}

// maxDetail bounds the problems of an answer, in bytes: gRPC sends them in a
// header.
const maxDetail = 32 << 10

// maxMessage bounds the text of one problem, in bytes.
const maxMessage = 1 << 10

// problem makes an error of problems, with as many of them as fit as its
// detail.
func problem(code connect.Code, problems resource.Problems) error {
	detail := &adminv1.Problems{Total: int32(min(problems.Total, 1<<30))} //nolint:gosec // bounded
	left := maxDetail
	for _, p := range problems.Kept {
		one := &adminv1.Problem{
			Resource: named(p),
			Index:    int32(p.Index), //nolint:gosec // bounded by the size of a request
			Field:    shorten(p.Field),
			Reason:   p.Reason,
			Message:  shorten(p.Message),
			Line:     int32(p.Line),   //nolint:gosec // bounded by the size of an expression
			Column:   int32(p.Column), //nolint:gosec // as above
		}
		if left -= proto.Size(one) + 4; left < 0 {
			break
		}
		detail.Problems = append(detail.Problems, one)
	}
	err := connect.NewError(code, errors.New(summary(detail)))
	return withDetail(err, detail)
}

// named is what a problem is about; its place for what has no name.
func named(p resource.Problem) string {
	if strings.Trim(p.Resource, "/") == "" && p.Resource != "" {
		return fmt.Sprintf("resources[%d]", p.Index)
	}
	return p.Resource
}

func shorten(s string) string {
	if len(s) <= maxMessage {
		return s
	}
	return strings.ToValidUTF8(s[:maxMessage], "") + "..."
}

// summary says it in one line, for callers that do not read details.
func summary(p *adminv1.Problems) string {
	if len(p.GetProblems()) == 0 {
		return "the request is not valid"
	}
	first := p.GetProblems()[0]
	var text strings.Builder
	for _, part := range []string{first.GetResource(), first.GetField()} {
		if part != "" {
			text.WriteString(part + ": ")
		}
	}
	if first.GetLine() > 0 {
		fmt.Fprintf(&text, "%d:%d: ", first.GetLine(), first.GetColumn())
	}
	text.WriteString(first.GetMessage())
	switch more := p.GetTotal() - 1; {
	case more == 1:
		text.WriteString(" (and 1 more problem)")
	case more > 1:
		fmt.Fprintf(&text, " (and %d more problems)", more)
	}
	return text.String()
}

func withDetail(err *connect.Error, m proto.Message) error {
	detail, mistake := connect.NewErrorDetail(m)
	if mistake != nil {
		return errors.Join(err, mistake)
	}
	err.AddDetail(detail)
	return err
}
