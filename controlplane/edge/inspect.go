package edge

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/controlplane/registry"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	replicav1 "github.com/sallyport/sallyport/proto/gen/sallyport/replica/v1"
	"github.com/sallyport/sallyport/storage"
)

const (
	// pollWithin is longer than a replica waits for questions.
	pollWithin = 30 * time.Second
	// inspectWithin bounds what a proxy may take for an answer, as where it is asked for,
	// and answerWithin what the replica may take to hear it.
	inspectWithin = 10 * time.Second
	answerWithin  = 8 * time.Second
	// inspectedAtOnce bounds the proxies that are asked at a time.
	inspectedAtOnce = 16
	// Bounds of the pause between polls that returned nothing.
	shortestPause = time.Second
	longestPause  = 10 * time.Second
)

// inspect asks proxies what a replica with a database wants to know of them, until ctx
// ends. That one is polled which takes what is handed on: the edge calls, and is never
// called. One of before knows of no questions.
func (e *Edge) inspect(ctx context.Context) error {
	var g errgroup.Group
	g.SetLimit(inspectedAtOnce)
	pause := shortestPause
	for ctx.Err() == nil {
		_, c := e.full.current()
		questions, err := e.poll(ctx, c)
		for _, q := range questions {
			g.Go(func() error { e.answer(ctx, c, q); return nil })
		}
		switch {
		case len(questions) > 0:
			pause = shortestPause
			continue
		case err != nil:
			e.log.DebugContext(ctx, "no replica was polled for questions", "err", err)
			pause = min(2*pause, longestPause)
		default:
			pause = shortestPause
		}
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(pause)): //nolint:gosec // spreads load, hides nothing
		}
	}
	return g.Wait()
}

func (e *Edge) poll(ctx context.Context, c client) (questions []*replicav1.Question, err error) {
	err = e.full.try(ctx, pollWithin, c, func(ctx context.Context, c client) error {
		res, err := c.Poll(ctx, connect.NewRequest(&replicav1.PollRequest{Replica: e.store.replica}))
		if err == nil {
			questions = res.Msg.GetQuestions()
		}
		return err
	})
	return questions, err
}

// answer asks a proxy, and hands its answer on to the replica that has the question. Of
// one that does not answer in time nothing is said: nobody waits any more.
func (e *Edge) answer(ctx context.Context, c client, q *replicav1.Question) {
	asking, cancel := context.WithTimeout(ctx, inspectWithin)
	defer cancel()
	m, err := e.registry.Inspect(asking, storage.ProxyID(q.GetProxy()), &proxyv1.Inspect{
		Buckets: q.GetInspect().GetBuckets(), Security: q.GetInspect().GetSecurity(),
	})
	if err != nil && !errors.Is(err, registry.ErrElsewhere) {
		return
	}
	err = e.full.try(ctx, answerWithin, c, func(ctx context.Context, c client) error {
		_, err := c.Answer(ctx, connect.NewRequest(&replicav1.AnswerRequest{Id: q.GetId(), Inspection: m}))
		return err
	})
	result := "arrived"
	if err != nil {
		result = "failed"
		e.log.DebugContext(ctx, "what a proxy has was not handed on", "proxy", q.GetProxy(), "err", err)
	}
	e.full.forwarded.WithLabelValues("inspection", result).Inc()
}
