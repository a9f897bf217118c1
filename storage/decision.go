package storage

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"time"
)

// DecisionID is a UUID of version 7 (RFC 9562). Its order is that of time.
type DecisionID [16]byte

var errDecisionID = errors.New("a decision's ID is a UUID of version 7, in lower case")

// ParseDecisionID reads what String writes.
func ParseDecisionID(s string) (id DecisionID, err error) {
	if len(s) != 36 || s[14] != '7' {
		return id, errDecisionID
	}
	digits := s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
	if _, err := hex.Decode(id[:], []byte(digits)); err != nil || id.String() != s {
		return DecisionID{}, errDecisionID
	}
	return id, nil
}

// String writes the ID as RFC 9562 does.
func (d DecisionID) String() string {
	digits := hex.EncodeToString(d[:])
	return digits[:8] + "-" + digits[8:12] + "-" + digits[12:16] + "-" + digits[16:20] + "-" + digits[20:]
}

// DecisionsFrom returns the lowest ID of a moment.
func DecisionsFrom(t time.Time) DecisionID {
	var id DecisionID
	binary.BigEndian.PutUint64(id[:8], uint64(max(t.UnixMilli(), 0))<<16)
	return id
}

// Time returns when the decision was asked for, to the millisecond.
func (d DecisionID) Time() time.Time {
	return time.UnixMilli(int64(binary.BigEndian.Uint64(d[:8]) >> 16)).UTC()
}

// TraceID tells traces apart (W3C Trace Context). The zero value is no trace.
type TraceID [16]byte

var errTraceID = errors.New("a trace's ID has 32 digits of lower-case hexadecimal, not all of them 0")

// ParseTraceID reads an ID as traceparent has it (section 3.2.2.3).
func ParseTraceID(s string) (id TraceID, err error) {
	if len(s) != 2*len(id) {
		return id, errTraceID
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil || id == (TraceID{}) || hex.EncodeToString(id[:]) != s {
		return TraceID{}, errTraceID
	}
	return id, nil
}

// Journal is where records of a proxy come from, in sequence.
type Journal struct {
	Proxy ProxyID
	Boot  []byte
}

// Decision is a record of what a proxy decided.
type Decision struct {
	ID DecisionID
	Journal
	Sequence int64 // in the journal, from 1

	Environment string
	Principal   string // its ID or pseudonym; empty for nobody
	Route       string // namespace/name; empty for none
	Allow       bool
	Reason      string
	Trace       TraceID
	Record      []byte // the serialized decision.v1.Decision, without what is above of Journal
}

// Outcome is how a request ended that a proxy let through.
type Outcome struct {
	ID       DecisionID // of the decision
	Sequence int64      // in the journal
	// Record, put behind that of the decision, makes one that has both.
	Record []byte
}

// Records are what a proxy has recorded, in sequence.
type Records struct {
	Journal
	// Last is the place in the journal of the last one, kept or not.
	Last      int64
	Decisions []Decision
	Outcomes  []Outcome
}

// DecisionFilter narrows down decisions. What is zero narrows nothing.
type DecisionFilter struct {
	ID          DecisionID
	Principals  []string // one of them
	Route       string
	Allow       *bool
	Reason      string
	Proxy       ProxyID
	Environment string
	Trace       TraceID
}

// DecisionPage is a part of the decisions that match, newest first.
type DecisionPage struct {
	DecisionFilter
	From, Before DecisionID // From is the first that counts, Before the first that does not
	// After is the last one of the page before: its ID, Journal and Sequence.
	After *Decision
	Limit int // at least 1
}

// DecisionMark is a moment in the growth of all journals. It is for Recorded
// alone.
type DecisionMark map[int64]int64

// Decisions keeps the records of decisions. Methods are safe for concurrent use,
// give up when ctx ends, and return ErrUnavailable when the database cannot be
// reached.
type Decisions interface {
	// SaveDecisions keeps the records of a journal that come after those that it
	// has; the others it leaves alone. Then the journal has all up to the last, kept
	// or not. All are kept, or none. What was kept survives the death of every process.
	SaveDecisions(ctx context.Context, r Records) error
	// Decisions returns up to p.Limit decisions that match, as Recorded does with
	// the outcomes that there are.
	Decisions(ctx context.Context, p DecisionPage) ([]Decision, error)
	// Mark returns the present.
	Mark(ctx context.Context) (DecisionMark, error)
	// Recorded returns those that match of the records that were kept since m,
	// which it moves to the present. Of each journal they come in sequence. It
	// looks at no more than limit records, the last ones, and says how many it has
	// skipped because of that.
	Recorded(ctx context.Context, m DecisionMark, f DecisionFilter, limit int) (decisions []Decision, skipped int64, err error)
	// KeepDecisions drops all days that are over at one moment, and makes room for
	// the day of the other and the one before it.
	KeepDecisions(ctx context.Context, from, until time.Time) error
}
