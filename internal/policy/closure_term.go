package policy

import (
	"net/netip"
	"time"
)

// term is an operand of && or ||. Those that most conditions are made of are
// evaluated without a call per node of the tree, and lie side by side in
// memory: a decision asks a hundred of them, most of which were last looked at
// long ago. The others are closures.
type term struct {
	kind  termKind
	order order
	source
	at   fault    // where a field or claim is missing
	flag fn[bool] // the same in closures

	// What it is compared with.
	text    string
	number  numeral
	texts   []string
	edge    time.Time
	until   time.Time
	network netip.Prefix
	policy  *Policy // a part of which it is, in a sheet
}

type termKind uint8

const (
	termFlag     termKind = iota
	termIs                // field == "text"
	termOneOf             // field in ["text", ...]
	termWithin            // cidr("network").containsIP(field)
	termMoment            // field < timestamp("edge")
	termWindow            // field >= timestamp("edge") && field < timestamp("until")
	termClaimIs           // claims.name == "text"
	termClaimHas          // "text" in claims.name
	termClaim             // claims.name < number

	// Parts of a policy, which are in sheets only.
	termPrincipals
	termMethods
	termPaths
	termGrant
)

func (t *term) holds(f *facts, s *scope) (bool, fault) {
	switch t.kind {
	case termIs, termOneOf:
		v := t.get.always(f)
		switch {
		case len(v) > int(t.sizes.text):
			return false, elsewhere
		case t.kind == termIs:
			return v == t.text, answered
		}
		return amongFew(t.texts, v), answered
	case termWithin:
		v := t.get.rawAddress(f)
		if !v.IsValid() {
			return false, t.at
		}
		return t.network.Contains(plainAddress(v)), answered
	case termMoment, termWindow:
		v := t.get.rawMoment(f)
		switch {
		case v.IsZero():
			return false, t.at
		case t.kind == termWindow:
			return !v.Before(t.edge) && v.Before(t.until), answered
		}
		return t.order.holds(v.Compare(t.edge)), answered
	case termClaimIs, termClaimHas, termClaim:
		return t.claim(f)
	}
	return t.flag(f, s)
}

// source is what a term reads.
type source struct {
	get   *getters // of the field
	name  string   // of the claim in it
	sizes sizes    // that may be
}

func (t *term) claim(f *facts) (bool, fault) {
	switch v, found := t.lookUp(f); found {
	case yes:
		return t.of(v)
	case noValue:
		return false, t.at
	}
	return false, elsewhere
}

// lookUp returns the claim. It is unclear whether there is one where there are
// too many.
func (s *source) lookUp(f *facts) (any, answer) {
	claims, known := s.get.document(f)
	if !known {
		return nil, noValue
	}
	if len(claims) > int(s.sizes.items) {
		return nil, unclear
	}
	v, ok := claims[s.name]
	if !ok {
		return nil, noValue
	}
	return v, yes
}

// of says whether t holds of the claim v.
func (t *term) of(v any) (bool, fault) {
	switch t.kind {
	case termClaim:
		number, ok := numeralOf(v)
		if !ok {
			return false, elsewhere
		}
		return t.order.numerals(number, t.number), answered
	case termClaimHas:
		list, ok := v.([]any)
		if !ok || len(list) > int(t.sizes.items) {
			return false, elsewhere
		}
		return textInAny(t.text, v)
	}
	v, x := t.sizes.admit(v)
	return is(v, t.text), x
}

// amongFew is slices.Contains, which calls for each text of the right length.
func amongFew(texts []string, v string) bool {
	for _, t := range texts {
		if len(t) == len(v) && (len(v) == 0 || t[len(v)-1] == v[len(v)-1] && t == v) {
			return true
		}
	}
	return false
}

// windows makes one term of two that are the beginning and the end of a window
// of the same field.
func windows(terms []term) []term {
	joined := terms[:0]
	for _, t := range terms {
		if n := len(joined); n > 0 && joined[n-1].opens(&t) {
			joined[n-1].kind, joined[n-1].until = termWindow, t.edge
			continue
		}
		joined = append(joined, t)
	}
	return joined
}

// opens reports whether t is the beginning of a window that end is the end of.
func (t *term) opens(end *term) bool {
	return t.kind == termMoment && end.kind == termMoment && t.get == end.get && t.order == greaterEqual && end.order == less
}

// termOf returns c as a term; it is nil if c is no condition.
func (c *closures) termOf(of code) *term {
	flag := flagOf(of)
	if flag == nil {
		return nil
	}
	t := &term{}
	if of.term != nil {
		*t = *of.term
	}
	t.flag, t.sizes = flag, c.sizes
	return t
}

// asTerm notes that out, which compares field with a literal, is t.
func asTerm(out, field code, t term) code {
	if out.flag != nil {
		t.at, t.name, t.get = field.at, field.name, field.get
		out.term = &t
	}
	return out
}
