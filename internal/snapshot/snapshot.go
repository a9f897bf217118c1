package snapshot

import (
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/sallyport/sallyport/internal/resource"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
)

var (
	// ErrBase says that an update builds on another snapshot than the one held.
	ErrBase = errors.New("update builds on another snapshot")
	// ErrRoot says that documents are not those that the head signs.
	ErrRoot = errors.New("documents are not those that the head signs")
	// ErrTooLarge says that a snapshot exceeds what a proxy takes.
	ErrTooLarge = errors.New("snapshot is too large")
)

const (
	// MaxDocuments bounds how many documents an environment has.
	MaxDocuments = 250_000
	// MaxBytes bounds the documents of an environment together.
	MaxBytes = 512 << 20
	// partBytes is about how much one part of an update carries. A part is
	// never larger than partBytes and one document that is not cut.
	partBytes = 512 << 10
	// maxWhole bounds, in bytes, the documents that are not cut, nor is the rest
	// of one that was.
	maxWhole = 256 << 10
	// MaxPart bounds a part of an update on the wire, in bytes, whatever the size
	// of documents.
	MaxPart = partBytes + maxWhole + 64<<10
)

// Snapshot is the verified state of an environment at a revision. It is
// immutable and safe for concurrent use.
type Snapshot struct {
	head Head
	set  *Set
}

// Assemble returns the snapshot of a head and the set that it signs. ErrRoot if
// root or count differ, ErrCounts if the count of a kind does.
func Assemble(head Head, set *Set) (*Snapshot, error) {
	switch {
	case head.IsZero():
		return nil, errors.New("a snapshot needs a head")
	case set.Root() != head.Root:
		return nil, fmt.Errorf("%w: root is %s, head says %s", ErrRoot, set.Root().Short(), head.Root.Short())
	case set.Len() != head.Documents:
		return nil, fmt.Errorf("%w: there are %d, head says %d", ErrRoot, set.Len(), head.Documents)
	}
	if err := checkCounts(head, set); err != nil {
		return nil, err
	}
	return &Snapshot{head: head, set: set}, nil
}

// Head returns the snapshot's head; the zero Head when s is nil.
func (s *Snapshot) Head() Head {
	if s == nil {
		return Head{}
	}
	return s.head
}

// Set returns the snapshot's documents; nil, the empty set, when s is nil.
func (s *Snapshot) Set() *Set {
	if s == nil {
		return nil
	}
	return s.set
}

// Updates yields the parts of an update that turns base into next, in order; a
// full snapshot when base is nil.
func Updates(base, next *Snapshot) iter.Seq[*proxyv1.Update] {
	upserts, removed := next.Set().All(), []resource.Key(nil)
	if base != nil { // else a copy of everything is made for nothing
		var changed []Entry
		changed, removed = base.Set().Changes(next.Set())
		upserts = slices.Values(changed)
	}
	return func(yield func(*proxyv1.Update) bool) {
		part, size := newPart(base), 0
		flush := func() bool {
			full := part
			part, size = newPart(base), 0
			return yield(full)
		}
		for _, k := range removed {
			part.Removed = append(part.Removed, &proxyv1.DocumentKey{Kind: string(k.Kind), Namespace: k.Namespace, Name: k.Name})
			if size += len(k.Kind) + len(k.Namespace) + len(k.Name) + 16; size >= partBytes && !flush() {
				return
			}
		}
		for e := range upserts {
			rest := e.Document
			for len(rest) > maxWhole && size+len(rest) > partBytes {
				part.Documents, part.Unfinished = append(part.Documents, rest[:partBytes-size]), true
				rest = rest[partBytes-size:]
				if !flush() {
					return
				}
			}
			part.Documents = append(part.Documents, rest)
			if size += len(rest); size >= partBytes && !flush() {
				return
			}
		}
		part.Head = next.head.signed
		yield(part)
	}
}

func newPart(base *Snapshot) *proxyv1.Update {
	if base == nil {
		return &proxyv1.Update{}
	}
	root := base.head.Root
	return &proxyv1.Update{BaseRoot: root[:]}
}

// Assembly puts the parts of an update together. The zero Assembly is ready
// for the first part. It is not safe for concurrent use.
type Assembly struct {
	parts   int
	upserts []Entry
	begun   []byte // of a document that the next part goes on with
	removed []resource.Key
	bytes   int
}

// errCut says that the parts do not make whole documents.
var errCut = errors.New("a document is cut off")

// Add takes the next part. With the last one it returns the snapshot that the
// update makes of base, verified by v, and is ready for another update; before,
// it returns nil. After an error it is ready for another update too, and base
// is still what it was. Add keeps the documents of part.
func (a *Assembly) Add(v *Verifier, base *Snapshot, part *proxyv1.Update) (_ *Snapshot, err error) {
	defer func() {
		if err != nil || part.GetHead() != nil {
			*a = Assembly{}
		}
	}()
	if err := a.take(base, part); err != nil {
		return nil, err
	}
	if part.GetHead() == nil {
		return nil, nil //nolint:nilnil // documented: not yet
	}
	head, err := v.verifyAlone(part.GetHead())
	if err != nil {
		return nil, err
	}
	from := base.Set()
	if len(part.GetBaseRoot()) == 0 {
		from = nil
	}
	s, err := Assemble(head, from.With(a.upserts, a.removed))
	if err != nil {
		return nil, err
	}
	return v.check(s)
}

func (a *Assembly) take(base *Snapshot, part *proxyv1.Update) error {
	if len(part.GetBaseRoot()) != 0 {
		root, ok := ParseDigest(part.GetBaseRoot())
		if !ok || base == nil || root != base.head.Root {
			return ErrBase
		}
	}
	a.parts++
	if err := a.takeDocuments(part); err != nil {
		return err
	}
	for _, k := range part.GetRemoved() {
		if len(a.removed) >= MaxDocuments {
			return ErrTooLarge
		}
		a.removed = append(a.removed, resource.Key{Kind: resource.Kind(k.GetKind()), Namespace: k.GetNamespace(), Name: k.GetName()})
	}
	return nil
}

func (a *Assembly) takeDocuments(part *proxyv1.Update) error {
	documents := part.GetDocuments()
	if part.GetUnfinished() && (len(documents) == 0 || part.GetHead() != nil) || len(a.begun) > 0 && len(documents) == 0 {
		return errCut
	}
	for i, document := range documents {
		if a.bytes += len(document); len(a.begun)+len(document) > resource.MaxSet || a.bytes > MaxBytes || len(a.upserts) >= MaxDocuments {
			return ErrTooLarge
		}
		goesOn := part.GetUnfinished() && i == len(documents)-1
		if goesOn || len(a.begun) > 0 {
			a.begun = append(a.begun, document...)
			document = a.begun
		}
		if goesOn {
			break
		}
		a.begun = nil
		if err := a.finish(document); err != nil {
			return err
		}
	}
	return nil
}

// finish takes a document that is whole.
func (a *Assembly) finish(document []byte) error {
	e, err := NewEntry(document)
	switch {
	case errors.Is(err, resource.ErrTooLarge):
		return fmt.Errorf("%w: document %d of part %d: %w", ErrTooLarge, len(a.upserts), a.parts, err)
	case err != nil:
		return fmt.Errorf("document %d of part %d: %w", len(a.upserts), a.parts, err)
	}
	a.upserts = append(a.upserts, e)
	return nil
}
