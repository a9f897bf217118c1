package policy

import (
	"cmp"
	"encoding/binary"
	"iter"
	"maps"
	"slices"
	"strings"
)

// Binding attaches policies to a route. The bindings of a Set that name the
// same route add up.
type Binding struct {
	// Route may be zero: its policies attach to no route yet. They are held,
	// so that they count as enforced, and match no request.
	Route    RouteID
	Policies []*Policy

	// Unavailable, when set, names a control of the route that could not be
	// compiled, as in "Policy shop/blocks-x was rejected". All requests are
	// then denied, for it might have denied any. It is shown to callers.
	Unavailable string
}

// Set is all policies of a snapshot, by route. It is immutable and safe for
// concurrent use. A nil or zero Set denies everything.
type Set struct {
	shards *shards // nil in the zero Set only
	// held counts the shards that hold a policy.
	held map[*Policy]int
}

// table is the policies of one route. A request looks at those of its method
// alone: those that name it, and those that are for any.
type table struct {
	sheet       *sheet
	unavailable string // Detail of the denial; empty if nothing is missing
	methods     map[string]*candidates
	others      *candidates // for a method that no policy names
	deny, allow []*Policy   // whatever the method, for those who ask why
	shadow      []*Policy   // likewise, of both effects
	reachable   []*Policy   // what the fields that Decide reads lead to
}

// candidates are the policies of one method, by effect.
type candidates struct {
	deny, allow list
	shadow      *candidates // nil when none is in shadow
}

// NewSet indexes bound. A nil Policy, or one that Compile did not make, stands
// for a control that got lost and makes its route unavailable.
func NewSet(bound []Binding) *Set { return (&Set{}).With(bound) }

// With returns the set in which the routes that bound names have its bindings
// in the place of those they had. All else is shared with s, which stays as it
// is, so that it costs little to change a few routes among many.
func (s *Set) With(bound []Binding) *Set {
	policies := make(map[RouteID][]*Policy, len(bound))
	unavailable := make(map[RouteID][]string)
	for _, b := range bound {
		policies[b.Route] = append(policies[b.Route], b.Policies...)
		if b.Unavailable != "" {
			unavailable[b.Route] = append(unavailable[b.Route], b.Unavailable)
		}
	}
	made := tables{numbers: make(map[*Policy]uint32), made: make(map[string]*table)}
	changed := make(map[RouteID]*table, len(policies))
	for route, pp := range policies {
		changed[route] = made.table(pp, unavailable[route])
	}
	return s.with(changed)
}

// tables makes one table for all routes that have the same policies.
type tables struct {
	numbers map[*Policy]uint32
	made    map[string]*table
	key     []uint32 // scratch
	text    []byte   // scratch
}

func (m *tables) table(policies []*Policy, unavailable []string) *table {
	if len(unavailable) > 0 {
		return newTable(policies, unavailable)
	}
	m.key, m.text = m.key[:0], m.text[:0]
	for _, p := range policies {
		n, known := m.numbers[p]
		if !known {
			n = uint32(len(m.numbers)) //nolint:gosec // bounded by the documents of a snapshot
			m.numbers[p] = n
		}
		m.key = append(m.key, n)
	}
	slices.Sort(m.key)
	for _, n := range m.key {
		m.text = binary.BigEndian.AppendUint32(m.text, n)
	}
	t, done := m.made[string(m.text)]
	if !done {
		t = newTable(policies, nil)
		m.made[string(m.text)] = t
	}
	return t
}

func newTable(policies []*Policy, unavailable []string) *table {
	compiled := slices.DeleteFunc(slices.Clone(policies), func(p *Policy) bool {
		return p == nil || p.effect == EffectUnspecified
	})
	if len(compiled) < len(policies) {
		unavailable = append(unavailable, "a policy was not compiled")
	}
	// Which of several matching policies a decision names must not depend on
	// the order of bindings.
	slices.SortFunc(compiled, compare)
	compiled = slices.Compact(compiled)
	s := newSheet(compiled)
	all := split(compiled, s, nil)
	t := &table{sheet: s, methods: make(map[string]*candidates), deny: all.deny.policies, allow: all.allow.policies}
	if all.shadow != nil {
		t.shadow = slices.Concat(all.shadow.deny.policies, all.shadow.allow.policies)
	}
	if len(unavailable) > 0 {
		t.unavailable = "a control of this route is unavailable: " + strings.Join(slices.Compact(slices.Sorted(slices.Values(unavailable))), "; ")
	}
	t.others = split(compiled, s, func(p *Policy) bool { return len(p.methods) == 0 })
	for _, p := range compiled {
		for _, method := range p.methods {
			if _, done := t.methods[method]; !done {
				t.methods[method] = split(compiled, s, func(p *Policy) bool { return p.matchMethod(method) })
			}
		}
	}
	t.reachable = t.walk()
	return t
}

