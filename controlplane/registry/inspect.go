package registry

import (
	"context"
	"errors"

	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

// ErrElsewhere says that a proxy has no stream on this replica.
var ErrElsewhere = errors.New("the proxy is not connected to this replica")

// inspections are what is asked of a proxy, one after the other.
type inspections struct {
	turn    chan struct{} // held by the one who asks
	asked   chan *proxyv1.Inspect
	answers chan *proxyv1.Inspection
	last    int64 // ID of a question; for who has the turn
}

func newInspections() inspections {
	return inspections{
		turn: make(chan struct{}, 1), asked: make(chan *proxyv1.Inspect, 1), answers: make(chan *proxyv1.Inspection, 1),
	}
}

// Inspect asks a proxy for digests of what it enforces, by a question whose ID it sets.
// It waits for the answer until ctx ends. ErrElsewhere.
func (r *Registry) Inspect(ctx context.Context, id storage.ProxyID, ask *proxyv1.Inspect) (*proxyv1.Inspection, error) {
	e := r.entry(id)
	if e == nil || e.session == nil {
		return nil, ErrElsewhere
	}
	s := e.session
	select {
	case s.inspections.turn <- struct{}{}:
		defer func() { <-s.inspections.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select { // one that nobody waited for is not sent any more
	case <-s.inspections.asked:
	default:
	}
	s.inspections.last++
	ask.Id = s.inspections.last
	s.inspections.asked <- ask
	for {
		select {
		case m := <-s.inspections.answers:
			if m.GetId() == s.inspections.last {
				return m, nil
			}
		case <-s.replaced:
			return nil, ErrElsewhere
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Replica returns how this replica is called.
func (r *Registry) Replica() string { return r.replica }

// Holder returns the other replica that has a proxy's stream, as the database says;
// empty if none has.
func (r *Registry) Holder(ctx context.Context, id storage.ProxyID) (string, error) {
	record, err := r.store.Proxy(ctx, id)
	if err != nil || !r.elsewhere(record) {
		return "", err
	}
	return record.Replica, nil
}

// Asked receives what the proxy is to be asked.
func (s *Session) Asked() <-chan *proxyv1.Inspect { return s.inspections.asked }

// Inspected takes an answer of the proxy. One that nobody waits for is dropped.
func (s *Session) Inspected(m *proxyv1.Inspection) {
	select {
	case <-s.inspections.answers: // an older one
	default:
	}
	select {
	case s.inspections.answers <- m:
	default:
	}
}
