package postgres

import (
	"fmt"

	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// lane is a history of resources: the fleet's, or that of the security lane.
// Each has tables of its own, with the same columns, and is written under a row
// lock of its own. It implements storage.Resources.
type lane struct {
	*database
	// immediate says that it is the security lane.
	immediate bool
	// Its tables: the one row whose lock orders commits, revisions, versions.
	row, revisions, versions string
	// environments is what narrows names of environments to its own.
	environments string
	// committing is held by the one commit of this replica that is under way:
	// the others wait here, and not each with a connection that readers need.
	committing chan struct{}
	memory     memory
}

var _ storage.Resources = (*lane)(nil)

func newFleet(db *database) *lane {
	return &lane{
		database: db, row: "fleet", revisions: "revision", versions: "resource_version",
		environments: "<> '" + snapshot.SecurityLane + "'", committing: make(chan struct{}, 1),
	}
}

func newSecurity(db *database) *lane {
	return &lane{
		database: db, immediate: true, row: "security_lane", revisions: "security_revision", versions: "security_version",
		environments: "= '" + snapshot.SecurityLane + "'", committing: make(chan struct{}, 1),
	}
}

// Security returns the resources of the security lane. What storage.Resources
// calls a revision is its sequence, the only environment that it touches is
// snapshot.SecurityLane, and its first commit makes 2.
func (s *Store) Security() storage.Resources { return s.security }

// of returns the lane that an environment's snapshots are made from.
func (s *Store) of(environment string) *lane {
	if environment == snapshot.SecurityLane {
		return s.security
	}
	return s.lane
}

// exists returns the environments that exist whatever the lane holds.
func (l *lane) exists() map[string]bool {
	if l.immediate {
		return map[string]bool{snapshot.SecurityLane: true}
	}
	return map[string]bool{}
}

// admits returns an error for a change that belongs to the other lane.
func (l *lane) admits(c storage.Change) error {
	switch {
	case c.Key.Kind.Immediate() != l.immediate:
		return fmt.Errorf("commit: %s belongs to another lane", c.Key)
	case l.immediate && !c.Delete && !c.Scope.All:
		return fmt.Errorf("commit: %s is not for all environments", c.Key)
	}
	return nil
}

// entry returns what the audit says of a commit. What makes no revision of the
// fleet names none.
func (t *transaction) entry() storage.AuditEntry {
	e := storage.AuditEntry{At: t.at, Caller: t.Caller, Action: t.Action, Allowed: true, Revision: t.revision, Detail: t.Message}
	if t.lane.immediate {
		e.Revision, e.Detail = 0, fmt.Sprintf("security sequence %d", t.revision)
		if t.Message != "" {
			e.Detail += ": " + t.Message
		}
	}
	return e
}
