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
	"github.com/sallyport/sallyport/internal/identity"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

const (
	// inquiriesAtOnce is how many questions of other replicas are answered at a time.
	inquiriesAtOnce = judgedAtOnce
	// inquireAgain is when it is looked for questions, and answers, whatever
	// notifications said.
	inquireAgain = 5 * time.Second
)

// Edges are what this replica can have edges ask of the proxies that are connected to
// them. They are called as where a replica is named.
type Edges interface {
	// Here returns those that can be asked now.
	Here() []string
	// Inspect returns what an edge hands on of a proxy, and the SPIFFE ID of the edge. It
	// waits until ctx ends. registry.ErrElsewhere.
	Inspect(ctx context.Context, edge string, proxy storage.ProxyID, ask *proxyv1.Inspect) (*proxyv1.Inspection, identity.ID, error)
}

// way is how a proxy is asked for what it has.
type way struct {
	turns chan struct{} // held by each Verify that is under way: it waits for a proxy
	// ask returns the answer, and who has told it if that is an edge.
	ask func(ctx context.Context, id storage.ProxyID, what *proxyv1.Inspect) (*proxyv1.Inspection, identity.ID, error)
}

// here is on a proxy's stream.
func (a *API) here() way {
	return way{a.judging, func(ctx context.Context, id storage.ProxyID, what *proxyv1.Inspect) (*proxyv1.Inspection, identity.ID, error) {
		m, err := a.registry.Inspect(ctx, id, what)
		return m, "", err
	}}
}

// behind is by an edge. It has turns of its own: one that does not answer holds up
// nobody but the proxies of edges.
func (a *API) behind(edge string) way {
	return way{a.judgingBehind, func(ctx context.Context, id storage.ProxyID, what *proxyv1.Inspect) (*proxyv1.Inspection, identity.ID, error) {
		return a.edges.Inspect(ctx, edge, id, what)
	}}
}

// verifyElsewhere has the replica verify a proxy that has its stream, by way of the
// database: replicas do not know how to reach each other, and need not trust each other
// with more than they do already. A question to an edge is answered by a replica that can
// ask it.
func (a *API) verifyElsewhere(ctx context.Context, id storage.ProxyID) (*adminv1.VerifyResponse, error) {
	holder, err := a.registry.Holder(ctx, id)
	switch {
	case err != nil && !errors.Is(err, storage.ErrNotFound): // it is known here, and was not saved yet
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

// answer verifies those proxies that some replicas are asked for, which names returns,
// until ctx ends. It outlives every failure of the database.
func (a *API) answer(ctx context.Context, names func() []string) {
	asked := a.store.Asked(ctx)
	again := time.NewTicker(inquireAgain)
	defer again.Stop()
	for ctx.Err() == nil {
		more, err := a.answerSome(ctx, names())
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
func (a *API) answerSome(ctx context.Context, names []string) (more bool, err error) {
	if len(names) == 0 {
		return false, nil
	}
	questions, err := a.store.Unanswered(ctx, names, inquiriesAtOnce)
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
	by := a.here()
	if q.Replica != a.registry.Replica() {
		by = a.behind(q.Replica)
	}
	res, err := a.verify(ctx, q.Proxy, by)
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
