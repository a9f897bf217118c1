package courier

import "github.com/sallyport/sallyport/dataplane/record"

// ending returns the record of how a request ended, until release. It is empty where
// that has a name that is not text, and then nobody takes it.
func (p *drafts) ending(o *record.Outcome) *[]byte {
	b := p.buffer()
	m := message{bytes: *b}
	m.name(decisionID, o.ID)
	m.outcome(o)
	*b = m.bytes
	if m.bad {
		*b = (*b)[:0]
	}
	return b
}

// Fields of sallyport.decision.v1.Outcome.
const (
	outcomeTime     field = 1
	outcomeReason   field = 2
	outcomeEndpoint field = 3
	outcomeStatus   field = 4
	outcomeSent     field = 5
	outcomeReceived field = 6
	outcomeTook     field = 7
	outcomeClosedBy field = 8
	outcomeTarget   field = 9
	outcomeUpstream field = 10
	outcomeAttempts field = 11
)

func (m *message) outcome(o *record.Outcome) {
	start := m.begin(decisionOutcome)
	m.time(outcomeTime, o.Time)
	m.name(outcomeReason, o.Reason)
	m.text(outcomeEndpoint, o.Endpoint, maxAddress)
	m.number(outcomeStatus, int64(o.Status))
	m.number(outcomeSent, o.Sent)
	m.number(outcomeReceived, o.Received)
	m.duration(outcomeTook, o.Took)
	m.name(outcomeClosedBy, o.ClosedBy)
	m.text(outcomeTarget, o.Target, maxTarget)
	m.name(outcomeUpstream, o.Upstream)
	m.known(outcomeAttempts, int64(min(o.Attempts, maxTries)))
	m.end(start)
}
