// Package route finds the one route that a canonical request takes, as fast
// among a hundred thousand routes as among ten.
package route

import (
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/sallyport/sallyport/internal/pattern"
	"github.com/sallyport/sallyport/internal/request"
)

// MaxClaims bounds what one entry may claim: its hosts times its paths.
const MaxClaims = 4096

// Entry is a route and what it claims: every combination of its hosts, paths
// and methods, where its conditions hold.
type Entry[V any] struct {
	Namespace, Name string

	// Hosts has at least one of: a canonical host, "*.example.com" for exactly
	// one label before a canonical name, or "*" for every host.
	Hosts []string

	// Paths are templates of package pattern. None means every path.
	Paths []string

	// Methods are methods that package request lets through. None means every
	// one of them. GET does not imply HEAD.
	Methods []string

	// Conditions all have to hold; at most MaxConditions, each on another header or
	// parameter. None means every header and query.
	Conditions []request.Condition

	Digest [32]byte // of the resource, for the proof
	Value  V        // what Match returns
}

// Table is a set of routes. It is immutable and safe for concurrent use. The
// zero value has no routes.
type Table[V any] struct {
	entries []Entry[V]
	tree    tree

	// wellFormed matches every path that may be looked up.
	wellFormed pattern.Path
}

// NewTable builds a table and takes over entries. Its error is Problems: every
// entry that is no route, and every pair of entries that claim the same host,
// path template (names apart) and method with the same conditions, between which
// nothing could decide.
// Claims that merely overlap are no conflict: see Match.
func NewTable[V any](entries []Entry[V]) (*Table[V], error) {
	wellFormed, err := pattern.ParsePath("/**")
	if err != nil {
		return nil, err
	}
	b := builder[V]{entries: entries, tree: newTree(len(entries)), ids: make(map[[2]string]bool, len(entries))}
	for i := range entries {
		b.add(entryID(i+1), &entries[i])
	}
	if len(b.problems) > 0 {
		return nil, b.problems
	}
	return &Table[V]{entries: entries, tree: b.tree, wellFormed: wellFormed}, nil
}

// Result says how a lookup ended. The zero value is a request that nothing
// claims (status 404).
type Result struct {
	found   bool
	allow   methods
	unclear *field
}

// Found reports whether there is a route.
func (r Result) Found() bool { return r.found }

// Allow lists the methods for which there would have been a route, in
// alphabetical order: the Allow field of an answer with status 405. It is empty
// when there is a route, and when there is none for any method.
func (r Result) Allow() []string { return r.allow.list() }

// Unclear says what of the request has more than one value where a condition
// wants a certain one, so that another server might read another one (status
// 400). It is empty when that is not so.
func (r Result) Unclear() string {
	switch {
	case r.unclear == nil:
		return ""
	case r.unclear.place == request.InQuery:
		return "a route depends on the parameter " + r.unclear.name + `, and the query has it more than once or has a ";"`
	}
	return "a route depends on the header " + r.unclear.name + ", and there is more than one"
}

// Match returns the value of the most specific claim that fits a request; what is
// not canonical is not found. An exact host comes before a wildcard, and that before
// "*"; then path templates in the order of pattern.Path.Compare; then a named method
// before every method; then more conditions before fewer. Of as many the first in
// which they differ decides, headers before parameters and either by name: by the
// name, and then a value before a prefix, a longer prefix before a shorter one, that
// before presence, and that before absence. A claim that does not fit hides none that
// does. Match does not allocate.
func (t *Table[V]) Match(c *request.Canonical) (value V, result Result) {
	s := search{tree: &t.tree, request: c, method: slotOf(c.Method)}
	if !t.takes(c) {
		return value, Result{}
	}
	id := s.match()
	switch {
	case s.unclear != nil:
		return value, Result{unclear: s.unclear}
	case id == 0:
		return value, Result{allow: s.allow}
	}
	return t.entries[id-1].Value, Result{found: true}
}

// takes reports whether a request may be looked up.
func (t *Table[V]) takes(c *request.Canonical) bool {
	return slotOf(c.Method) != everyMethod && c.Host != "" && t.wellFormed.Match(c.Path)
}

// Candidates yields the values of all claims that fit a request, in the order of
// Match, which returns the first one. A value comes as often as its entry claims the
// request.
func (t *Table[V]) Candidates(c *request.Canonical) iter.Seq[V] {
	return func(yield func(V) bool) {
		if !t.takes(c) {
			return
		}
		var all []entryID
		s := search{tree: &t.tree, request: c, method: slotOf(c.Method), all: &all}
		s.match()
		for _, id := range all {
			if !yield(t.entries[id-1].Value) {
				return
			}
		}
	}
}

// All yields the entries that are in force: those of which Match can reach
// every claim. It reads them off the structure that Match searches, so that a
// route lost in building it is missing here too. The entries belong to the
// table.
func (t *Table[V]) All() iter.Seq[*Entry[V]] {
	return func(yield func(*Entry[V]) bool) {
		reached := t.tree.reach(len(t.entries))
		for i := range t.entries {
			e := &t.entries[i]
			if reached[i] == e.claims() && !yield(e) {
				return
			}
		}
	}
}

