package storage

import (
	"context"
	"time"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

// Resources holds every version of every resource of a lane. There are two, each
// with a history of its own: that of the fleet, and the security lane, whose
// revisions are called its sequence, and whose only environment is
// snapshot.SecurityLane, at 1 from the beginning. Commits to one do not wait for
// those to the other. Methods are safe for concurrent use, give up when ctx
// ends, and return ErrUnavailable when the database cannot be reached.
type Resources interface {
	// Commit makes a revision of the changes: versions, the environments that
	// they touch, and an audit entry, in one transaction. Revisions are gapless
	// and in the order of commit. Under the lock that orders commits it calls
	// recheck with what was committed after c.Base (newest version of each key;
	// none when nothing was); its error ends the commit and is returned as it
	// is. ErrConflict if c.Expected is not where the fleet is. An *AheadError while
	// somebody has seen more than the database holds: see History. When Commit
	// returns nil the revision survives the death of every process. A change of a
	// kind that belongs to the other lane is an error.
	Commit(ctx context.Context, c Commit, recheck func(since []Version) error) (Committed, error)
	// Since returns the newest version of each key that changed after the
	// revision, deletions included, ordered by key, and the revision that this
	// leads to. Since(ctx, 0) is the whole state, without deletions.
	Since(ctx context.Context, after snapshot.Revision) ([]Version, snapshot.Revision, error)
	// Resource returns the version of a key that was current at the revision (the
	// newest when 0). What reads the state at a revision returns a ForgottenError when
	// that is not kept any more. ErrNotFound if there was none, or the revision is not yet.
	Resource(ctx context.Context, key resource.Key, at snapshot.Revision) (Version, error)
	// List returns versions ordered by key, and the revision that was listed.
	// ErrNotFound if that revision is not yet.
	List(ctx context.Context, f Filter) ([]Version, snapshot.Revision, error)
	// Revisions returns at most limit revisions below before (all when 0), newest first.
	Revisions(ctx context.Context, before snapshot.Revision, limit int) ([]RevisionInfo, error)
	// History returns versions of a key below the revision before (all when 0),
	// newest first, deletions included; none when there never was one.
	History(ctx context.Context, key resource.Key, before snapshot.Revision, p Page) ([]Past, error)
	// Differences returns what is not at one revision as it was at another, ordered
	// by key. ErrNotFound if one of them is not yet.
	Differences(ctx context.Context, s Span) ([]Difference, error)
	// Position returns the fleet's epoch and newest revision.
	Position(ctx context.Context) (snapshot.Position, error)
	// EnvironmentsAt returns, for each environment that exists or existed, the
	// last revision up to at that touches it.
	EnvironmentsAt(ctx context.Context, at snapshot.Revision) (map[string]snapshot.Revision, error)
	// Changed returns a channel that receives after commits to either lane by any
	// replica, at least once for the last one, until ctx ends, when it is closed.
	// It also receives after the connection that it rests on was restored. It carries no
	// data: read what is current.
	Changed(ctx context.Context) <-chan struct{}
}

// Annotations are what people say of revisions.
type Annotations interface {
	// Annotate calls revise with what is said of a revision, and keeps what it returns
	// instead, with the audit entry unless that is the same. Nobody else does so
	// meanwhile. It returns the revision as it is then; ErrNotFound if it is not yet.
	// An error of revise changes nothing and is returned as it is.
	Annotate(ctx context.Context, at snapshot.Revision, e AuditEntry, revise func(Annotation) (Annotation, error)) (RevisionInfo, error)
	// Labelled is Revisions of those that have all of the labels.
	Labelled(ctx context.Context, labels map[string]string, before snapshot.Revision, limit int) ([]RevisionInfo, error)
}

// Retention removes what history does not have to hold any more: versions of
// resources, of either lane, that were superseded. Revisions, heads and the audit stay.
type Retention interface {
	// Begins returns the first revision of those whose states are all kept.
	Begins(ctx context.Context) (snapshot.Revision, error)
	// TrimHistory makes history begin with the last revision that was committed before
	// a time, or as late as it may, and returns where that is; it never moves back.
	// All stays that is to be published yet. Before the beginning the states of
	// revisions that have a label are kept, of environments what was signed or
	// published last, and the points of keep; unless they were forgotten already.
	TrimHistory(ctx context.Context, term Term, before time.Time, keep []EnvironmentPoint) (snapshot.Revision, error)
	// TrimSecurity does the same for the security lane: its history begins with the
	// last sequence that was committed before a time, or as late as it may, and not
	// after the sequence keep, if that is not 0. Nothing is kept before that.
	TrimSecurity(ctx context.Context, term Term, before time.Time, keep snapshot.Revision) (snapshot.Revision, error)
	// CollectVersions removes up to limit versions that no state has that is kept, and
	// returns how many. The beginning of history does not move meanwhile.
	CollectVersions(ctx context.Context, term Term, limit int) (int, error)
}

// Publishing is what the publisher keeps. The security lane is one more
// environment here, snapshot.SecurityLane. Every write names its term and returns
// ErrFenced, changing nothing, when there is a newer one. Those that say what is
// published return an *AheadError in the same way while History would.
type Publishing interface {
	// BeginTerm makes holder the publisher and fences those before it.
	BeginTerm(ctx context.Context, holder string) (Term, error)
	// Heads returns every environment with its newest head, ordered by name.
	Heads(ctx context.Context) ([]EnvironmentHead, error)
	// Head returns the head of an environment at the last of its revisions up
	// to at; ErrNotFound if that was not signed.
	Head(ctx context.Context, environment string, at snapshot.Revision) (EnvironmentHead, error)
	// EnvironmentRevisions returns up to limit revisions after one that touch an
	// environment, ascending, each with the versions of distributed resources
	// that it made. A version whose scope does not include the environment, or
	// that is deleted, is gone from it.
	EnvironmentRevisions(ctx context.Context, environment string, after snapshot.Revision, limit int) ([]EnvironmentRevision, error)
	// EnvironmentState returns what is in an environment at a revision.
	EnvironmentState(ctx context.Context, environment string, at snapshot.Revision) ([]Version, error)
	// SaveHeads records signed heads, in order. Saving a head again changes
	// nothing but its signature, when it was signed with another key; another head
	// for the same revision is an error.
	SaveHeads(ctx context.Context, term Term, heads []snapshot.Head) error
	// Cursor returns the last revision of an environment that was written to a
	// target; 0 when none was.
	Cursor(ctx context.Context, target, environment string) (snapshot.Revision, error)
	// AdvanceCursor moves a cursor forward. It never moves back.
	AdvanceCursor(ctx context.Context, term Term, target, environment string, to snapshot.Revision) error
	// KeepCursors forgets the cursors of all targets but these, so that no history is
	// kept for those that are not published to any more, and returns their names. It
	// forgets their troubles, and those that are about all targets.
	KeepCursors(ctx context.Context, term Term, targets []string) (forgotten []string, err error)
	// Report says what is wrong with a lane at a target; nothing when Error is empty.
	// Since is not read: a trouble goes on, whatever its error, until it is over.
	Report(ctx context.Context, term Term, t Trouble) error
	Targets
}

// Targets tells how far publishing is, whoever publishes.
type Targets interface {
	// Cursors returns the last revision of each environment that was written to each
	// target that has any, by their names; of snapshot.SecurityLane, the sequence.
	Cursors(ctx context.Context) (map[string]map[string]snapshot.Revision, error)
	// Lags returns how far each of the targets is behind, in their order.
	Lags(ctx context.Context, targets []string) ([]Lag, error)
	// Troubles returns what keeps the publisher from publishing, as far as it could
	// say so: ordered by target and then by time.
	Troubles(ctx context.Context) ([]Trouble, error)
}

// History finds out that the database was set back: restored from a backup, or
// left to a standby that did not have everything. From then on nothing is
// committed, of either lane, and nothing is published, until somebody begins a
// new epoch: else a number would mean two things. The database notices itself
// what contradicts what this process has read from it.
type History interface {
	// Witness compares a head that was published, and is verified, with the
	// history that the database holds. If it is no part of that it is recorded,
	// and an *AheadError is returned. ErrNotFound if nobody can tell yet: the
	// revision is there, and has no head. Heads of earlier epochs are history.
	Witness(ctx context.Context, witness string, head snapshot.Head) error
	// Settled returns an *AheadError with the newest that was seen and is no part
	// of the history that the database holds; nil when there is nothing.
	Settled(ctx context.Context) error
	// Sightings returns all that Settled is about, newest first.
	Sightings(ctx context.Context) ([]Sighting, error)
	// Predecessor returns the newest head of an environment that was seen, in the
	// epochs before one, and is in none that the database holds; zero for none.
	Predecessor(ctx context.Context, environment string, before snapshot.Epoch) (snapshot.Position, snapshot.Digest, error)
	// BeginEpoch begins a new epoch, in one transaction, and ends the publisher's
	// term. Numbers that it passes over are of no revision, and the state at them
	// is that of the last before. What was seen of the epochs before stands against nothing from
	// then on. ErrConflict, and nothing is changed, unless the database is where
	// the recovery says.
	BeginEpoch(ctx context.Context, r Recovery) error
}

// EnvironmentRevision is what a revision did to an environment.
type EnvironmentRevision struct {
	Revision snapshot.Revision
	Versions []Version
}

// Fleet holds what is known of proxies.
type Fleet interface {
	// SaveProxies creates or replaces records by ID, as a replica tells. An older
	// LastSeen does not replace a newer one, but for a proxy whose stream that replica
	// is recorded to have: what it tells later is later, whatever clocks say.
	// RegisteredAt stays as it was first saved.
	SaveProxies(ctx context.Context, replica string, proxies []Proxy) error
	// Proxy returns a record; ErrNotFound if there is none.
	Proxy(ctx context.Context, id ProxyID) (Proxy, error)
	// Proxies returns up to limit records of an environment (all when empty)
	// after the given place, ordered by environment and ID.
	Proxies(ctx context.Context, environment string, after Proxy, limit int) ([]Proxy, error)
}

// Rulings holds what operators have ruled of proxies.
type Rulings interface {
	// Rulings returns those with a sequence after one, ascending.
	Rulings(ctx context.Context, after int64) ([]Ruling, error)
	// Rule calls revise with what is ruled of a subject, and how many proxies are
	// recorded of it, keeps what revise returns instead, and records the entry, all
	// or nothing. An error of revise changes nothing and is returned as it is.
	// Resources.Changed receives after it, and after Forget.
	Rule(ctx context.Context, subject string, e AuditEntry, revise func(r Ruling, proxies int) (Ruling, error)) error
	// Forget deletes the record of a proxy that was not heard of since a time, with
	// what was ruled of it, and of its SPIFFE ID if no other record has that; it
	// records the entry. ErrNotFound if there is no record, ErrHeard if it was heard
	// of since, ErrBarred if its SPIFFE ID is refused or quarantined.
	Forget(ctx context.Context, id ProxyID, since time.Time, e AuditEntry) error
	// ForgetLost deletes up to limit such records that were not heard of since a
	// time, but none whose SPIFFE ID is refused or quarantined, with what was ruled
	// of them, but not of their SPIFFE IDs. It returns them, and records the entry, with their names
	// as its detail, if there were any.
	ForgetLost(ctx context.Context, since time.Time, limit int, e AuditEntry) ([]ProxyID, error)
}

// Replicas are those that serve proxies, by the database's clock.
type Replicas interface {
	// Present says that a replica is there, and how many streams it has, and returns
	// all of which the same was heard within a time, ordered by name. One that was not
	// heard of for so long is there anew.
	Present(ctx context.Context, name string, streams int, within time.Duration) ([]Replica, error)
	// Leave says that it is not any more.
	Leave(ctx context.Context, name string) error
}

// Inquiries are what replicas ask each other of the proxies that they hold. They are
// kept for as long as somebody may wait for the answer, and not much longer.
type Inquiries interface {
	// Ask keeps a question, removes those that nobody waits for any more, and returns
	// its ID. Who holds a channel of Asked hears of it, whichever replica is asked.
	Ask(ctx context.Context, q Inquiry) (int64, error)
	// Unanswered returns up to limit questions to some replicas that were not answered,
	// and that somebody may wait for, oldest first.
	Unanswered(ctx context.Context, replicas []string, limit int) ([]Inquiry, error)
	// Answer answers a question; ErrNotFound if it is gone, or answered already. Who
	// holds a channel of Asked hears of it.
	Answer(ctx context.Context, id int64, a InquiryAnswer) error
	// Answered returns the answer to a question; ErrNotFound while there is none.
	Answered(ctx context.Context, id int64) (InquiryAnswer, error)
	// Asked is Changed for questions and answers.
	Asked(ctx context.Context) <-chan struct{}
}

// CookieKeys holds what session cookies are sealed with, encrypted.
type CookieKeys interface {
	// ReviseCookieKeys calls revise with the keys of an environment, those that are
	// to be used first first, and keeps what it returns instead. No other replica
	// does the same at the same time. An error of revise changes nothing and is
	// returned as it is.
	ReviseCookieKeys(ctx context.Context, environment string, revise func([]CookieKey) ([]CookieKey, error)) error
}

// KeySets holds the chain of the fleet's key sets, as it was signed.
type KeySets interface {
	// KeySets returns the sets after a generation, ascending; all after 0.
	KeySets(ctx context.Context, after snapshot.Generation) ([]*proxyv1.SignedKeySet, error)
	// AppendKeySet makes a set the newest, with an audit entry. ErrConflict if the
	// newest is not the one before it. Who holds a channel of Changed hears of it.
	AppendKeySet(ctx context.Context, set snapshot.KeySet, e AuditEntry) error
}

// Audit holds the chain of audit entries.
type Audit interface {
	// Record appends an entry. Commit records its own.
	Record(ctx context.Context, e AuditEntry) error
	// Entries returns up to limit entries after a sequence, ascending.
	Entries(ctx context.Context, after int64, limit int) ([]AuditEntry, error)
}
