package policy

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
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

var nobody = &Principal{}

func (f *facts) principal() *Principal {
	if f.Principal == nil {
		return nobody
	}
	return f.Principal
}

// object is the CEL type of a variable, or of a field of one.
type object struct {
	*cel.Type
	variable string // empty for a type of fields only
	fields   map[string]*types.FieldType
	typed    map[string]*field // the same ones, as closures read them
}

const objectPrefix = "sallyport."

func isObject(t *cel.Type) bool {
	return t.Kind() == types.StructKind && strings.HasPrefix(t.TypeName(), objectPrefix)
}

// objects are what conditions see. A new field is one line here, and works in
// the closures and in CEL's library alike.
func objects() []*object {
	tls := newObject("TLS", "", fields{
		"version": text(func(f *facts) string { return f.TLSVersion }),
		"sni":     text(func(f *facts) string { return f.ServerName }),
		"alpn":    text(func(f *facts) string { return f.ALPN }),
	})
	device, geo := newObject("Device", "", deviceFields()), newObject("Geo", "", geo())
	denials := newObject("Denials", "", denials())
	return []*object{
		tls,
		device,
		geo,
		denials,
		newObject("Principal", "principal", fields{
			"kind":             text(func(f *facts) string { return f.principal().Kind.String() }),
			"id":               text(func(f *facts) string { return f.principal().ID }),
			"issuer":           text(func(f *facts) string { return f.principal().Issuer }),
			"spiffe_id":        text(func(f *facts) string { return f.principal().SPIFFEID }),
			"scopes":           texts(func(f *facts) ([]string, bool) { return f.principal().Scopes, true }),
			"acr":              text(func(f *facts) string { return f.principal().ACR }),
			"amr":              texts(func(f *facts) ([]string, bool) { return f.principal().AMR, true }),
			"authenticated_at": moment(func(f *facts) time.Time { return f.principal().AuthenticatedAt }),
			"groups":           texts(func(f *facts) ([]string, bool) { return f.principal().Groups, true }),
			"claims":           document(func(f *facts) (map[string]any, bool) { return f.principal().Claims, true }),
		}),
		newObject("Request", "request", fields{
			"method":      text(func(f *facts) string { return f.Method }),
			"host":        text(func(f *facts) string { return f.Host }),
			"path":        text(func(f *facts) string { return f.Path }),
			"query":       text(func(f *facts) string { return f.Query }),
			"params":      labels((*facts).params),
			"path_params": labels((*facts).pathParams),
			"headers":     header(func(f *facts) headers { return headers(f.Header) }),
		}),
		newObject("Route", "route", fields{
			"namespace": text(func(f *facts) string { return f.Route.Namespace }),
			"name":      text(func(f *facts) string { return f.Route.Name }),
			"labels":    labels(func(f *facts) (map[string]string, bool) { return f.RouteLabels, true }),
		}),
		newObject("Signals", "signals", fields{
			"ip":   address(func(f *facts) netip.Addr { return f.ClientIP }),
			"geo":  part(geo),
			"time": moment(func(f *facts) time.Time { return f.Now }),
			"tls":  part(tls),

			"device":  devicePart(device),
			"denials": part(denials),

			"configuration_age": age(func(a *Ages) Age { return a.Configuration }),
			"security_age":      age(func(a *Ages) Age { return a.Security }),
		}),
	}
}

func newObject(name, variable string, ff fields) *object {
	o := &object{
		Type:     cel.ObjectType(objectPrefix + name),
		variable: variable,
		fields:   make(map[string]*types.FieldType, len(ff)),
		typed:    make(map[string]*field, len(ff)),
	}
	for name, f := range ff {
		o.add(name, f)
	}
	return o
}

func (o *object) add(name string, f field) {
	o.typed[name] = &f
	o.fields[name] = &types.FieldType{
		Type:  f.typ,
		IsSet: func(target any) bool { v, ok := target.(*facts); return ok && f.known(v) },
		GetFrom: func(target any) (any, error) {
			v, ok := target.(*facts)
			if !ok {
				return nil, errors.New("not a variable of a condition")
			}
			got, ok := f.get(v)
			if !ok {
				return nil, errors.New("not known of this request")
			}
			return got, nil
		},
	}
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
