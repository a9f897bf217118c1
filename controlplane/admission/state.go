package admission

import (
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	"github.com/sallyport/sallyport/storage"
)

// item is a resource as admission sees it. It is immutable.
type item struct {
	resource.Parsed
	scope  storage.Scope
	digest snapshot.Digest
}

// State is what the fleet holds at a revision. The zero State is the fleet
// before its first. It is not safe for concurrent use.
type State struct {
	revision snapshot.Revision
	items    map[resource.Key]*item
	spaces   map[string]map[resource.Key]*item // the same by namespace
}

// Revision returns the revision of the state.
func (s *State) Revision() snapshot.Revision { return s.revision }

// Advance brings the state to a revision: versions are the newest of each key
// that changed since.
func (s *State) Advance(versions []storage.Version, to snapshot.Revision) error {
	next := make([]*item, len(versions))
	for i, v := range versions {
		if v.Deleted {
			continue
		}
		it, err := parse(v)
		if err != nil {
			return fmt.Errorf("revision %d: %w", v.Revision, err)
		}
		next[i] = it
	}
	for i, v := range versions {
		s.set(v.Key, next[i])
	}
	s.revision = to
	return nil
}

func parse(v storage.Version) (*item, error) {
	p, err := resource.ParseDocument(v.Document)
	if err != nil {
		return nil, err
	}
	return &item{Parsed: p, scope: v.Scope, digest: v.Digest}, nil
}

func (s *State) set(key resource.Key, it *item) {
	if s.items == nil {
		s.items, s.spaces = map[resource.Key]*item{}, map[string]map[resource.Key]*item{}
	}
	if it == nil {
		delete(s.items, key)
		delete(s.spaces[key.Namespace], key)
		return
	}
	s.items[key] = it
	if s.spaces[key.Namespace] == nil {
		s.spaces[key.Namespace] = map[resource.Key]*item{}
	}
	s.spaces[key.Namespace][key] = it
}

// view is a state with changes on top of it; nil is a deletion.
type view struct {
	base *State
	over map[resource.Key]*item
}

func (v *view) get(key resource.Key) *item {
	if it, changed := v.over[key]; changed {
		return it
	}
	return v.base.items[key]
}

// namespace yields the resources of a namespace, in no particular order.
func (v *view) namespace(name string) iter.Seq[*item] {
	return func(yield func(*item) bool) {
		for key, it := range v.base.spaces[name] {
			if _, changed := v.over[key]; !changed && !yield(it) {
				return
			}
		}
		for key, it := range v.over {
			if key.Namespace == name && it != nil && !yield(it) {
				return
			}
		}
	}
}

// namespaces returns the names of all namespaces, sorted.
func (v *view) namespaces() []string {
	names := map[string]bool{}
	for name := range v.base.spaces {
		names[name] = true
	}
	for key := range v.over {
		names[key.Namespace] = true
	}
	return slices.Sorted(maps.Keys(names))
}
