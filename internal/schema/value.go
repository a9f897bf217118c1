package schema

import (
	"cmp"
	"encoding/json"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// A value of JSON is nil, bool, string, json.Number, []any or *object.

// object is a JSON object, whose members keep the order in which they were sent.
type object struct {
	members []member
	index   map[string]int // of many members; nil for few, which are looked through
}

type member struct {
	name  string
	value any
}

// usualMembers is how many there is place for as the first one comes.
const usualMembers = 6

// fewMembers are looked through faster than they are hashed.
const fewMembers = 12

// find returns the place of a member, -1 if there is none.
func (o *object) find(name string) int {
	if o.index != nil {
		if i, ok := o.index[name]; ok {
			return i
		}
		return -1
	}
	for i := range o.members {
		if o.members[i].name == name {
			return i
		}
	}
	return -1
}

// add appends a member, and reports whether there was none of that name.
func (o *object) add(name string, value any) bool {
	if o.find(name) >= 0 {
		return false
	}
	if o.members == nil {
		o.members = make([]member, 0, usualMembers)
	}
	o.members = append(o.members, member{name, value})
	switch n := len(o.members); {
	case o.index != nil:
		o.index[name] = n - 1
	case n > fewMembers:
		o.index = make(map[string]int, 2*n)
		for i, m := range o.members {
			o.index[m.name] = i
		}
	}
	return true
}

// plain returns v with maps for objects, as encoding/json makes them.
func plain(v any) any {
	switch v := v.(type) {
	case *object:
		m := make(map[string]any, len(v.members))
		for _, e := range v.members {
			m[e.name] = plain(e.value)
		}
		return m
	case []any:
		list := make([]any, len(v))
		for i, e := range v {
			list[i] = plain(e)
		}
		return list
	}
	return v
}

// equal reports whether a value is one of a schema, which has maps for objects.
func equal(v, want any) bool {
	switch v := v.(type) {
	case nil:
		return want == nil
	case bool:
		w, ok := want.(bool)
		return ok && v == w
	case string:
		w, ok := want.(string)
		return ok && v == w
	case json.Number:
		w, ok := want.(json.Number)
		return ok && (v == w || canonicalNumber(v) == canonicalNumber(w))
	}
	switch want.(type) {
	case []any, map[string]any:
		return string(canonical(nil, v)) == string(canonical(nil, want))
	}
	return false
}

// canonical appends a text that equal values share, and no others.
func canonical(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case bool:
		return strconv.AppendBool(b, v)
	case string:
		return strconv.AppendQuote(b, v)
	case json.Number:
		return append(b, canonicalNumber(v)...)
	case []any:
		b = append(b, '[')
		for _, e := range v {
			b = append(canonical(b, e), ',')
		}
		return append(b, ']')
	case *object:
		return canonicalMembers(b, v.members)
	case map[string]any:
		members := make([]member, 0, len(v))
		for name, value := range v {
			members = append(members, member{name, value})
		}
		return canonicalMembers(b, members)
	}
	return b
}

func canonicalMembers(b []byte, members []member) []byte {
	sorted := slices.SortedFunc(slices.Values(members), func(x, y member) int { return cmp.Compare(x.name, y.name) })
	b = append(b, '{')
	for _, m := range sorted {
		b = append(strconv.AppendQuote(b, m.name), ':')
		b = append(canonical(b, m.value), ',')
	}
	return append(b, '}')
}

// canonicalNumber is the same text for 1, 1.0 and 1e0.
func canonicalNumber(n json.Number) string {
	if isShortInteger(n) && n != "-0" {
		return string(n)
	}
	return rational(n).RatString()
}

// isShortInteger reports whether n is written as an integer that fits into an int64.
func isShortInteger(n json.Number) bool {
	const digits = 18 // that are always in range
	if len(n) > digits {
		return false
	}
	for i := range len(n) {
		if c := n[i]; !isDigit(c) && c != '-' {
			return false
		}
	}
	return true
}

// rational is exact. The bounds of numbers keep it small.
func rational(n json.Number) *big.Rat {
	r, ok := new(big.Rat).SetString(string(n))
	if !ok {
		return new(big.Rat) // no json.Number that was read here
	}
	return r
}

func isInteger(n json.Number) bool { return isShortInteger(n) || rational(n).IsInt() }

// compare compares a number with one of a schema.
func compare(n json.Number, with *big.Rat) int {
	if with.IsInt() && with.Num().IsInt64() {
		if c, ok := compareInteger(string(n), with.Num().Int64()); ok {
			return c
		}
	}
	return rational(n).Cmp(with)
}

// compareInteger compares a short number without exponent with an integer, exactly
// and without an allocation.
func compareInteger(n string, with int64) (c int, ok bool) {
	whole, fraction, _ := strings.Cut(n, ".")
	i, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || strings.ContainsAny(fraction, "eE") {
		return 0, false
	}
	switch {
	case i != with:
		return cmp.Compare(i, with), true // less than one cannot change it
	case strings.Trim(fraction, "0") == "":
		return 0, true
	case n[0] == '-':
		return -1, true
	}
	return 1, true
}
