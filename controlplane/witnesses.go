package controlplane

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/storage"
)

const (
	// witnessesWithin is how long proxies have to show what they have where nobody else
	// can: they try to connect every three seconds.
	witnessesWithin = 15 * time.Second
	// lookWithin bounds looking whether anything is published.
	lookWithin = 2 * time.Second
	// lookAgain is how often it is looked whether one has.
	lookAgain = 200 * time.Millisecond
)

// witnesses hold changes back after a start with etcds that are all empty, though the
// database has something to publish. If it was set back proxies alone can tell, and what
// is changed before they have would go by numbers that are theirs already.
type witnesses struct {
	log    func(ctx context.Context, msg string, args ...any)
	within time.Duration
	until  time.Time     // when it is over; zero when nothing is held back
	over   chan struct{} // closed then
}

func newWitnesses(s *Server) *witnesses {
	return &witnesses{log: s.log.WarnContext, within: witnessesWithin, over: make(chan struct{})}
}

// begin finds out whether changes are to be held back. It is called before anything is
// published, or changed. Where one of the etcds cannot be reached it is not so: see
// publish.Timeline.
func (w *witnesses) begin(ctx context.Context, s *Server) {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	position, err := s.database.Position(ctx)
	empty := err == nil && position.Revision > 0
	for _, t := range s.targets.all {
		heads, err := t.Heads(ctx, s.signing.verifier)
		empty = empty && err == nil && len(heads) == 0
	}
	if !empty {
		close(w.over)
		return
	}
	w.until = time.Now().Add(w.within)
	w.log(ctx, "nothing is published: changes wait until proxies had the time to show what they have", "delay", w.within, "revision", position.Revision)
}

// wait returns when changes may be made: when the time is over, or when somebody has
// shown more than the database holds, and it refuses by itself.
func (w *witnesses) wait(ctx context.Context, h storage.History) {
	if w.until.IsZero() {
		return
	}
	defer close(w.over)
	end := time.NewTimer(time.Until(w.until))
	again := time.NewTicker(lookAgain)
	defer end.Stop()
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-end.C:
			return
		case <-again.C:
			if errors.Is(h.Settled(ctx), storage.ErrAhead) {
				return
			}
		}
	}
}

// heard returns an error while changes are held back.
func (w *witnesses) heard() error {
	select {
	case <-w.over:
		return nil
	default:
		return connect.NewError(connect.CodeUnavailable, fmt.Errorf(
			"nothing is published, though the database has something: until %s proxies may show what they have; nothing was changed",
			w.until.UTC().Format(time.RFC3339)))
	}
}

// publish is the publisher's Run, when changes may be made: other replicas that start
// are to see that nothing is published, too.
func (s *Server) publish(ctx context.Context) error {
	s.witnesses.wait(ctx, s.database)
	return s.publisher.Run(ctx)
}
