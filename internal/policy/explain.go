package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Miss is the part of a policy that a request did not match.
type Miss string

// The parts, in the order they are looked at; the first that misses is named.
const (
	MissNothing   Miss = ""
	MissPrincipal Miss = "principal"
	MissMethod    Miss = "method"
	MissPath      Miss = "path"
	MissTime      Miss = "time" // a grant is not in force
	MissCondition Miss = "condition"
	MissError     Miss = "error" // the condition has no value
)

// Step is what one policy of the route had to say.
type Step struct {
	Policy  string // "namespace/name"
	Effect  Effect
	Shadow  bool // what it says does not count
	Matched bool
	Miss    Miss   // the first part that missed; empty when Matched
	Detail  string // where a condition failed, or what a grant is; as safe as Decision.Detail

	// Ways are what would have changed what this policy has to say, the lightest
	// first: whether an ALLOW allows, whether a DENY denies. There is none where
	// no few clauses would.
	Ways []Way
}

// speaks reports whether the policy has its say: an ALLOW allows, or a DENY
// denies, which it does as well when its condition has no value.
func (s *Step) speaks() bool {
	return s.Matched || s.Effect == Deny && s.Miss == MissError
}

// Explanation is a decision and its grounds. It repeats no more of the request
// than Decision.Detail does.
type Explanation struct {
	Decision Decision

	// Steps are what the policies of the route make of the request: DENY before
	// ALLOW, those in shadow last, each by name, MaxSteps at most. Those that
	// decided or nearly did are among them; Omitted is how many are not.
	Steps   []Step
	Omitted int

	// Changes are what would have turned the decision round, the lightest first.
	// There is none where no policies were asked, or no few clauses would.
	Changes []Change
}

// Change is clauses of policies that together would have turned a decision
// round, and none of them alone unless it is the only one.
type Change []Flip

// Flip is a clause of a policy that comes to what it wants.
type Flip struct {
	Policy string // "namespace/name"
	Clause
}

// Bounds of an Explanation.
const (
	MaxSteps   = 32
	maxChanges = 4
)

// Explain decides in, and says what the policies of its route make of it.
// Unlike Decide it goes on after an answer is found, so it is for those who ask
// why.
func (s *Set) Explain(in *Input) Explanation {
	e := Explanation{Decision: s.Decide(in)}
	t, _ := s.table(in)
	if t == nil {
		return e
	}
	heard, all := t.heard(in)
	e.Omitted = len(t.deny) + len(t.allow) + len(t.shadow) - len(heard)
	for _, p := range heard {
		e.Steps = append(e.Steps, p.step(in))
	}
	switch {
	case !all: // what is left out could still deny, or allow
	case e.Decision.Allow:
		e.Changes = forbidding(e.Steps)
	default:
		e.Changes = permitting(e.Steps)
	}
	return e
}

// heard returns the policies that an explanation is made of: those that have
// their say, all of them if there is room, and then those that come nearest to
// it.
func (t *table) heard(in *Input) (heard []*Policy, all bool) {
	policies := slices.Concat(t.deny, t.allow, t.shadow)
	if len(policies) <= MaxSteps {
		return policies, true
	}
	order, distance := make([]int, len(policies)), make([]int, len(policies))
	for i, p := range policies {
		order[i], distance[i] = i, p.distance(in)
	}
	slices.SortStableFunc(order, func(i, j int) int { return distance[i] - distance[j] })
	all = distance[order[MaxSteps]] > 0
	slices.Sort(order[:MaxSteps])
	for _, i := range order[:MaxSteps] {
		heard = append(heard, policies[i])
	}
	return heard, all
}

// distance is how far in is from meeting p.
func (p *Policy) distance(in *Input) int {
	switch m, _ := p.evaluate(in); m {
	case missNothing, missError:
		return 0
	case missCondition:
		return 1
	}
	return 1 + p.misses(in).distance()
}

func (p *Policy) step(in *Input) Step {
	s := Step{Policy: p.key, Effect: p.effect, Shadow: p.shadow}
	switch m, err := p.evaluate(in); m {
	case missNothing:
		s.Matched = true
	case missPrincipal:
		s.Miss = MissPrincipal
	case missMethod:
		s.Miss = MissMethod
	case missPath:
		s.Miss = MissPath
	case missTime:
		s.Miss = MissTime
	case missCondition:
		s.Miss = MissCondition
	default:
		s.Miss, s.Detail = MissError, p.when.failure(err)
	}
	if p.grant != nil && s.Detail == "" {
		s.Detail = p.grant.state(in.Now) + ": " + p.note
	}
	s.Ways = p.formula(in).change(p.otherwise(s.speaks()))
	return s
}

