package api

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1/adminv1connect"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
	"github.com/sallyport/sallyport/storage"
)

const (
	// tailEvery is how often the database is asked what is new.
	tailEvery = 500 * time.Millisecond
	// tailLimit bounds the records that are looked at each time, and tailMessage
	// those of a message.
	tailLimit   = 4000
	tailMessage = 500
	// maxTails bounds the callers who tail at a time.
	maxTails = 32
)

// decisionService implements adminv1connect.DecisionServiceHandler.
type decisionService struct{ *API }

var _ adminv1connect.DecisionServiceHandler = decisionService{}

var (
	errID    = connect.NewError(connect.CodeInvalidArgument, errors.New("filter.id is not the ID of a decision"))
	errTrace = connect.NewError(connect.CodeInvalidArgument, errors.New("filter.trace is not the ID of a trace"))
	errTails = connect.NewError(connect.CodeResourceExhausted, errors.New("too many callers tail decisions"))
)

// filter reads a filter. A principal is looked for under its pseudonym as well.
func (s decisionService) filter(f *adminv1.DecisionFilter) (to storage.DecisionFilter, err error) {
	to = storage.DecisionFilter{
		Route: f.GetRoute(), Reason: f.GetReason(), Proxy: storage.ProxyID(f.GetProxy()), Environment: f.GetEnvironment(),
	}
	if f.GetId() != "" {
		if to.ID, err = storage.ParseDecisionID(f.GetId()); err != nil {
			return to, errID
		}
	}
	if f.GetTrace() != "" {
		if to.Trace, err = storage.ParseTraceID(f.GetTrace()); err != nil {
			return to, errTrace
		}
	}
	if f.GetPrincipal() != "" {
		to.Principals = []string{f.GetPrincipal(), s.pseudonym(f.GetPrincipal())}
	}
	if v := f.GetVerdict(); v != adminv1.Verdict_VERDICT_UNSPECIFIED {
		allow := v == adminv1.Verdict_VERDICT_ALLOW
		to.Allow = &allow
	}
	return to, nil
}

// Query implements adminv1connect.DecisionServiceHandler.
func (s decisionService) Query(ctx context.Context, req *connect.Request[adminv1.QueryRequest]) (*connect.Response[adminv1.QueryResponse], error) {
	limit := pageSize(req.Msg.GetPageSize(), defaultPage)
	filter, err := s.filter(req.Msg.GetFilter())
	if err != nil {
		return nil, err
	}
	p := storage.DecisionPage{DecisionFilter: filter, Limit: limit + 1}
	if t := req.Msg.GetSince(); t != nil {
		p.From = storage.DecisionsFrom(t.AsTime())
	}
	if t := req.Msg.GetUntil(); t != nil {
		p.Before = storage.DecisionsFrom(t.AsTime())
	}
	if token := req.Msg.GetPageToken(); token != "" {
		if p.After, err = decisionPlace(token); err != nil {
			return nil, err
		}
	}
	found, err := s.decisions.Decisions(ctx, p)
	if err != nil {
		return nil, err
	}
	res := &adminv1.QueryResponse{}
	if len(found) > limit {
		found = found[:limit]
		res.NextPageToken = decisionToken(&found[limit-1])
	}
	if res.Decisions, err = told(found); err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

func decisionToken(d *storage.Decision) string {
	return encodeToken(d.ID.String(), string(d.Proxy), hex.EncodeToString(d.Boot), strconv.FormatInt(d.Sequence, 10))
}

func decisionPlace(token string) (*storage.Decision, error) {
	var id, proxy, boot, sequence string
	if err := decodeToken(token, &id, &proxy, &boot, &sequence); err != nil {
		return nil, err
	}
	var d storage.Decision
	var errs [3]error
	d.ID, errs[0] = storage.ParseDecisionID(id)
	d.Boot, errs[1] = hex.DecodeString(boot)
	d.Sequence, errs[2] = strconv.ParseInt(sequence, 10, 64)
	d.Proxy = storage.ProxyID(proxy)
	if cmp.Or(errs[:]...) != nil {
		return nil, errToken
	}
	return &d, nil
}

// told returns records as callers see them.
func told(found []storage.Decision) ([]*decisionv1.Decision, error) {
	to := make([]*decisionv1.Decision, len(found))
	for i, d := range found {
		to[i] = &decisionv1.Decision{}
		if err := proto.Unmarshal(d.Record, to[i]); err != nil {
			return nil, err
		}
		to[i].Proxy, to[i].Boot, to[i].Sequence = string(d.Proxy), d.Boot, d.Sequence
	}
	return to, nil
}

// Tail implements adminv1connect.DecisionServiceHandler.
func (s decisionService) Tail(ctx context.Context, req *connect.Request[adminv1.TailRequest], stream *connect.ServerStream[adminv1.TailResponse]) error {
	began := s.now()
	p := patient[adminv1.TailResponse]{stream, callOf(ctx).control, s.sendWithin}
	err := p.rest()
	if err == nil {
		err = s.tail(ctx, req.Msg, p.send)
	}
	err = public(ctx, s.log, err)
	s.metrics.observe(req.Spec().Procedure, err, s.now().Sub(began))
	return cmp.Or(err, p.hurry())
}

func (s decisionService) tail(ctx context.Context, req *adminv1.TailRequest, send func(*adminv1.TailResponse) error) error {
	if err := s.check(req); err != nil {
		return err
	}
	filter, err := s.filter(req.GetFilter())
	if err != nil {
		return err
	}
	if s.tails.Add(1) > maxTails {
		s.tails.Add(-1)
		return errTails
	}
	defer s.tails.Add(-1)
	mark, err := s.decisions.Mark(ctx)
	if err != nil {
		return err
	}
	// Who has heard this misses nothing from here on.
	if err := send(&adminv1.TailResponse{}); err != nil {
		return err
	}
	ticker := time.NewTicker(tailEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.drain:
			return connect.NewError(connect.CodeUnavailable, errDraining)
		case <-ticker.C:
		}
		found, skipped, err := s.decisions.Recorded(ctx, mark, filter, tailLimit)
		if err != nil {
			return err
		}
		if err := tell(found, skipped, send); err != nil {
			return err
		}
	}
}

// tell sends what there is, in messages that are not too large.
func tell(found []storage.Decision, skipped int64, send func(*adminv1.TailResponse) error) error {
	for len(found) > 0 || skipped > 0 {
		n := min(len(found), tailMessage)
		all, err := told(found[:n])
		if err != nil {
			return err
		}
		if err := send(&adminv1.TailResponse{Decisions: all, Skipped: skipped}); err != nil {
			return err
		}
		found, skipped = found[n:], 0
	}
	return nil
}