// claims counts what the entry claims in the tree.
func (e *Entry[V]) claims() int {
	return len(e.Hosts) * max(1, len(e.Paths)) * max(1, len(e.Methods))
}

// Error is one problem of one entry.
type Error struct {
	Namespace, Name string
	Field           string // "hosts", "paths", "methods" or "conditions"; empty when it is about the whole
	Reason          string

	// Other is "namespace/name" of the entry that claims the same; else empty.
	Other string
}

func (e *Error) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("route %s/%s: %s", e.Namespace, e.Name, e.Reason)
	}
	return fmt.Sprintf("route %s/%s: %s: %s", e.Namespace, e.Name, e.Field, e.Reason)
}

// Problems are all reasons for which there is no table, in the order of the
// entries.
type Problems []*Error

func (p Problems) Error() string {
	lines := make([]error, len(p))
	for i := range p {
		lines[i] = p[i]
	}
	return errors.Join(lines...).Error()
}

// builder fills a tree. A problem does not stop it: all are reported.
type builder[V any] struct {
	entries  []Entry[V]
	tree     tree
	ids      map[[2]string]bool
	problems Problems
}

func (b *builder[V]) add(id entryID, e *Entry[V]) {
	known := len(b.problems)
	if key := [2]string{e.Namespace, e.Name}; b.ids[key] {
		b.problem(e, "", "it is listed twice")
	} else {
		b.ids[key] = true
	}
	slots, paths, conditions := b.slots(e), b.paths(e), b.conditions(e)
	b.checkHosts(e)
	if len(e.Hosts)*len(paths) > MaxClaims {
		b.problem(e, "", fmt.Sprintf("its hosts and paths make more than %d combinations", MaxClaims))
	}
	if len(b.problems) > known {
		return
	}
	for _, host := range e.Hosts {
		root := b.tree.root(host)
		for _, path := range paths {
			if slot, other := b.claim(b.tree.grow(root, path), conditions, slots, id); other != 0 {
				b.conflict(e, &b.entries[other-1], fmt.Sprintf("host %q, path %q, %s", host, path, slot))
			}
		}
	}
}

func (b *builder[V]) claim(at claimsID, conditions []request.Condition, slots []slot, id entryID) (taken slot, by entryID) {
	if len(conditions) > 0 {
		return b.tree.choose(at, conditions, slots, id)
	}
	return b.tree.claim(at, slots, id)
}

func (b *builder[V]) problem(e *Entry[V], field, reason string) {
	b.problems = append(b.problems, &Error{Namespace: e.Namespace, Name: e.Name, Field: field, Reason: reason})
}

// conflict reports the first of the claims that two entries share.
func (b *builder[V]) conflict(e, other *Entry[V], claim string) {
	if e == other {
		b.problem(e, "", claim+" is claimed twice")
		return
	}
	name := other.Namespace + "/" + other.Name
	if n := len(b.problems); n > 0 {
		if last := b.problems[n-1]; last.Other == name && last.Namespace == e.Namespace && last.Name == e.Name {
			return
		}
	}
	b.problems = append(b.problems, &Error{
		Namespace: e.Namespace, Name: e.Name, Other: name,
		Reason: fmt.Sprintf("%s is claimed by %s too", claim, name),
	})
}

func (b *builder[V]) checkHosts(e *Entry[V]) {
	if len(e.Hosts) == 0 {
		b.problem(e, "hosts", `at least one is required, "*" for every host`)
	}
	for _, host := range e.Hosts {
		if !isHostPattern(host) {
			b.problem(e, "hosts", fmt.Sprintf(`%.300q is no lower-case host without port, no "*." before a name, and not "*"`, host))
		}
	}
}

// isHostPattern leans on package request, so that a host is accepted exactly
// when some request can have it.
func isHostPattern(host string) bool {
	if host == anyHost {
		return true
	}
	name, wildcard := strings.CutPrefix(host, "*.")
	if !wildcard {
		return request.IsHost(host)
	}
	return request.IsHost("x." + name)
}

func (b *builder[V]) paths(e *Entry[V]) []pattern.Path {
	templates := e.Paths
	if len(templates) == 0 {
		templates = []string{"/**"}
	}
	paths := make([]pattern.Path, 0, len(templates))
	for _, template := range templates {
		path, err := pattern.ParsePath(template)
		if err != nil {
			b.problem(e, "paths", err.Error())
			continue
		}
		paths = append(paths, path)
	}
	return paths
}

func (b *builder[V]) slots(e *Entry[V]) []slot {
	if len(e.Methods) == 0 {
		return []slot{everyMethod}
	}
	slots := make([]slot, 0, len(e.Methods))
	for _, method := range e.Methods {
		slot := slotOf(method)
		if slot == everyMethod {
			b.problem(e, "methods", fmt.Sprintf("%.40q is not served", method))
			continue
		}
		slots = append(slots, slot)
	}
	return slots
}
