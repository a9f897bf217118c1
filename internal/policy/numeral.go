package policy

// numeral is a number of JSON. Tokens have whole ones that are int64s as such,
// and all else as float64s; CEL compares two whole ones exactly, and others as
// float64s.
type numeral struct {
	real    float64 // of a whole one, too
	whole   int64
	isWhole bool
}

func wholeNumeral(v int64) numeral  { return numeral{real: float64(v), whole: v, isWhole: true} }
func realNumeral(v float64) numeral { return numeral{real: v} }

// numeralOf returns v as a number, if it is one.
func numeralOf(v any) (numeral, bool) {
	switch v := v.(type) {
	case float64:
		return realNumeral(v), true
	case int64:
		return wholeNumeral(v), true
	}
	return numeral{}, false
}

func (n numeral) equal(m numeral) bool {
	if n.isWhole && m.isWhole {
		return n.whole == m.whole
	}
	return n.real == m.real
}

// numerals is what o says of two numbers: nothing holds of a NaN.
func (o order) numerals(v, w numeral) bool {
	if v.isWhole && w.isWhole {
		return orderOf[int64](o)(v.whole, w.whole)
	}
	return o.numbers(v.real, w.real)
}

// toNumeral compiles what is a number, or may turn out to be one.
func toNumeral(c code) fn[numeral] {
	switch {
	case c.any != nil:
		return func(f *facts, s *scope) (numeral, fault) {
			v, x := c.any(f, s)
			n, ok := numeralOf(v)
			if x == answered && !ok {
				x = elsewhere
			}
			return n, x
		}
	case c.whole != nil:
		return convert(c.whole, wholeNumeral)
	case c.number != nil:
		return convert(c.number, realNumeral)
	}
	return nil
}

func convert[A, B any](of fn[A], to func(A) B) fn[B] {
	return func(f *facts, s *scope) (B, fault) {
		v, x := of(f, s)
		return to(v), x
	}
}

// isNumeral reports whether v is the number w.
func isNumeral(v any, w numeral) bool {
	n, ok := numeralOf(v)
	return ok && n.equal(w)
}
