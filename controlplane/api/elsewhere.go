package api

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/registry"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
)

const (
	// inquiriesAtOnce is how many questions of other replicas are answered at a time.
	inquiriesAtOnce = judgedAtOnce
	// inquireAgain is when it is looked for questions, and answers, whatever
	// notifications said.
	inquireAgain = 5 * time.Second
)

// verifyElsewhere has the replica verify a proxy that has its stream, by way of the
// database: replicas do not know how to reach each other, and need not trust each other
// with more than they do already.
func (a *API) verifyElsewhere(ctx context.Context, id storage.ProxyID) (*adminv1.VerifyResponse, error) {
	holder, err := a.registry.Holder(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case holder == "":
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("the proxy is not connected"))
	}
	waiting, cancel := context.WithTimeout(ctx, a.inquireWithin)
	defer cancel()
	asked := a.store.Asked(waiting)
	question, err := a.store.Ask(waiting, storage.Inquiry{Replica: holder, Proxy: id})
	if err != nil {
		return nil, err
	}
	again := time.NewTicker(inquireAgain)
	defer again.Stop()
	for {
		answer, err := a.store.Answered(waiting, question)
		switch {
		case err == nil:
			return readAnswer(answer)
		case waiting.Err() != nil && ctx.Err() == nil:
			return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("replica %s, which the proxy is connected to, has not answered within %s", holder, a.inquireWithin))
		case !errors.Is(err, storage.ErrNotFound):
			return nil, err
		}
		select {
		case <-waiting.Done():
		case <-asked:
		case <-again.C:
		}
	}
}

func readAnswer(a storage.InquiryAnswer) (*adminv1.VerifyResponse, error) {
	if a.Code != 0 {
		return nil, connect.NewError(connect.Code(a.Code), errors.New(a.Reason)) //nolint:gosec // as it was written
	}
	m := &adminv1.VerifyResponse{}
	if err := proto.Unmarshal(a.Result, m); err != nil {
		return nil, fmt.Errorf("answer of another replica: %w", err)
	}
	return m, nil
}

// answer verifies those proxies that other replicas ask for, until ctx ends. It
// outlives every failure of the database.
func (a *API) answer(ctx context.Context) {
	asked := a.store.Asked(ctx)
	again := time.NewTicker(inquireAgain)
	defer again.Stop()
	for ctx.Err() == nil {
		more, err := a.answerSome(ctx)
		if err != nil && ctx.Err() == nil {
			a.log.WarnContext(ctx, "questions of other replicas were not answered", "err", err)
		}
		if more && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
		case <-asked:
		case <-again.C:
		}
	}
}

// answerSome answers the oldest questions. It reports whether there may be more.
func (a *API) answerSome(ctx context.Context) (more bool, err error) {
	questions, err := a.store.Unanswered(ctx, a.registry.Replica(), inquiriesAtOnce)
	if err != nil {
		return false, err
	}
	var g errgroup.Group
	for _, q := range questions {
		g.Go(func() error {
			err := a.store.Answer(ctx, q.ID, a.answerTo(ctx, q))
			if errors.Is(err, storage.ErrNotFound) {
				return nil // nobody waits any more
			}
			return err
		})
	}
	return len(questions) > 0, g.Wait()
}

func (a *API) answerTo(ctx context.Context, q storage.Inquiry) storage.InquiryAnswer {
	ctx, cancel := context.WithTimeout(ctx, a.inquireWithin)
	defer cancel()
	res, err := a.verify(ctx, q.Proxy)
	var result []byte
	if err == nil {
		result, err = proto.Marshal(res)
	}
	switch {
	case errors.Is(err, registry.ErrElsewhere):
		return storage.InquiryAnswer{Code: int(connect.CodeUnavailable), Reason: "the proxy has gone to another replica meanwhile: ask again"}
	case err == nil && len(result) > storage.MaxInquiryResult:
		err = connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("what deviates takes %d bytes to name", len(result)))
	}
	if err != nil {
		told := public(ctx, a.log, err)
		return storage.InquiryAnswer{Code: int(connect.CodeOf(told)), Reason: reasonOf(told)}
	}
	return storage.InquiryAnswer{Result: result}
}

// reasonOf is what an error says beside its code.
func reasonOf(err error) string {
	if e, ok := errors.AsType[*connect.Error](err); ok {
		return e.Message()
	}
	return err.Error()
}
