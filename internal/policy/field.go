package policy

import (
	"net/netip"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"
)

// fields are the fields of an object by name.
type fields map[string]field

// field is one thing that conditions see. It is read in two ways: with get by
// CEL's library, which takes any, and with the one getter that is set by our
// own closures, which box nothing. The constructors below make both of one
// function, so that they cannot differ.
type field struct {
	typ   *cel.Type
	known func(*facts) bool        // what has() says
	get   func(*facts) (any, bool) // false: this Input does not have it
	of    *object                  // whose fields are read, for a field that has some
	getters
}

// getters has one function set, and those beside it that read the same, which says by its second result whether the
// Input has the field. An object has none, as its fields are read instead.
type getters struct {
	flag       func(*facts) (bool, bool)
	whole      func(*facts) (int64, bool)
	number     func(*facts) (float64, bool)
	text       func(*facts) (string, bool)
	always     func(*facts) string            // text, where that is always known
	moment     func(*facts) (time.Time, bool) // in UTC
	rawMoment  func(*facts) time.Time         // moment in any zone, zero if it is unknown
	span       func(*facts) (time.Duration, bool)
	address    func(*facts) (netip.Addr, bool)
	rawAddress func(*facts) netip.Addr // address in any form, zero if it is unknown
	texts      func(*facts) ([]string, bool)
	labels     func(*facts) (map[string]string, bool)
	document   func(*facts) (map[string]any, bool)
	header     func(*facts) (headers, bool)
}

// text is a string that is always there; has() is true when it is not empty.
func text(read func(*facts) string) field {
	f := knownText(func(v *facts) (string, bool) { return read(v), true })
	f.known = func(v *facts) bool { return read(v) != "" }
	f.always = read
	return f
}

// knownText is a string that may be unknown; an empty one is known.
func knownText(read func(*facts) (string, bool)) field {
	return newField(cel.StringType, read, func(v string) any { return types.String(v) }, getters{text: read})
}

func flag(read func(*facts) (bool, bool)) field {
	return newField(cel.BoolType, read, func(v bool) any { return types.Bool(v) }, getters{flag: read})
}

func whole(read func(*facts) (int64, bool)) field {
	return newField(cel.IntType, read, func(v int64) any { return types.Int(v) }, getters{whole: read})
}

func number(read func(*facts) (float64, bool)) field {
	return newField(cel.DoubleType, read, func(v float64) any { return types.Double(v) }, getters{number: read})
}

func span(read func(*facts) (time.Duration, bool)) field {
	return newField(cel.DurationType, read, func(v time.Duration) any { return types.Duration{Duration: v} }, getters{span: read})
}

// moment is a time, which is unknown when it is zero.
func moment(read func(*facts) time.Time) field {
	get := func(v *facts) (time.Time, bool) {
		at := read(v)
		return at.UTC(), !at.IsZero()
	}
	return newField(cel.TimestampType, get, func(v time.Time) any { return types.Timestamp{Time: v} }, getters{moment: get, rawMoment: read})
}

// address is an IP address, which is unknown when it is zero. An IPv4 address
// has one form only: ::ffff:10.0.0.1 and a zone would slip past every CIDR
// range.
func address(read func(*facts) netip.Addr) field {
	get := func(v *facts) (netip.Addr, bool) {
		a := read(v)
		return plainAddress(a), a.IsValid()
	}
	return newField(ext.IPType, get, func(v netip.Addr) any { return ext.IP{Addr: v} }, getters{address: get, rawAddress: read})
}

func plainAddress(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

func texts(read func(*facts) ([]string, bool)) field {
	return newField(cel.ListType(cel.StringType), read, anything[[]string], getters{texts: read})
}

func labels(read func(*facts) (map[string]string, bool)) field {
	return newField(cel.MapType(cel.StringType, cel.StringType), read, anything[map[string]string], getters{labels: read})
}

// document is a JSON object as encoding/json decodes it.
func document(read func(*facts) (map[string]any, bool)) field {
	return newField(cel.MapType(cel.StringType, cel.DynType), read, anything[map[string]any], getters{document: read})
}

func header(read func(*facts) headers) field {
	get := func(v *facts) (headers, bool) { return read(v), true }
	return newField(cel.MapType(cel.StringType, cel.StringType), get, anything[headers], getters{header: get})
}

// part is a field that has fields of its own.
func part(o *object) field {
	always := func(v *facts) (*facts, bool) { return v, true }
	f := newField(o.Type, always, anything[*facts], getters{})
	f.of = o
	return f
}

func anything[T any](v T) any { return v }

func newField[T any](t *cel.Type, read func(*facts) (T, bool), box func(T) any, typed getters) field {
	return field{
		typ:   t,
		known: func(f *facts) bool { _, known := read(f); return known },
		get: func(f *facts) (any, bool) {
			v, known := read(f)
			if !known {
				return nil, false
			}
			return box(v), true
		},
		getters: typed,
	}
}
