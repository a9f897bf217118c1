package policy

import (
	"errors"
	"net/textproto"
	"reflect"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/ext"
	"cel.dev/cel-go/interpreter"
)

// facts is an Input as a condition sees it. All variables resolve to the same
// pointer and their fields are read when a condition gets to them, so that
// nothing is built for an evaluation.
type facts Input

// ResolveName implements interpreter.Activation.
func (f *facts) ResolveName(name string) (any, bool) {
	switch name {
	case "principal", "request", "route", "signals":
		return f, true
	}
	return nil, false
}

// Parent implements interpreter.Activation.
func (f *facts) Parent() interpreter.Activation { return nil }

func (f *facts) principal() *Principal {
	if f.Principal == nil {
		return &Principal{}
	}
	return f.Principal
}

// object is the CEL type of a variable, or of a field of one.
type object struct {
	*cel.Type
	variable string // empty for a type of fields only
	fields   map[string]*types.FieldType
}

const objectPrefix = "sallyport."

func isObject(t *cel.Type) bool {
	return t.Kind() == types.StructKind && strings.HasPrefix(t.TypeName(), objectPrefix)
}

func objects() []*object {
	tls := newObject("TLS", "", fields{
		"version": text(func(f *facts) string { return f.TLSVersion }),
		"sni":     text(func(f *facts) string { return f.ServerName }),
		"alpn":    text(func(f *facts) string { return f.ALPN }),
	})
	return []*object{
		tls,
		newObject("Principal", "principal", fields{
			"kind":      text(func(f *facts) string { return f.principal().Kind.String() }),
			"id":        text(func(f *facts) string { return f.principal().ID }),
			"issuer":    text(func(f *facts) string { return f.principal().Issuer }),
			"spiffe_id": text(func(f *facts) string { return f.principal().SPIFFEID }),
			"scopes":    value(cel.ListType(cel.StringType), func(f *facts) any { return f.principal().Scopes }),
			"acr":       text(func(f *facts) string { return f.principal().ACR }),
			"amr":       value(cel.ListType(cel.StringType), func(f *facts) any { return f.principal().AMR }),
			"authenticated_at": {
				typ:   cel.TimestampType,
				known: func(f *facts) bool { return !f.principal().AuthenticatedAt.IsZero() },
				get:   authenticatedAt,
			},
			"groups": value(cel.ListType(cel.StringType), func(f *facts) any { return f.principal().Groups }),
			"claims": value(cel.MapType(cel.StringType, cel.DynType), func(f *facts) any { return f.principal().Claims }),
		}),
		newObject("Request", "request", fields{
			"method":  text(func(f *facts) string { return f.Method }),
			"host":    text(func(f *facts) string { return f.Host }),
			"path":    text(func(f *facts) string { return f.Path }),
			"query":   text(func(f *facts) string { return f.Query }),
			"headers": value(cel.MapType(cel.StringType, cel.StringType), func(f *facts) any { return headers(f.Header) }),
		}),
		newObject("Route", "route", fields{
			"namespace": text(func(f *facts) string { return f.Route.Namespace }),
			"name":      text(func(f *facts) string { return f.Route.Name }),
			"labels":    value(cel.MapType(cel.StringType, cel.StringType), func(f *facts) any { return f.RouteLabels }),
		}),
		newObject("Signals", "signals", fields{
			"ip":   {typ: ext.IPType, known: knowsIP, get: ip},
			"time": {typ: cel.TimestampType, known: knowsTime, get: now},
			"tls":  value(tls.Type, func(f *facts) any { return f }),
		}),
	}
}

// fields are the fields of an object by name.
type fields map[string]field

// field is read with get, unless known says that this Input does not have it.
type field struct {
	typ   *cel.Type
	known func(*facts) bool
	get   func(*facts) any
}

// text is a field that is always there; has() is true when it is not empty.
func text(get func(*facts) string) field {
	return field{
		typ:   cel.StringType,
		known: func(f *facts) bool { return get(f) != "" },
		get:   func(f *facts) any { return types.String(get(f)) },
	}
}

// value is a field that every Input has.
func value(t *cel.Type, get func(*facts) any) field {
	return field{typ: t, known: func(*facts) bool { return true }, get: get}
}

func knowsIP(f *facts) bool { return f.ClientIP.IsValid() }

// ip writes an IPv4 address in one way only: ::ffff:10.0.0.1 and a zone would
// slip past every CIDR range.
func ip(f *facts) any {
	if !knowsIP(f) {
		return nil
	}
	return ext.IP{Addr: f.ClientIP.Unmap().WithZone("")}
}

func knowsTime(f *facts) bool { return !f.Now.IsZero() }

func now(f *facts) any {
	if !knowsTime(f) {
		return nil
	}
	return types.Timestamp{Time: f.Now.UTC()}
}

func authenticatedAt(f *facts) any {
	if at := f.principal().AuthenticatedAt; !at.IsZero() {
		return types.Timestamp{Time: at.UTC()}
	}
	return nil
}

func newObject(name, variable string, ff fields) *object {
	o := &object{
		Type:     cel.ObjectType(objectPrefix + name),
		variable: variable,
		fields:   make(map[string]*types.FieldType, len(ff)),
	}
	for name, f := range ff {
		o.fields[name] = &types.FieldType{
			Type:  f.typ,
			IsSet: func(target any) bool { v, ok := target.(*facts); return ok && f.known(v) },
			GetFrom: func(target any) (any, error) {
				v, ok := target.(*facts)
				if !ok {
					return nil, errors.New("not a variable of a condition")
				}
				got := f.get(v)
				if got == nil {
					return nil, errors.New("not known of this request")
				}
				return got, nil
			},
		}
	}
	return o
}

// The methods below implement types.StructTypeDescriptor. Objects are neither
// made nor converted, as sense refuses every expression that would.

// ReflectType returns nil: no Go type stands for o.
func (o *object) ReflectType() reflect.Type { return nil }

// FieldNames returns the names in order.
func (o *object) FieldNames() []string {
	var names []string
	for name := range o.fields {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// FindFieldType returns the field of that name.
func (o *object) FindFieldType(name string) (*types.FieldType, bool) {
	f, ok := o.fields[name]
	return f, ok
}

// NewValue returns an error.
func (o *object) NewValue(types.Adapter, map[string]ref.Val) ref.Val {
	return types.NewErr("%s cannot be made in a condition", o.TypeName())
}

// Adapt returns an error.
func (o *object) Adapt(types.Adapter, any) ref.Val {
	return types.NewErr("%s has no value of its own", o.TypeName())
}

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
