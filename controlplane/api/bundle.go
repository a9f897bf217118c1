package api

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/bundle"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

const (
	// exportWithin bounds how long an export may take.
	exportWithin = 10 * time.Minute
	// exportChunk is how much of a bundle one message has, in bytes.
	exportChunk = 256 << 10
)

// Published returns what is published of an environment and of the security lane, as
// far as it is. It may be called with any name.
type Published func(environment string) bundle.Bundle

// bundleService implements adminv1connect.BundleServiceHandler.
type bundleService struct{ *API }

var _ adminv1connect.BundleServiceHandler = bundleService{}

func (s bundleService) Export(ctx context.Context, req *connect.Request[adminv1.ExportRequest], stream *connect.ServerStream[adminv1.ExportResponse]) error {
	began := s.now()
	ctx, cancel := context.WithTimeout(ctx, exportWithin)
	defer cancel()
	p := patient[adminv1.ExportResponse]{stream, callOf(ctx).control, s.sendWithin}
	err := p.rest()
	if err == nil {
		err = s.export(ctx, req.Msg, p.send)
	}
	err = public(ctx, s.log, err)
	s.metrics.observe(req.Spec().Procedure, err, s.now().Sub(began))
	return cmp.Or(err, p.hurry())
}

func (s bundleService) export(ctx context.Context, req *adminv1.ExportRequest, send func(*adminv1.ExportResponse) error) error {
	if err := s.check(req); err != nil {
		return err
	}
	b := s.published(req.GetEnvironment())
	switch {
	case req.GetEnvironment() == snapshot.SecurityLane, b.Policy == nil:
		return connect.NewError(connect.CodeNotFound, fmt.Errorf("nothing is published of an environment %q", req.GetEnvironment()))
	case b.Security == nil:
		return connect.NewError(connect.CodeUnavailable, errors.New("nothing is published of the security lane yet"))
	}
	if err := send(&adminv1.ExportResponse{About: about(&b)}); err != nil {
		return err
	}
	w := bufio.NewWriterSize(&chunks{ctx, send}, exportChunk)
	if err := bundle.Write(w, &b); err != nil {
		return err
	}
	return w.Flush()
}

// chunks sends what is written to it.
type chunks struct {
	ctx  context.Context //nolint:containedctx // of the call that writes
	send func(*adminv1.ExportResponse) error
}

// Write implements io.Writer.
func (c *chunks) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		next := rest[:min(len(rest), exportChunk)]
		rest = rest[len(next):]
		if err := cmp.Or(c.ctx.Err(), c.send(&adminv1.ExportResponse{Data: next})); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func about(b *bundle.Bundle) *adminv1.Exported {
	head := b.Policy.Head()
	return &adminv1.Exported{
		Epoch: int64(head.Epoch), Revision: int64(head.Revision), SecuritySequence: int64(b.Security.Head().Revision),
		ConfirmedAt: older(issued(b.Freshness), issued(b.SecurityFreshness)),
	}
}

// issued is when a statement was, which the hub has verified; nil for none.
func issued(signed *proxyv1.SignedFreshness) *timestamppb.Timestamp {
	var f proxyv1.Freshness
	if signed == nil || proto.Unmarshal(signed.GetStatement(), &f) != nil {
		return nil
	}
	return f.GetIssuedAt()
}

// older is nil if one of them is.
func older(a, b *timestamppb.Timestamp) *timestamppb.Timestamp {
	switch {
	case a == nil || b == nil:
		return nil
	case a.AsTime().Before(b.AsTime()):
		return a
	}
	return b
}
