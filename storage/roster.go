package storage

import (
	"context"

	"github.com/sallyport/sallyport/internal/snapshot"
)

// Roster is all that says who is admitted, as of one moment.
type Roster struct {
	snapshot.Position
	// Sequence is of the newest entry of the audit; 0 when there is none. Who is
	// admitted changes with an entry, and never without.
	Sequence    int64
	Enrollments []Version // ordered by key
	// Rulings are those that keep a SPIFFE ID out, or drain a process, by subject.
	Rulings []Ruling
}

// Rosters tells who is admitted.
type Rosters interface {
	// Roster returns all that was committed, of one moment. ErrUnavailable when the
	// database cannot be reached.
	Roster(ctx context.Context) (Roster, error)
}
