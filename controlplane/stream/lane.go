package stream

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/internal/failpoint"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// lane is one of the two things that a stream keeps a proxy current of: the
// snapshot of its environment, or the security lane.
type lane struct {
	hub     *Hub
	name    string // of its snapshots
	session recorder
	log     *slog.Logger
	// confirmed belongs to the sender: the last freshness statement that it sent.
	confirmed *proxyv1.SignedFreshness

	mu sync.Mutex
	// pushed is the snapshot that the proxy was sent and has not answered yet;
	// full says whether it was sent whole.
	pushed   *snapshot.Snapshot
	pushedAt time.Time
	full     bool
	// ack is the last one. held is the snapshot that it is about, nil if that is
	// not known here.
	ack  *proxyv1.Ack
	held *snapshot.Snapshot
	// refused says that the last update was: the next one is sent whole.
	refused bool
}

// recorder is the part of a session that is for one lane.
type recorder interface {
	Acked(ack *proxyv1.Ack, known *snapshot.Snapshot) adminv1.Enforcement
	Judged(ack *proxyv1.Ack, known *snapshot.Snapshot) adminv1.Enforcement
	Refused(refusal *proxyv1.Refusal)
}

// state returns what the proxy should have.
func (l *lane) state() State { return l.hub.State(l.name) }

// unconfirmed reports whether there is a freshness statement that was not sent yet.
func (l *lane) unconfirmed(s State) bool { return s.Freshness != nil && s.Freshness != l.confirmed }

// begun reports whether the proxy has something of this lane, or was sent it.
func (l *lane) begun() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ack != nil || l.pushed != nil
}

// acked takes a statement of the proxy; nil says that it has nothing.
func (l *lane) acked(ctx context.Context, ack *proxyv1.Ack) {
	if ack == nil {
		return
	}
	failpoint.Hit("stream.acked")
	at := position(ack)
	held := l.find(ack)
	l.mu.Lock()
	l.ack, l.held = ack, held
	if l.pushed != nil && !l.pushed.Head().Position().After(at) {
		l.pushed, l.refused = nil, false
	}
	l.mu.Unlock()
	enforcement := l.session.Acked(ack, held)
	l.log.DebugContext(ctx, "ack received", "revision", ack.GetRevision(), "enforcement", enforcement.String())
}

func position(ack *proxyv1.Ack) snapshot.Position {
	return snapshot.Position{Epoch: snapshot.Epoch(ack.GetEpoch()), Revision: snapshot.Revision(ack.GetRevision())}
}

// find returns the snapshot that an ack is about, nil if it is not known here.
func (l *lane) find(ack *proxyv1.Ack) *snapshot.Snapshot {
	digest, ok := snapshot.ParseDigest(ack.GetHeadDigest())
	if !ok {
		return nil
	}
	return l.hub.Find(l.name, digest)
}

// reconsider looks again at an ack that is about a snapshot that this replica
// did not have: it may have it by now, or another one for the same place in
// history.
func (l *lane) reconsider() {
	l.mu.Lock()
	ack, held := l.ack, l.held
	l.mu.Unlock()
	if ack == nil || held != nil {
		return
	}
	held = l.find(ack)
	known := held
	if known == nil {
		known = l.hub.At(l.name, position(ack))
	}
	if known == nil {
		return
	}
	l.mu.Lock()
	current := l.ack == ack
	if current {
		l.held = held
	}
	l.mu.Unlock()
	if current { // else it is judged as it comes
		l.session.Judged(ack, known)
	}
}

// refuse makes the next push a full snapshot. A proxy that refuses that as
// well has to come again: it would refuse it for ever.
func (l *lane) refuse(ctx context.Context, refusal *proxyv1.Refusal) error {
	l.log.ErrorContext(ctx, "update was refused by the proxy", "revision", refusal.GetRevision(),
		"reason", refusal.GetReason(), "err", refusal.GetDetail())
	l.session.Refused(refusal)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.pushed == nil:
		return connect.NewError(connect.CodeFailedPrecondition, errors.New("nothing was sent that could be refused"))
	case l.full:
		return connect.NewError(connect.CodeFailedPrecondition, errors.New("a full snapshot was refused"))
	}
	l.pushed, l.refused = nil, true
	return nil
}

// left returns how long the proxy may still take to answer the last push; all of
// within when it has to answer none.
func (l *lane) left(within time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pushed == nil {
		return within
	}
	return within - time.Since(l.pushedAt)
}

// begin reports whether next is to be pushed, and what it builds on.
func (l *lane) begin(next *snapshot.Snapshot) (base *snapshot.Snapshot, due bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if next == nil || l.pushed != nil || !next.Head().Position().After(position(l.ack)) {
		return nil, false
	}
	if base = l.held; l.refused {
		base = nil
	}
	l.pushed, l.pushedAt, l.full = next, time.Now(), base == nil
	return base, true
}
