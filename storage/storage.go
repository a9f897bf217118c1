// Package storage says what the control plane keeps and what it may rely on:
// records, contracts and the errors that have a meaning.
package storage

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

var (
	// ErrNotFound says that there is no such thing.
	ErrNotFound = errors.New("not found")
	// ErrConflict says that the fleet is not at the revision that a commit
	// expected.
	ErrConflict = errors.New("the fleet is at another revision")
	// ErrFenced says that another replica has become publisher since.
	ErrFenced = errors.New("another replica has become publisher")
	// ErrAhead says that what is distributed is later than the database, and
	// signed with our key, or was read from it before: the database was set back.
	ErrAhead = errors.New("what is distributed is later than the database")
	// ErrAway says that an etcd cannot be reached now, or has no leader. What was under
	// way may have been done.
	ErrAway = errors.New("etcd cannot be reached")
	// ErrFull says that an etcd takes nothing any more: its database has reached its
	// quota.
	ErrFull = errors.New("etcd is full")
	// ErrHeard says that a proxy is not gone: it was heard of not long ago.
	ErrHeard = errors.New("the proxy was heard of not long ago")
	// ErrBarred says that a proxy is refused or quarantined.
	ErrBarred = errors.New("the proxy is refused or quarantined")
	// ErrUnavailable says that the store cannot be reached now, and that
	// nothing was changed, unless the error came from a commit whose outcome is
	// unknown, which wraps ErrUnknownOutcome as well.
	ErrUnavailable = errors.New("the database cannot be reached")
	// ErrUnknownOutcome says that the connection was lost while committing.
	ErrUnknownOutcome = errors.New("it is not known whether the change was committed")
)

// Scope says which environments a resource is distributed to. The zero Scope is
// none.
type Scope struct {
	All          bool
	Environments []string // sorted; empty with All
}

// Includes reports whether environment is in the scope.
func (s Scope) Includes(environment string) bool {
	return s.All || slices.Contains(s.Environments, environment)
}

// Version is what a revision made of a resource.
type Version struct {
	Key      resource.Key
	Revision snapshot.Revision
	Deleted  bool // with the fields below unset
	Scope    Scope
	Document []byte // the bytes that are distributed, made once
	Digest   snapshot.Digest
}

// Change is what a commit does to a resource.
type Change struct {
	Key      resource.Key
	Delete   bool // with the fields below unset
	Scope    Scope
	Document []byte
	Digest   snapshot.Digest
}

// Sighting is a place in the history of the fleet that somebody has seen, and
// that the database does not hold.
type Sighting struct {
	// Environment is where it was seen: snapshot.SecurityLane for the security
	// lane, empty for a revision of the fleet that was seen by itself.
	Environment string
	Epoch       snapshot.Epoch
	Revision    snapshot.Revision
	Head        snapshot.Digest // zero when no head was seen
	// Witness is who has seen it: "etcd", "replica NAME" or "proxy ID".
	Witness string
	SeenAt  time.Time
}

// String says who has seen what.
func (s Sighting) String() string {
	where := "the fleet"
	switch s.Environment {
	case "":
	case snapshot.SecurityLane:
		where = "the security lane"
	default:
		where = "environment " + s.Environment
	}
	text := fmt.Sprintf("%s has seen %s at epoch %d revision %d", s.Witness, where, s.Epoch, s.Revision)
	if !s.Head.IsZero() {
		text += ", head " + s.Head.Short()
	}
	return text
}

// AheadError is ErrAhead, with the newest that was seen.
type AheadError struct{ Sighting }

// Error implements error.
func (e *AheadError) Error() string { return fmt.Sprintf("%s: %s", ErrAhead, e.Sighting) }

// Unwrap returns ErrAhead.
func (e *AheadError) Unwrap() error { return ErrAhead }

// Recovery is how a new epoch begins: with one commit of each lane, which touches
// every environment.
type Recovery struct {
	Caller  string
	Message string
	// From is the epoch that ends, and Epoch the one that begins: a later one.
	From, Epoch     snapshot.Epoch
	Fleet, Security Beginning
}

// Beginning is the first commit of a lane in an epoch.
type Beginning struct {
	// Base is where the lane is, and Revision the number of the commit: later
	// than whatever was seen of the epoch before.
	Base, Revision snapshot.Revision
	// Changes may be none.
	Changes []Change
}

// Commit asks for a new revision.
type Commit struct {
	Caller  string
	Action  string // the procedure, for the audit
	Message string
	// Base is the revision that the changes were checked against.
	Base snapshot.Revision
	// Expected, when not nil, is the revision that the fleet has to be at.
	Expected *snapshot.Revision
	Changes  []Change
}

// Committed is the outcome of a commit.
type Committed struct {
	Revision snapshot.Revision
	// Environments that the revision touches, sorted.
	Environments []string
}

// RevisionInfo describes a revision.
type RevisionInfo struct {
	Revision     snapshot.Revision
	CommittedAt  time.Time
	Caller       string
	Message      string
	Changes      int
	Environments []string
	// Labels and Note are of its Annotation.
	Labels map[string]string
	Note   string
	// Forgotten says that its state is not kept any more.
	Forgotten bool
}

// Annotation is what people say of a revision. It is no part of it.
type Annotation struct {
	Labels map[string]string
	Note   string
}

// EnvironmentPoint is an environment at a revision of the fleet.
type EnvironmentPoint struct {
	Environment string
	Revision    snapshot.Revision
}

// ForgottenError says that the state at a revision is not kept any more.
type ForgottenError struct {
	Revision snapshot.Revision
	// Begins is the first revision of those whose states are all kept.
	Begins snapshot.Revision
}

