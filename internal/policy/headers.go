package policy

import (
	"net/textproto"
	"reflect"
	"strings"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// headers are header fields as a map from lower-case name to first value.
// Names are looked up in any case (RFC 9110, section 5.1).
type headers map[string][]string

func (h headers) first(name string) (string, bool) {
	values := h[textproto.CanonicalMIMEHeaderKey(name)]
	if len(values) == 0 {
		return "", false
	}
	return values[0], true
}

// plain is h built out, for what needs all of it.
func (h headers) plain() traits.Mapper {
	m := make(map[string]string, len(h))
	for name, values := range h {
		if len(values) > 0 {
			m[strings.ToLower(name)] = values[0]
		}
	}
	return types.NewStringStringMap(types.DefaultTypeAdapter, m)
}

// FindStringKey is the look-up that CEL uses for a literal key.
func (h headers) FindStringKey(name string) (any, bool) {
	v, ok := h.first(name)
	return types.String(v), ok
}

// Find implements traits.Mapper.
func (h headers) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(key), false
	}
	v, ok := h.first(string(name))
	if !ok {
		return nil, false
	}
	return types.String(v), true
}

// Contains implements traits.Container.
func (h headers) Contains(key ref.Val) ref.Val {
	v, ok := h.Find(key)
	if v != nil && types.IsUnknownOrError(v) {
		return v
	}
	return types.Bool(ok)
}

// Get implements traits.Indexer.
func (h headers) Get(key ref.Val) ref.Val {
	v, ok := h.Find(key)
	switch {
	case ok:
		return v
	case v != nil:
		return v
	}
	return types.NewErr("no such header")
}

// Size implements traits.Sizer.
func (h headers) Size() ref.Val { return types.Int(len(h)) }

// Iterator implements traits.Iterable.
func (h headers) Iterator() traits.Iterator { return h.plain().Iterator() }

// Equal implements ref.Val.
func (h headers) Equal(other ref.Val) ref.Val { return h.plain().Equal(other) }

// Type implements ref.Val.
func (h headers) Type() ref.Type { return types.MapType }

// Value implements ref.Val.
func (h headers) Value() any { return h.plain().Value() }

// ConvertToNative implements ref.Val.
func (h headers) ConvertToNative(t reflect.Type) (any, error) { return h.plain().ConvertToNative(t) }

// ConvertToType implements ref.Val.
func (h headers) ConvertToType(t ref.Type) ref.Val { return h.plain().ConvertToType(t) }
