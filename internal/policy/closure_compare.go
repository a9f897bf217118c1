package policy

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// pair evaluates a and b, in this order, and has of say what is true of them.
func pair[A, B any](a fn[A], b fn[B], of func(A, B) bool) fn[bool] {
	return func(f *facts, s *scope) (bool, fault) {
		v, x := a(f, s)
		if x != answered {
			return false, x
		}
		w, x := b(f, s)
		if x != answered {
			return false, x
		}
		return of(v, w), answered
	}
}

// pairOr is pair where there may be no answer.
func pairOr[A, B, C any](a fn[A], b fn[B], of func(A, B) (C, fault)) fn[C] {
	return func(f *facts, s *scope) (C, fault) {
		var none C
		v, x := a(f, s)
		if x != answered {
			return none, x
		}
		w, x := b(f, s)
		if x != answered {
			return none, x
		}
		return of(v, w)
	}
}

func same[T comparable](v, w T) bool { return v == w }

// equal compiles ==. Values of unlike types are unequal, numbers aside.
func equal(a, b code) code {
	switch {
	case a.any != nil || b.any != nil:
		return equalAny(a, b)
	case a.text != nil && b.text != nil:
		return equalText(a, b)
	case a.whole != nil && b.whole != nil:
		return code{flag: pair(a.whole, b.whole, same[int64])}
	case a.number != nil && b.number != nil:
		return code{flag: pair(a.number, b.number, same[float64])}
	case a.flag != nil && b.flag != nil:
		return code{flag: pair(a.flag, b.flag, same[bool])}
	case a.moment != nil && b.moment != nil:
		return code{flag: pair(a.moment, b.moment, time.Time.Equal)}
	case a.span != nil && b.span != nil:
		return code{flag: pair(a.span, b.span, same[time.Duration])}
	case a.address != nil && b.address != nil:
		return code{flag: pair(a.address, b.address, same[netip.Addr])}
	case a.texts != nil && b.texts != nil:
		return code{flag: pair(a.texts, b.texts, slices.Equal[[]string])}
	}
	return code{}
}

func equalText(a, b code) code {
	if _, known := a.literal.(string); known {
		a, b = b, a
	}
	want, known := b.literal.(string)
	if !known {
		return code{flag: pair(a.text, b.text, same[string])}
	}
	text := a.text
	out := code{flag: func(f *facts, s *scope) (bool, fault) {
		v, x := text(f, s)
		return x == answered && v == want, x
	}}
	if a.reads().always == nil {
		return out
	}
	return asTerm(out, a, term{kind: termIs, text: want})
}

// equalAny compiles == where the type of one side is known at evaluation only.
func equalAny(a, b code) code {
	known := a
	if a.any != nil {
		known = b
	}
	switch {
	case known.null:
		if a.any == nil {
			a = b
		}
		return code{flag: isNull(a.any)}
	case known.any != nil:
		return code{flag: pairOr(a.any, b.any, sameJSON)}
	case known.text != nil:
		out := code{flag: equalTo(a.any, a.text, b.any, b.text)}
		if text, literal := known.literal.(string); literal && a.any != nil && a.reads().document != nil && a.name != "" {
			return asTerm(out, a, term{kind: termClaimIs, text: text})
		}
		return out
	case known.flag != nil:
		return code{flag: equalTo(a.any, a.flag, b.any, b.flag)}
	case toNumeral(known) != nil:
		if a.any != nil {
			return code{flag: pair(a.any, toNumeral(b), isNumeral)}
		}
		return code{flag: pair(toNumeral(a), b.any, func(v numeral, w any) bool { return isNumeral(w, v) })}
	}
	return code{}
}

// equalTo compares a T with what may be one, on either side.
func equalTo[T comparable](a fn[any], typedA fn[T], b fn[any], typedB fn[T]) fn[bool] {
	if a != nil {
		return pair(a, typedB, is[T])
	}
	return pair(typedA, b, func(v T, w any) bool { return is(w, v) })
}

// is reports whether v is the T w.
func is[T comparable](v any, w T) bool {
	t, ok := v.(T)
	return ok && t == w
}

func isNull(of fn[any]) fn[bool] {
	return func(f *facts, s *scope) (bool, fault) {
		v, x := of(f, s)
		return x == answered && v == nil, x
	}
}

