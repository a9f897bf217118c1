package route

import (
	"cmp"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/request"
)

// choices are the claims with conditions on one path template of one host
// pattern, by method.
type choices [slotCount][]group

// group is the claims whose conditions are about the same fields in the same way.
// Those that want certain values are found by them, and cost the same whether
// there is one or a hundred thousand.
type group struct {
	fields []field
	claims map[string][]candidate // by the values of the exact fields, see appendValue
}

// field is a condition without its value.
type field struct {
	place request.Place
	kind  request.Kind
	name  string
}

// candidate is a claim. Of those with the same exact values the one with the
// longer prefixes goes first.
type candidate struct {
	id       entryID
	prefixes []string // in the order of the fields
}

// compareFields puts into order groups that may hold claims on the same request:
// more conditions go first, then the first difference decides.
func compareFields(a, b []field) int {
	if order := cmp.Compare(len(b), len(a)); order != 0 {
		return order
	}
	return slices.CompareFunc(a, b, func(a, b field) int {
		return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.name, b.name), cmp.Compare(a.kind, b.kind))
	})
}

// comparePrefixes puts the longer one first. Prefixes of the same value that are
// as long are the same.
func comparePrefixes(a, b []string) int {
	return slices.CompareFunc(a, b, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), strings.Compare(a, b))
	})
}

// choose enters id for claims with conditions. It returns the entry that has one
// of them already, and leaves that to it; a zero one when there is none.
func (t *tree) choose(at claimsID, conditions []request.Condition, slots []slot, id entryID) (taken slot, by entryID) {
	c := &t.claims[at]
	if c.choices == 0 {
		t.choices = append(t.choices, choices{})
		c.choices = choicesID(len(t.choices) - 1) //nolint:gosec // as in newNode
	}
	fields := make([]field, len(conditions))
	for i, c := range conditions {
		fields[i] = field{c.Place, c.Kind, c.Name}
	}
	for _, s := range slots {
		if other := groupOf(&t.choices[c.choices][s], fields).enter(conditions, id); other != 0 {
			taken, by = s, other
		}
	}
	return taken, by
}

// groupOf returns the group for fields, after adding it where it belongs.
func groupOf(groups *[]group, fields []field) *group {
	i, found := slices.BinarySearchFunc(*groups, fields, func(g group, fields []field) int { return compareFields(g.fields, fields) })
	if !found {
		*groups = slices.Insert(*groups, i, group{fields: fields, claims: make(map[string][]candidate)})
	}
	return &(*groups)[i]
}

func (g *group) enter(conditions []request.Condition, id entryID) (taken entryID) {
	c := candidate{id: id}
	var key []byte
	for i := range conditions {
		switch conditions[i].Kind {
		case request.Exact:
			key = appendValue(key, conditions[i].Value)
		case request.Prefix:
			c.prefixes = append(c.prefixes, conditions[i].Value)
		case request.Anything, request.Present, request.Absent:
		}
	}
	list := g.claims[string(key)]
	i, found := slices.BinarySearchFunc(list, c, func(a, b candidate) int { return comparePrefixes(a.prefixes, b.prefixes) })
	if found {
		return list[i].id
	}
	g.claims[string(key)] = slices.Insert(list, i, c)
	return 0
}

// appendValue appends a value so that where it ends is not in doubt.
func appendValue(key []byte, value string) []byte {
	return append(append(key, byte(len(value))), value...) //nolint:gosec // MaxConditionValue at most
}

// maxKey is the length of the longest key.
const maxKey = MaxConditions * (request.MaxConditionValue + 1)

// choose picks the first claim of which all conditions hold.
func (s *search) choose(groups []group) entryID {
	for i := range groups {
		if id := s.in(&groups[i]); id != 0 {
			return id
		}
	}
	return 0
}

// in picks from a group. What occurs more than once has no value that everybody
// would agree on: when one is wanted, the search is given up.
func (s *search) in(g *group) entryID {
	var space [maxKey]byte
	key := space[:0]
	for i := range g.fields {
		f := &g.fields[i]
		value, count := s.value(f)
		switch {
		case f.kind == request.Anything:
			continue
		case f.kind == request.Present, f.kind == request.Absent:
			if (count > 0) != (f.kind == request.Present) {
				return 0
			}
			continue
		case count == 0:
			return 0
		case count > 1:
			s.unclear = f
			return 0
		}
		if f.kind == request.Exact {
			var fits bool
			if key, fits = f.appendTo(key, value); !fits {
				return 0
			}
		}
	}
	for _, c := range g.claims[string(key)] {
		if len(c.prefixes) == 0 || s.begins(g.fields, c.prefixes) {
			if id := s.take(c.id); id != 0 {
				return id
			}
		}
	}
	return 0
}

// value returns what a field is in the request, as it is there, and how often.
func (s *search) value(f *field) (value string, count int) {
	if f.place == request.InQuery {
		return parameter(s.request.RawQuery, f.name)
	}
	values := s.request.Header[f.name]
	if len(values) == 0 {
		return "", 0
	}
	return values[0], len(values)
}

// appendTo appends a value as it is in a request, unless it is longer than those
// of conditions are.
func (f *field) appendTo(key []byte, value string) (_ []byte, fits bool) {
	if f.place == request.InHeader {
		if len(value) > request.MaxConditionValue {
			return nil, false
		}
		return appendValue(key, value), true
	}
	at := len(key)
	key, fits = appendDecoded(append(key, 0), value, request.MaxConditionValue)
	key[at] = byte(len(key) - at - 1) //nolint:gosec // request.MaxConditionValue at most
	return key, fits
}

// begins reports whether all prefixes hold.
func (s *search) begins(fields []field, prefixes []string) bool {
	next := 0
	for i := range fields {
		f := &fields[i]
		if f.kind != request.Prefix {
			continue
		}
		value, _ := s.value(f)
		ok := strings.HasPrefix(value, prefixes[next])
		if f.place == request.InQuery {
			_, ok = cutPrefix(value, prefixes[next])
		}
		if !ok {
			return false
		}
		next++
	}
	return true
}
