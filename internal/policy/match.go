package policy

import "slices"

// miss is the part of a policy that a request does not match. The zero miss is
// no answer, so that it cannot pass for a match.
type miss uint8

const (
	missUnknown miss = iota
	missNothing      // every part matches
	missPrincipal
	missMethod
	missPath
	missTime
	missCondition
	missError // the condition has no value; the error says why
)

// evaluate returns the first part of p that in misses. The index has matched
// the method already, but p's word is asked again: that costs a nanosecond,
// and an index gone wrong cannot widen access.
func (p *Policy) evaluate(in *Input) (miss, error) {
	switch {
	case !p.principals.match(in.Principal):
		return missPrincipal, nil
	case !p.matchMethod(in.Method):
		return missMethod, nil
	case !p.matchPath(in.Path):
		return missPath, nil
	case p.grant != nil && !p.grant.during(in.Now):
		return missTime, nil
	case p.when == nil:
		return missNothing, nil
	}
	switch holds, err := p.when.holds(in); {
	case err != nil:
		return missError, err
	case !holds:
		return missCondition, nil
	}
	return missNothing, nil
}

func (p *Policy) matchMethod(method string) bool {
	return len(p.methods) == 0 || slices.Contains(p.methods, method)
}

func (p *Policy) matchPath(path string) bool {
	if len(p.paths) == 0 {
		return true
	}
	for i := range p.paths {
		if p.paths[i].Match(path) {
			return true
		}
	}
	return false
}
