package link

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/sallyport/sallyport/internal/snapshot"
)

// maxMarks bounds how many environments a proxy may have been in.
const maxMarks = 256

var (
	errEnvironment = errors.New("snapshot is of another environment than the proxy was admitted to")
	errOlder       = errors.New("snapshot is older than what was enforced before")
	errFork        = errors.New("snapshot differs from the one that was enforced at this revision")
	errMarks       = errors.New("the proxy has been in too many environments")
)

// mark is the newest place in the history of an environment that was enforced
// here. Nothing before it is accepted from the network, and at it only the same
// head. The zero mark is before everything.
type mark struct {
	Epoch    snapshot.Epoch
	Revision snapshot.Revision
	Head     snapshot.Digest
}

// Position returns where in the fleet's history the mark stands.
func (m mark) Position() snapshot.Position {
	return snapshot.Position{Epoch: m.Epoch, Revision: m.Revision}
}

// marks holds a mark for each environment that the proxy was in: revisions
// count the commits of the fleet, and the newest of one environment may be far
// behind that of another. It is not safe for concurrent use.
type marks map[string]mark

// check says why a verified head may not be enforced in an environment.
func (m marks) check(environment string, head snapshot.Head) error {
	old, known := m[environment]
	switch at := head.Position(); {
	case head.Environment != environment:
		return fmt.Errorf("%w: it is of %q, not of %q", errEnvironment, head.Environment, environment)
	case old.Position().After(at):
		return fmt.Errorf("%w: epoch %d revision %d is before epoch %d revision %d",
			errOlder, at.Epoch, at.Revision, old.Epoch, old.Revision)
	case old.Position() == at && old.Head != head.Digest():
		return fmt.Errorf("%w: head %s, not %s", errFork, head.Digest().Short(), old.Head.Short())
	case !known && len(m) >= maxMarks:
		return errMarks
	}
	return nil
}

// raise moves the mark of the head's environment to the head, if it is later.
func (m marks) raise(head snapshot.Head) {
	if head.Position().After(m[head.Environment].Position()) {
		m[head.Environment] = mark{Epoch: head.Epoch, Revision: head.Revision, Head: head.Digest()}
	}
}

// storedMark is how a mark is written, a line each.
type storedMark struct {
	Environment string            `json:"environment"`
	Epoch       snapshot.Epoch    `json:"epoch"`
	Revision    snapshot.Revision `json:"revision"`
	Head        []byte            `json:"head"`
}

func (m marks) marshal() ([]byte, error) {
	stored := make([]storedMark, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		head := m[name].Head
		stored = append(stored, storedMark{name, m[name].Epoch, m[name].Revision, head[:]})
	}
	return json.Marshal(stored)
}

func parseMarks(b []byte) (marks, error) {
	var stored []storedMark
	if err := json.Unmarshal(b, &stored); err != nil {
		return nil, fmt.Errorf("parse high-water marks: %w", err)
	}
	m := marks{}
	for _, s := range stored {
		head, ok := snapshot.ParseDigest(s.Head)
		if !ok || s.Environment == "" {
			return nil, errors.New("parse high-water marks: a field is missing")
		}
		m[s.Environment] = mark{Epoch: s.Epoch, Revision: s.Revision, Head: head}
	}
	return m, nil
}