// widen returns a whole number as CEL compares it with others: a float64 that
// is no int64 is beyond all of them, and so is it beyond their float64s.
func widen(c code) fn[float64] {
	if c.number != nil || c.whole == nil {
		return c.number
	}
	whole := c.whole
	return func(f *facts, s *scope) (float64, fault) {
		v, x := whole(f, s)
		return float64(v), x
	}
}

// sameJSON leaves lists and objects to CEL's library.
func sameJSON(v, w any) (bool, fault) {
	switch w.(type) {
	case nil, bool, float64, int64, string:
	default:
		return false, elsewhere
	}
	switch v := v.(type) {
	case nil:
		return w == nil, answered
	case bool:
		return is(w, v), answered
	case float64:
		return isNumeral(w, realNumeral(v)), answered
	case int64:
		return isNumeral(w, wholeNumeral(v)), answered
	case string:
		return is(w, v), answered
	}
	return false, elsewhere
}

// order is one of < <= > >=.
type order uint8

const (
	less order = iota
	lessEqual
	greater
	greaterEqual
)

// holds is what o says of a value that compares so with another.
func (o order) holds(compared int) bool {
	switch o {
	case less:
		return compared < 0
	case lessEqual:
		return compared <= 0
	case greater:
		return compared > 0
	}
	return compared >= 0
}

// orderOf returns o for a type that Go orders as CEL does: nothing holds of a
// NaN.
func orderOf[T int64 | string | time.Duration | float64](o order) func(T, T) bool {
	switch o {
	case less:
		return func(v, w T) bool { return v < w }
	case lessEqual:
		return func(v, w T) bool { return v <= w }
	case greater:
		return func(v, w T) bool { return v > w }
	}
	return func(v, w T) bool { return v >= w }
}

func compared(o order, a, b code) code {
	switch {
	case a.any != nil || b.any != nil:
		return comparedAny(o, a, b)
	case a.text != nil && b.text != nil:
		return code{flag: pair(a.text, b.text, orderOf[string](o))}
	case a.whole != nil && b.whole != nil:
		return code{flag: pair(a.whole, b.whole, orderOf[int64](o))}
	case widen(a) != nil && widen(b) != nil:
		return code{flag: pair(widen(a), widen(b), orderOf[float64](o))}
	case a.span != nil && b.span != nil:
		return code{flag: pair(a.span, b.span, orderOf[time.Duration](o))}
	case a.moment != nil && b.moment != nil:
		return comparedMoments(o, a, b)
	}
	return code{}
}

func comparedMoments(o order, a, b code) code {
	out := code{flag: pair(a.moment, b.moment, func(v, w time.Time) bool { return o.holds(v.Compare(w)) })}
	if edge, known := b.literal.(time.Time); known && a.reads().rawMoment != nil {
		return asTerm(out, a, term{kind: termMoment, order: o, edge: edge})
	}
	return out
}

// comparedAny compares what is a number or a text at evaluation. CEL's own
// error for anything else is left to the library.
func comparedAny(o order, a, b code) code {
	texts := orderOf[string](o)
	switch {
	case a.any != nil && b.any != nil:
		return code{flag: pairOr(a.any, b.any, o.ofAny)}
	case a.text != nil || b.text != nil:
		return code{flag: pair(textOf(a), textOf(b), texts)}
	case toNumeral(a) == nil || toNumeral(b) == nil:
		return code{}
	}
	out := code{flag: pair(toNumeral(a), toNumeral(b), o.numerals)}
	if a.reads().document != nil && a.name != "" && b.literal != nil {
		edge, _ := toNumeral(b)(nil, nil)
		return asTerm(out, a, term{kind: termClaim, order: o, number: edge})
	}
	return out
}

func (o order) ofAny(v, w any) (bool, fault) {
	number, ok := numeralOf(v)
	if other, too := numeralOf(w); ok && too {
		return o.numerals(number, other), answered
	}
	text, ok := v.(string)
	if other, too := w.(string); ok && too {
		return o.holds(strings.Compare(text, other)), answered
	}
	return false, elsewhere
}

func (o order) numbers(v, w float64) bool {
	switch o {
	case less:
		return v < w
	case lessEqual:
		return v <= w
	case greater:
		return v > w
	}
	return v >= w
}
