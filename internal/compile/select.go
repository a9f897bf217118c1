package compile

import (
	"iter"
	"maps"
	"slices"

	"github.com/sallyport/sallyport/internal/resource"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// controls reports whether a document with this control controls the route.
func (c control) controls(r *Route) bool {
	switch c.reach {
	case everywhere:
		return true
	case namespaced:
		return c.namespace == r.Key.Namespace
	case selected:
		return c.namespace == r.Key.Namespace && Selects(c.routes, r.Key.Name, r.Labels)
	case nothing:
	}
	return false
}

// Selects reports whether a selector selects a route of its namespace.
func Selects(s *resourcev1.RouteSelector, name string, labels map[string]string) bool {
	switch {
	case s.GetAll():
		return true
	case len(s.GetLabels()) > 0:
		for k, v := range s.GetLabels() {
			if have, ok := labels[k]; !ok || have != v {
				return false
			}
		}
		return true
	}
	return slices.Contains(s.GetNames(), name)
}

// isSelection reports whether a document is found by selections.
func isSelection(key resource.Key, d *document) bool {
	return isAttached(key.Kind) && d.control.reach == selected
}

// selections are the policies of one namespace, arranged so that those which
// select a route are found without looking at the others.
type selections struct {
	all    []*document
	names  map[string][]*document
	labels map[label][]*document // by one of the labels that they ask for
}

type label struct{ name, value string }

// namespace is the routes of one namespace, by slot.
type namespace struct {
	names  map[string]int32
	labels map[label][]int32 // in order
}

func newSelections() *selections {
	return &selections{names: make(map[string][]*document), labels: make(map[label][]*document)}
}

// edit changes the lists that a document belongs to. There are none if it is
// no policy that selects routes.
func (x *selections) edit(d *document, change func([]*document) []*document) {
	if d == nil || !isSelection(d.entry.Key, d) {
		return
	}
	switch s := d.control.routes; {
	case s.GetAll():
		x.all = change(x.all)
	case len(s.GetLabels()) > 0:
		l := first(s.GetLabels())
		x.labels[l] = change(x.labels[l])
	default:
		for _, name := range s.GetNames() {
			x.names[name] = change(x.names[name])
		}
	}
}

func (x *selections) add(d *document) {
	x.edit(d, func(list []*document) []*document { return append(list, d) })
}

// copied returns a copy to change. It shares lists with x, which no longer may be
// changed.
func (x *selections) copied() *selections {
	if x == nil {
		return newSelections()
	}
	return &selections{all: x.all, names: maps.Clone(x.names), labels: maps.Clone(x.labels)}
}

// replace puts one document in the place of another; nil is none. The lists that
// it changes are copies.
func (x *selections) replace(before, after *document) {
	x.edit(before, func(list []*document) []*document {
		return slices.DeleteFunc(slices.Clone(list), func(d *document) bool { return d == before })
	})
	x.edit(after, func(list []*document) []*document { return append(slices.Clip(list), after) })
}

// first returns one label of several, always the same.
func first(labels map[string]string) label {
	name := slices.Min(slices.Collect(maps.Keys(labels)))
	return label{name, labels[name]}
}

// of returns the policies that select the route, rejected ones too.
func (x *selections) of(r *Route) []*document {
	if x == nil {
		return nil
	}
	found := slices.Concat(x.all, x.names[r.Key.Name])
	for name, value := range r.Labels {
		for _, d := range x.labels[label{name, value}] {
			if d.control.controls(r) {
				found = append(found, d)
			}
		}
	}
	return found
}

// candidates yields few routes among which are all that s selects.
func (n *namespace) candidates(s *resourcev1.RouteSelector) iter.Seq[int32] {
	switch {
	case s.GetAll():
		return maps.Values(n.names)
	case len(s.GetLabels()) > 0:
		var fewest []int32
		first := true
		for name, value := range s.GetLabels() {
			if slots := n.labels[label{name, value}]; first || len(slots) < len(fewest) {
				fewest, first = slots, false
			}
		}
		return slices.Values(fewest)
	}
	return func(yield func(int32) bool) {
		for _, name := range s.GetNames() {
			if slot, ok := n.names[name]; ok && !yield(slot) {
				return
			}
		}
	}
}