func (e *ForgottenError) Error() string {
	return fmt.Sprintf("the state at revision %d is not kept any more: history begins at revision %d", e.Revision, e.Begins)
}

// Filter narrows a listing of resources.
type Filter struct {
	Kind      resource.Kind     // every kind when empty
	Namespace *string           // every namespace when nil
	At        snapshot.Revision // the newest when 0
	After     resource.Key      // the last one of the page before
	Limit     int               // at least 1
	// Bytes ends a list early: with the document by which there are more, but not
	// before the second. No bound when 0.
	Bytes int
}

// Page bounds what is read at once.
type Page struct {
	Limit int // at least 1
	// Bytes ends a page early, like Filter.Bytes.
	Bytes int
}

// Past is a version with who made it, and why.
type Past struct {
	Version
	// SupersededBy is the revision that made the next one; 0 when it is the newest.
	// Those in between may not be kept any more.
	SupersededBy snapshot.Revision
	CommittedAt  time.Time
	Caller       string
	Message      string
}

// Span asks what is different between two revisions.
type Span struct {
	// From and To are in any order; 0 is before the first revision.
	From, To  snapshot.Revision
	Kind      resource.Kind // every kind when empty
	Namespace *string       // every namespace when nil
	After     resource.Key  // the last one of the page before
	Page      Page
}

// Difference is a resource that is not at one revision as it was at another. A
// side on which it is not there is Deleted, of the revision that deleted it; 0
// if none did.
type Difference struct {
	Key           resource.Key
	Before, After Version
}

// CookieKey is a key of session cookies.
type CookieKey struct {
	ID       []byte
	Sealed   []byte // the secret, as its keeper has encrypted it
	StartsAt time.Time
}

// EnvironmentHead is the newest state of an environment that was signed.
type EnvironmentHead struct {
	Environment string
	// Revision is the last one that touches the environment, signed or not.
	Revision snapshot.Revision
	// Signed is nil until the first head.
	Signed *proxyv1.SignedHead
}

// Lag is how far a target is behind what was committed.
type Lag struct {
	Target string
	// Revisions are those of environments, and of the security lane, that were not
	// written to it; of each at most MaxLag are counted.
	Revisions int
	// Since is when the first of them was committed; zero without any.
	Since time.Time
}

// Trouble is what keeps the publisher from publishing.
type Trouble struct {
	// Target is where; empty for what keeps it from all targets.
	Target string
	// Lane is what is not brought there: the publisher has one for revocations.
	Lane string
	// Since is when that began, whatever the error was then.
	Since time.Time
	// Error says in words what it is now; of more than MaxTrouble bytes the first.
	Error string
}

// MaxTrouble bounds what is kept of an error, in bytes.
const MaxTrouble = 1000

// MaxLag bounds what is counted of one environment.
const MaxLag = 1000

// Term counts publishers. A publisher with a lower term than the newest is
// refused with ErrFenced.
type Term int64

// ProxyID names a proxy process: its SPIFFE ID, "#", and its instance.
type ProxyID string

// Proxy is the record of a proxy process.
type Proxy struct {
	ID          ProxyID
	SPIFFEID    string
	Instance    string
	Environment string // empty while pending
	Replica     string // where its stream is; empty when it has none
	// Status is the serialized admin.v1.Proxy as of LastSeen.
	Status       []byte
	RegisteredAt time.Time
	LastSeen     time.Time
}

// Approval is what operators have said to the admission of a SPIFFE ID.
type Approval string

// The approvals. The empty one says that nobody has said anything.
const (
	Approved Approval = "approved"
	Refused  Approval = "refused"
)

// Replica is one of the control plane.
type Replica struct {
	Name    string
	Streams int           // proxies that have their stream there
	For     time.Duration // it is there without a break
}

// InquiryLife is for how long somebody may wait for an answer.
const InquiryLife = time.Minute

// Inquiry is a question to a replica: is what a proxy enforces, that has its stream
// there, what it should?
type Inquiry struct {
	ID      int64 // as Ask has returned it
	Replica string
	Proxy   ProxyID
}

// InquiryAnswer is how a replica has answered: with a result, or with the reason why
// there is none.
type InquiryAnswer struct {
	Result []byte // at most MaxInquiryResult
	// Code is a Connect code, 0 with a result; Reason is for people.
	Code   int
	Reason string
}

// MaxInquiryResult bounds an answer, in bytes.
const MaxInquiryResult = 4 << 20

// Ruling is what operators have ruled of proxies. The zero Ruling says nothing.
type Ruling struct {
	// Subject is a SPIFFE ID, or the ProxyID of one process.
	Subject string
	// Approval and Quarantined are of a SPIFFE ID.
	Approval    Approval
	Quarantined bool
	// Draining and Labels are of a process.
	Draining bool
	Labels   map[string]string
	// Reason is why, in the words of the Caller, and At when. Changing labels
	// leaves all three as they are.
	Reason string
	Caller string
	At     time.Time
	// Sequence is that of its entry in the audit.
	Sequence int64
}

// IsZero reports whether nothing is ruled.
func (r Ruling) IsZero() bool {
	return r.Approval == "" && !r.Quarantined && !r.Draining && len(r.Labels) == 0
}

// AuditEntry records who did what. Entries are chained: each holds the digest
// of the one before.
type AuditEntry struct {
	Sequence int64 // set by the store
	At       time.Time
	Caller   string
	Action   string // the procedure
	Allowed  bool
	Revision snapshot.Revision // 0 when it made none
	Detail   string
	Previous snapshot.Digest // set by the store
	Digest   snapshot.Digest // set by the store
}
