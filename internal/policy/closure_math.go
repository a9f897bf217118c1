package policy

import (
	"math"
	"time"
)

// The functions below have an overflow, and a division by zero, end in a fault
// at at, as CEL does. Other operands than theirs are left to the library.

func (c *closures) add(at fault, a, b code) code {
	switch {
	case a.whole != nil && b.whole != nil:
		return code{whole: pairOr(a.whole, b.whole, func(v, w int64) (int64, fault) { return addWhole(v, w, at) })}
	case a.number != nil && b.number != nil:
		return code{number: pairOr(a.number, b.number, func(v, w float64) (float64, fault) { return v + w, answered })}
	case a.text != nil && b.text != nil:
		most := c.sizes
		return code{text: pairOr(a.text, b.text, func(v, w string) (string, fault) { return most.admitText(v + w) })}
	case a.span != nil && b.span != nil:
		return code{span: pairOr(a.span, b.span, func(v, w time.Duration) (time.Duration, fault) { return addSpan(v, w, at) })}
	case a.moment != nil && b.span != nil:
		return code{moment: pairOr(a.moment, b.span, func(v time.Time, w time.Duration) (time.Time, fault) { return later(v, w, at) })}
	case a.span != nil && b.moment != nil:
		return code{moment: pairOr(a.span, b.moment, func(v time.Duration, w time.Time) (time.Time, fault) { return later(w, v, at) })}
	}
	return code{}
}

func subtract(at fault, a, b code) code {
	switch {
	case a.whole != nil && b.whole != nil:
		return code{whole: pairOr(a.whole, b.whole, func(v, w int64) (int64, fault) { return subtractWhole(v, w, at) })}
	case a.number != nil && b.number != nil:
		return code{number: pairOr(a.number, b.number, func(v, w float64) (float64, fault) { return v - w, answered })}
	case a.span != nil && b.span != nil:
		return code{span: pairOr(a.span, b.span, func(v, w time.Duration) (time.Duration, fault) {
			d, x := subtractWhole(int64(v), int64(w), at)
			return time.Duration(d), x
		})}
	case a.moment != nil && b.span != nil:
		return code{moment: pairOr(a.moment, b.span, func(v time.Time, w time.Duration) (time.Time, fault) {
			if w == math.MinInt64 {
				return time.Time{}, at
			}
			return later(v, -w, at)
		})}
	case a.moment != nil && b.moment != nil:
		return code{span: pairOr(a.moment, b.moment, between)}
	}
	return code{}
}

func multiply(at fault, a, b code) code {
	switch {
	case a.whole != nil && b.whole != nil:
		return code{whole: pairOr(a.whole, b.whole, func(v, w int64) (int64, fault) { return multiplyWhole(v, w, at) })}
	case a.number != nil && b.number != nil:
		return code{number: pairOr(a.number, b.number, func(v, w float64) (float64, fault) { return v * w, answered })}
	}
	return code{}
}

func divide(at fault, a, b code) code {
	switch {
	case a.whole != nil && b.whole != nil:
		return code{whole: pairOr(a.whole, b.whole, func(v, w int64) (int64, fault) {
			if w == 0 || v == math.MinInt64 && w == -1 {
				return 0, at
			}
			return v / w, answered
		})}
	case a.number != nil && b.number != nil:
		return code{number: pairOr(a.number, b.number, func(v, w float64) (float64, fault) { return v / w, answered })}
	}
	return code{}
}

func remainder(at fault, a, b code) code {
	if a.whole == nil || b.whole == nil {
		return code{}
	}
	return code{whole: pairOr(a.whole, b.whole, func(v, w int64) (int64, fault) {
		if w == 0 || v == math.MinInt64 && w == -1 {
			return 0, at
		}
		return v % w, answered
	})}
}

func negate(at fault, a code) code {
	switch {
	case a.whole != nil:
		return code{whole: func(f *facts, s *scope) (int64, fault) {
			v, x := a.whole(f, s)
			if x == answered && v == math.MinInt64 {
				x = at
			}
			return -v, x
		}}
	case a.number != nil:
		return code{number: func(f *facts, s *scope) (float64, fault) {
			v, x := a.number(f, s)
			return -v, x
		}}
	}
	return code{}
}

func addWhole(v, w int64, at fault) (int64, fault) {
	if sum := v + w; (sum > v) == (w > 0) {
		return sum, answered
	}
	return 0, at
}

func subtractWhole(v, w int64, at fault) (int64, fault) {
	if d := v - w; (d < v) == (w > 0) {
		return d, answered
	}
	return 0, at
}

func multiplyWhole(v, w int64, at fault) (int64, fault) {
	if v == 0 || w == 0 {
		return 0, answered
	}
	p := v * w
	if p/w != v || v == math.MinInt64 && w == -1 || w == math.MinInt64 && v == -1 {
		return 0, at
	}
	return p, answered
}

func addSpan(v, w time.Duration, at fault) (time.Duration, fault) {
	d, x := addWhole(int64(v), int64(w), at)
	return time.Duration(d), x
}

// The first and the last second that CEL has.
const (
	firstSecond = -62135596800
	lastSecond  = 253402300799
)

// later refuses times that CEL does not have. A Duration spans 292 years, so
// that Add does not overflow for those it has.
func later(v time.Time, w time.Duration, at fault) (time.Time, fault) {
	if s := v.Unix(); s < firstSecond || s > lastSecond {
		return time.Time{}, elsewhere
	}
	sum := v.Add(w)
	if s := sum.Unix(); s < firstSecond || s > lastSecond {
		return time.Time{}, at
	}
	return sum, answered
}

// between is v - w. Sub goes as far as it can where CEL fails, but may also
// have got there.
func between(v, w time.Time) (time.Duration, fault) {
	d := v.Sub(w)
	if d == math.MaxInt64 || d == math.MinInt64 {
		return 0, elsewhere
	}
	return d, answered
}

func toWhole(at fault, c code) code {
	number := c.number
	switch {
	case c.whole != nil:
		return code{whole: c.whole, literal: c.literal}
	case c.any != nil:
		return code{whole: wholeOf(toNumeral(c), at)}
	case c.moment != nil:
		return code{whole: func(f *facts, s *scope) (int64, fault) {
			v, x := c.moment(f, s)
			return v.Unix(), x
		}}
	}
	if number == nil {
		return code{}
	}
	return code{whole: wholeOf(convert(number, realNumeral), at)}
}

// wholeOf cuts off what is behind the point. Numbers beyond int64 have no value.
func wholeOf(number fn[numeral], at fault) fn[int64] {
	return func(f *facts, s *scope) (int64, fault) {
		v, x := number(f, s)
		switch {
		case x != answered:
			return 0, x
		case v.isWhole:
			return v.whole, answered
		case math.IsNaN(v.real) || v.real <= math.MinInt64 || v.real >= math.MaxInt64:
			return 0, at
		}
		return int64(v.real), answered
	}
}

func toNumber(c code) code {
	number := toNumeral(c)
	if number == nil {
		return code{}
	}
	return code{number: convert(number, func(n numeral) float64 { return n.real })}
}