// otherwise is what p has to come to for it to have its say, if it has not, or
// not to have it any more.
func (p *Policy) otherwise(speaks bool) outcomes {
	switch {
	case speaks && p.effect == Deny:
		return anyOf(False)
	case speaks:
		return anyOf(False, NoValue)
	case p.effect == Deny:
		return anyOf(True, NoValue)
	}
	return anyOf(True)
}

// permitting returns what would have allowed: every DENY that denies does not,
// and an ALLOW allows.
func permitting(steps []Step) []Change {
	always, ok := silencing(steps, Deny)
	if !ok {
		return nil
	}
	if slices.ContainsFunc(steps, func(s Step) bool { return s.Effect == Allow && !s.Shadow && s.speaks() }) {
		return []Change{always}
	}
	return voicing(steps, Allow, always)
}

// forbidding returns what would have denied: a DENY denies, or no ALLOW allows.
func forbidding(steps []Step) []Change {
	found := voicing(steps, Deny, nil)
	if silent, ok := silencing(steps, Allow); ok {
		found = append(found, silent)
	}
	return lightestChanges(found)
}

// silencing is the lightest change with which no policy of an effect has its say.
// It is false if there is no such change.
func silencing(steps []Step, effect Effect) (silent Change, ok bool) {
	for i := range steps {
		s := &steps[i]
		if s.Effect != effect || s.Shadow || !s.speaks() {
			continue
		}
		if len(s.Ways) == 0 || len(silent)+len(s.Ways[0]) > maxWay {
			return nil, false
		}
		silent = append(silent, s.flips(s.Ways[0])...)
	}
	return silent, true
}

// voicing returns the changes with which a policy of an effect has its say, on
// top of what has to be changed in any case.
func voicing(steps []Step, effect Effect, always Change) []Change {
	var found []Change
	for i := range steps {
		s := &steps[i]
		if s.Effect != effect || s.Shadow || s.speaks() {
			continue
		}
		for _, w := range s.Ways {
			if len(always)+len(w) <= maxWay {
				found = append(found, slices.Concat(always, s.flips(w)))
			}
		}
	}
	return lightestChanges(found)
}

func (s *Step) flips(w Way) Change {
	change := make(Change, 0, len(w))
	for _, c := range w {
		change = append(change, Flip{Policy: s.Policy, Clause: c})
	}
	return change
}

func lightestChanges(changes []Change) []Change {
	slices.SortStableFunc(changes, func(a, b Change) int { return a.weight() - b.weight() })
	return slices.Clip(changes[:min(len(changes), maxChanges)])
}

func (c Change) weight() (n int) {
	for _, f := range c {
		n += Way{f.Clause}.weight()
	}
	return n
}

// maxNearest bounds the search for the nearest miss, which runs on every
// denial for want of an ALLOW.
const maxNearest = 64

// nearest names the ALLOW that in misses by the least, and by what. Conditions
// are not evaluated again: where all else matches, it was the condition.
func (t *table) nearest(in *Input) string {
	considered := len(t.allow)
	if considered == 0 {
		return "no ALLOW policy is bound to this route"
	}
	var best *Policy
	var bestMisses misses
	for _, p := range t.allow[:min(considered, maxNearest)] {
		if m := p.misses(in); best == nil || m.distance() < bestMisses.distance() {
			best, bestMisses = p, m
		}
	}
	if considered == 1 {
		return "1 policy considered: " + best.key + " " + bestMisses.describe(in)
	}
	return fmt.Sprintf("%d policies considered, nearest: %s %s", considered, best.key, bestMisses.describe(in))
}

// misses are all parts but the condition that a policy misses.
type misses struct{ principal, method, path, time bool }

func (p *Policy) misses(in *Input) misses {
	return misses{
		principal: !p.principals.match(in.Principal),
		method:    !p.matchMethod(in.Method),
		path:      !p.matchPath(in.Path),
		time:      p.grant != nil && !p.grant.during(in.Now),
	}
}

// distance puts a policy for somebody else behind every policy that names the
// principal: the latter are more likely the one that was meant.
func (m misses) distance() int {
	n := count(m.method, m.path, m.time)
	if m.principal {
		n += 3
	}
	return n
}

func (m misses) describe(in *Input) string {
	var parts []string
	if m.principal {
		parts = append(parts, "does not name "+called(in.Principal))
	}
	if m.method {
		parts = append(parts, "does not include "+methodName(in.Method))
	}
	if m.path {
		parts = append(parts, "does not include this path")
	}
	if m.time {
		parts = append(parts, "is not in force at this time")
	}
	if len(parts) == 0 {
		return "has a condition that does not hold"
	}
	return strings.Join(parts, " and ")
}

func called(p *Principal) string {
	if p.kind() == Anonymous {
		return "anonymous callers"
	}
	return "this principal"
}

// methodName repeats a method only if it looks like one.
func methodName(method string) string {
	if !isMethod(method) {
		return "this method"
	}
	return "method " + method
}
