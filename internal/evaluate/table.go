package evaluate

import (
	"crypto/ed25519"
	"fmt"
	"slices"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
)

// Table compiles what an environment holds, to answer questions by. No proxy would
// take it: it is signed by nobody. What prev has of the same documents is used
// again; prev may be nil.
func Table(prev *compile.Table, at snapshot.Statement, set *snapshot.Set) (*compile.Table, error) {
	at.Root, at.Documents, at.Previous = set.Root(), set.Len(), snapshot.Digest{}
	at.Epoch, at.Revision = max(at.Epoch, 1), max(at.Revision, 1)
	nobody := snapshot.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	head, err := nobody.SignHead(at)
	if err != nil {
		return nil, fmt.Errorf("number a state of %s: %w", at.Environment, err)
	}
	s, err := snapshot.Assemble(head, set)
	if err != nil {
		return nil, err
	}
	return compile.Compile(prev, s), nil
}

// Offline compiles what resources make of an environment. What is not for it, or
// for no proxy at all, is left out.
func Offline(environment string, resources []resource.Parsed) (*compile.Table, error) {
	var entries []snapshot.Entry
	for _, p := range resources {
		all, environments := p.Scope()
		if p.Key.Kind.Immediate() || !all && !slices.Contains(environments, environment) {
			continue
		}
		document, err := resource.Encode(p)
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", p.Key, err)
		}
		e, err := snapshot.NewEntry(document)
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", p.Key, err)
		}
		entries = append(entries, e)
	}
	return Table(nil, snapshot.Statement{Environment: environment}, snapshot.NewSet(entries...))
}
