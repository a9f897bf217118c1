package policy

import (
	"fmt"
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
	MissCondition Miss = "condition"
	MissError     Miss = "error" // the condition has no value
)

// Step is what one policy of the route had to say.
type Step struct {
	Policy  string // "namespace/name"
	Effect  Effect
	Matched bool
	Miss    Miss   // empty when Matched
	Detail  string // where a condition failed; as safe as Decision.Detail
}

// Explain says what every policy of in's route makes of in: DENY before ALLOW,
// each by name. It is empty when Decide does not ask policies at all. Unlike
// Decide it goes on after an answer is found, so it is for those who ask why.
func (s *Set) Explain(in *Input) []Step {
	t, _ := s.table(in)
	if t == nil {
		return nil
	}
	steps := make([]Step, 0, len(t.deny)+len(t.allow))
	for _, list := range [...][]*Policy{t.deny, t.allow} {
		for _, p := range list {
			steps = append(steps, p.step(in))
		}
	}
	return steps
}

func (p *Policy) step(in *Input) Step {
	s := Step{Policy: p.key, Effect: p.effect}
	switch m, err := p.evaluate(in); m {
	case missNothing:
		s.Matched = true
	case missPrincipal:
		s.Miss = MissPrincipal
	case missMethod:
		s.Miss = MissMethod
	case missPath:
		s.Miss = MissPath
	case missCondition:
		s.Miss = MissCondition
	default:
		s.Miss, s.Detail = MissError, p.when.failure(err)
	}
	return s
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
type misses struct{ principal, method, path bool }

func (p *Policy) misses(in *Input) misses {
	return misses{
		principal: !p.principals.match(in.Principal),
		method:    !p.matchMethod(in.Method),
		path:      !p.matchPath(in.Path),
	}
}

// distance puts a policy for somebody else behind every policy that names the
// principal: the latter are more likely the one that was meant.
func (m misses) distance() int {
	n := count(m.method, m.path)
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
