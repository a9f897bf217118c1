package policy

import (
	"net/netip"
	"slices"
	"time"
)

// term is an operand of && or ||. Those that most conditions are made of are
// evaluated without a call per node of the tree, and lie side by side in
// memory: a decision asks a hundred of them, most of which were last looked at
// long ago. The others are closures.
type term struct {
	kind  termKind
	order order
	sizes sizes
	at    fault // where a field or claim is missing

	// What is read, one of these.
	always   func(*facts) string
	address  func(*facts) (netip.Addr, bool)
	moment   func(*facts) (time.Time, bool)
	document func(*facts) (map[string]any, bool)
	flag     fn[bool]

	// What it is compared with.
	name    string // of the claim
	text    string
	number  float64
	texts   []string
	edge    time.Time
	network netip.Prefix
}

type termKind uint8

const (
	termFlag     termKind = iota
	termIs                // field == "text"
	termOneOf             // field in ["text", ...]
	termWithin            // cidr("network").containsIP(field)
	termMoment            // field < timestamp("edge")
	termClaimIs           // claims.name == "text"
	termClaimHas          // "text" in claims.name
	termClaim             // claims.name < number
)

func (t *term) holds(f *facts, s *scope) (bool, fault) {
	switch t.kind {
	case termIs, termOneOf:
		v := t.always(f)
		switch {
		case len(v) > int(t.sizes.text):
			return false, elsewhere
		case t.kind == termIs:
			return v == t.text, answered
		}
		return slices.Contains(t.texts, v), answered
	case termWithin:
		v, known := t.address(f)
		if !known {
			return false, t.at
		}
		return t.network.Contains(v), answered
	case termMoment:
		v, known := t.moment(f)
		if !known {
			return false, t.at
		}
		return t.order.holds(v.Compare(t.edge)), answered
	case termClaimIs, termClaimHas, termClaim:
		return t.claim(f)
	}
	return t.flag(f, s)
}

func (t *term) claim(f *facts) (bool, fault) {
	claims, known := t.document(f)
	switch {
	case !known:
		return false, t.at
	case len(claims) > int(t.sizes.items):
		return false, elsewhere
	}
	v, ok := claims[t.name]
	if !ok {
		return false, t.at
	}
	switch t.kind {
	case termClaim:
		number, ok := v.(float64)
		if !ok {
			return false, elsewhere
		}
		return t.order.numbers(number, t.number), answered
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
		t.at, t.name = field.at, field.name
		t.always, t.address, t.moment, t.document = field.get.always, field.get.address, field.get.moment, field.get.document
		out.term = &t
	}
	return out
}
