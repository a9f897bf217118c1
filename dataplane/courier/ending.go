package courier

import (
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/dataplane/record"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

// ending is a message that is made again and again.
type ending struct {
	decision decisionv1.Decision
	outcome  decisionv1.Outcome
	at       timestamppb.Timestamp
	took     durationpb.Duration
	attempts int32
}

// ending returns the record of how a request ended, until release.
func (p *drafts) ending(o *record.Outcome) *[]byte {
	m, ok := p.endings.Get().(*ending)
	if !ok {
		m = &ending{}
	}
	defer p.endings.Put(m)
	m.decision.Id, m.decision.Outcome = o.ID, &m.outcome
	to := &m.outcome
	to.Time, to.Took = at(&m.at, o.Time), since(&m.took, o.Took)
	to.Reason, to.ClosedBy = o.Reason, o.ClosedBy
	to.Target, to.Upstream, to.Endpoint = clip(o.Target, maxTarget), o.Upstream, clip(o.Endpoint, maxAddress)
	m.attempts, to.Attempts = int32(min(o.Attempts, maxTries)), &m.attempts //nolint:gosec // bounded
	to.Status, to.Sent, to.Received = int32(o.Status), o.Sent, o.Received   //nolint:gosec // of HTTP
	return p.bytes(&m.decision)
}
