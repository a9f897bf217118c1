package admission

import (
	"time"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// Request is what one call asks of the fleet, read as far as that does not
// depend on what the fleet holds. It may be planned any number of times, but
// not by several at once.
type Request struct {
	entries []entry // in the order of the call
	indexes map[resource.Key]int
	// removals says that whatever leaves an environment is meant to.
	removals bool
}

// entry is one resource of a request, to be applied or deleted.
type entry struct {
	key      resource.Key
	deletion bool
	item     *item // nil when it is to be deleted, or is not valid
	document []byte
	valid    bool              // it can be read, and is the first of its key
	problems resource.Problems // whatever the fleet holds
	lapsed   bool              // a grant that has run out

	// compiled says whether problems has those of a policy's condition, too.
	compiled bool
}

// NewApply reads the resources of a call, made now, to create or replace them.
func NewApply(resources []*adminv1.Resource, now time.Time) *Request {
	r := &Request{entries: make([]entry, len(resources))}
	inParallel(len(resources), func(i int) { r.entries[i] = newEntry(resources[i], now) })
	r.number()
	r.part()
	return r
}

func newEntry(from *adminv1.Resource, now time.Time) entry {
	parsed, problems := resource.Decode(from)
	e := entry{key: parsed.Key, problems: problems}
	e.timely(parsed, now)
	if e.problems.Total > 0 {
		return e
	}
	document, err := resource.Encode(parsed)
	if err != nil {
		e.problems.Add(resource.Problem{Resource: e.key.String(), Reason: resource.ReasonInvalidValue, Message: err.Error()})
		return e
	}
	e.document, e.valid = document, true
	e.item = newItem(parsed, document, snapshot.DocumentDigest(document))
	return e
}

// NewDelete reads a call to delete resources.
func NewDelete(keys []resource.Key) *Request {
	r := &Request{entries: make([]entry, len(keys))}
	for i, key := range keys {
		r.entries[i] = entry{key: key, deletion: true, valid: true}
	}
	r.number()
	r.part()
	return r
}

// AllowRemovals makes the request one that may remove any share of what an
// environment has.
func (r *Request) AllowRemovals() { r.removals = true }

// number notes where each resource is in the call, and which is there twice.
func (r *Request) number() {
	r.indexes = make(map[resource.Key]int, len(r.entries))
	for i := range r.entries {
		e := &r.entries[i]
		if _, twice := r.indexes[e.key]; !twice {
			r.indexes[e.key] = i
			continue
		}
		if e.valid { // else it may be called otherwise, once it can be read
			e.valid, e.item = false, nil
			e.problems.Add(resource.Problem{
				Resource: e.key.String(), Reason: ReasonDuplicateResource, Message: "is in this request twice",
			})
		}
	}
}

// Unknown returns the places of those policies of the request that the state
// does not hold as they are: what has to be compiled.
func (s *State) Unknown(r *Request) []int {
	var places []int
	for i := range r.entries {
		if e := &r.entries[i]; e.compiles() && !s.holds(e) {
			places = append(places, i)
		}
	}
	return places
}

// holds reports whether the state has the entry's resource just as it is.
func (s *State) holds(e *entry) bool {
	old := s.items[e.key]
	return old != nil && old.digest == e.item.digest
}

// compiles reports whether there is more to a resource than package resource
// can tell.
func (e *entry) compiles() bool {
	if e.item == nil {
		return false
	}
	switch e.key.Kind {
	case resource.KindPolicy, resource.KindGrant, resource.KindRateLimit, resource.KindCondition, resource.KindIdentityProvider, resource.KindSchema:
		return true
	}
	return false
}

// Compile compiles resources of the request as a proxy will. It needs no state
// and may take a while. What it leaves out, State.Plan compiles.
func (r *Request) Compile(places []int) {
	inParallel(len(places), func(i int) { r.entries[places[i]].compile() })
}

func (e *entry) compile() {
	if e.compiled || !e.compiles() {
		return
	}
	e.compiled = true
	for _, p := range e.alone() {
		e.problems.Add(p)
	}
}