func compare(p, q *Policy) int {
	return cmp.Or(cmp.Compare(p.key, q.key), slices.Compare(p.digest[:], q.digest[:]))
}

// split divides the kept policies by effect; a nil keep keeps all.
func split(policies []*Policy, s *sheet, keep func(*Policy) bool) *candidates {
	of := func(effect Effect, shadow bool) list {
		var kept []*Policy
		for _, p := range policies {
			if p.effect == effect && p.shadow == shadow && (keep == nil || keep(p)) {
				kept = append(kept, p)
			}
		}
		return newList(kept, s)
	}
	c := &candidates{deny: of(Deny, false), allow: of(Allow, false)}
	if s := (&candidates{deny: of(Deny, true), allow: of(Allow, true)}); len(s.deny.policies)+len(s.allow.policies) > 0 {
		c.shadow = s
	}
	return c
}

func (t *table) of(method string) *candidates {
	if c, ok := t.methods[method]; ok {
		return c
	}
	return t.others
}

// Policies yields the policies of s, each once, in no particular order. They
// were read out of the index that Decide reads: one that got lost on the way
// there is missing here too.
func (s *Set) Policies() iter.Seq[*Policy] {
	if s == nil {
		return func(func(*Policy) bool) {}
	}
	return maps.Keys(s.held)
}

// walk returns the policies that Decide may read of t, each once.
func (t *table) walk() []*Policy {
	var found []*Policy
	for _, c := range append(slices.Collect(maps.Values(t.methods)), t.others) {
		for each := c; each != nil; each = each.shadow {
			found = slices.AppendSeq(found, each.deny.reachable())
			found = slices.AppendSeq(found, each.allow.reachable())
		}
	}
	slices.SortFunc(found, compare)
	return slices.Compact(found)
}

// Decide answers in. It does not allocate unless it denies or evaluates a
// condition, and looks only at policies of in's route and method, and in long
// lists only at those that may name its principal.
func (s *Set) Decide(in *Input) Decision {
	t, refusal := s.table(in)
	if t == nil {
		return refusal
	}
	c, a := t.of(in.Method), asked{in: in, sheet: t.sheet}
	if d, denied := c.deny.forbid(&a); denied {
		return d // whatever is in shadow
	}
	d, found := c.allow.permit(&a)
	if !found {
		d = Decision{Reason: ReasonNoMatch, Detail: t.nearest(in)}
	}
	if c.shadow != nil {
		d.Shadow = c.shadow.turn(&a, d.Allow)
	}
	return d
}

// forbid returns the denial of a list of DENY policies, if there is one.
func (l *list) forbid(a *asked) (d Decision, denied bool) {
	switch v := l.first(a); {
	case v.err != nil:
		return v.failed(), true
	case v.policy != nil:
		return Decision{Reason: ReasonDenied, Policy: v.policy.key}, true
	}
	return Decision{}, false
}

// permit returns what a list of ALLOW policies says, if they say anything.
func (l *list) permit(a *asked) (d Decision, found bool) {
	switch v := l.first(a); {
	case v.err != nil:
		return v.failed(), true
	case v.policy != nil:
		return Decision{Allow: true, Reason: ReasonAllowed, Policy: v.policy.key, Detail: v.policy.note}, true
	}
	return Decision{}, false
}

// turn returns how c would have turned round what no enforced DENY denies.
func (c *candidates) turn(a *asked, allowed bool) Shadow {
	d, denied := c.deny.forbid(a)
	if !denied && !allowed {
		d, _ = c.allow.permit(a)
	}
	if denied && !allowed || !denied && !d.Allow {
		return Shadow{}
	}
	return Shadow{Policy: d.Policy, Allow: d.Allow, Reason: d.Reason}
}

// table returns the table of in's route, or nil and why there is none to ask.
func (s *Set) table(in *Input) (*table, Decision) {
	switch {
	case s == nil || s.shards == nil:
		return nil, Decision{Reason: ReasonNoSnapshot}
	case in == nil || in.Route == RouteID{}:
		return nil, Decision{Reason: ReasonUnknownRoute}
	}
	t := s.shards.table(in.Route)
	switch {
	case t == nil:
		return nil, Decision{Reason: ReasonUnknownRoute}
	case t.unavailable != "":
		return nil, Decision{Reason: ReasonControlUnavailable, Detail: t.unavailable}
	}
	return t, Decision{}
}
