package link

import (
	"context"

	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// course is one lane on one stream.
type course struct {
	*lane
	environment string                // that its snapshots have to be of
	refusals    chan *proxyv1.Refusal // from the receiver to the sender

	// What follows belongs to the receiver.
	assembly snapshot.Assembly
	skipping bool // the rest of an update that was refused
	doubted  bool // the last freshness statement was refused

	// What follows belongs to the sender: what it acknowledged last.
	acked     *statement
	signed    *proxyv1.Ack // of it
	persisted snapshot.Revision
}

// newCourse starts a lane on a stream of a proxy that was admitted to an
// environment.
func newCourse(l *lane, admitted string) *course {
	c := &course{lane: l, environment: l.of, refusals: make(chan *proxyv1.Refusal, 1)}
	if c.environment == "" {
		c.environment = admitted
	}
	return c
}

// update takes the next part of an update, and applies it with the last one.
func (c *course) update(ctx context.Context, part *proxyv1.Update) {
	c.taking.Lock()
	defer c.taking.Unlock()
	last := part.GetHead() != nil
	if c.skipping {
		c.skipping = !last
		return
	}
	next, err := c.assembly.Add(c.cfg.Verifier, c.current, part)
	if err == nil && next == nil {
		return
	}
	if err == nil {
		err = c.marks.check(c.environment, next.Head())
	}
	if err != nil {
		c.skipping = !last
		c.refuse(ctx, part, err)
		return
	}
	from := c.current.Head().Revision
	st := c.enforce(next)
	c.keeper.keep(next, c.marks, c.clock.confirmed)
	c.tell()
	c.log.InfoContext(ctx, "snapshot applied", "environment", c.environment, "from", from, "revision", st.head.Revision,
		"rejects", len(st.enforced.Rejects), "took", st.took)
}

// refuse keeps what is enforced and says why.
func (c *course) refuse(ctx context.Context, part *proxyv1.Update, err error) {
	r := &proxyv1.Refusal{Reason: reason(err), Detail: clip(err.Error(), 1024)}
	if head, err := c.cfg.Verifier.VerifyHead(part.GetHead()); err == nil {
		r.Epoch, r.Revision = int64(head.Epoch), int64(head.Revision)
	}
	c.metrics.refusals.WithLabelValues(r.GetReason()).Inc()
	c.log.ErrorContext(ctx, "update was refused", "reason", r.GetReason(), "revision", r.GetRevision(), "err", err)
	select {
	case c.refusals <- r:
	default: // one is on its way
	}
}

// confirm takes a freshness statement that was verified, unless err says why
// it was not.
func (c *course) confirm(ctx context.Context, f fresh, err error) {
	c.taking.Lock()
	defer c.taking.Unlock()
	if err == nil {
		err = c.clock.check(f.Freshness, c.environment, c.cfg.Now())
	}
	if err != nil {
		c.metrics.refusals.WithLabelValues(reason(err)).Inc()
		if !c.doubted {
			c.log.ErrorContext(ctx, "freshness was refused", "reason", reason(err), "err", err)
		}
		c.doubted = true
		return
	}
	c.doubted = false
	c.clock.take(f, c.current.Head())
	if c.clock.confirmed.signed == f.signed {
		c.keeper.keep(c.current, c.marks, c.clock.confirmed)
	}
}

// due returns the acknowledgement of the newest statement. It returns nil if
// there is none about this environment, or it was made already.
func (c *course) due() *proxyv1.Ack {
	st := c.said.Load()
	if st == nil || st.head.Environment != c.environment {
		return nil
	}
	persisted := c.keeper.revision(st.head)
	if st == c.acked && persisted == c.persisted {
		return nil
	}
	a := st.ack(persisted)
	if st == c.acked { // what is on disk is no part of what is signed
		a.Statement, a.Signature = c.signed.GetStatement(), c.signed.GetSignature()
	} else {
		c.signs.Sign(a, c.environment, st.since, c.cfg.Now())
	}
	c.acked, c.signed, c.persisted = st, a, persisted
	return a
}

// greet is due with the head itself, as proof to a control plane that does not
// know it any more.
func (c *course) greet() *proxyv1.Ack {
	a := c.due()
	if a != nil {
		a.Head = c.acked.head.Signed()
	}
	return a
}
