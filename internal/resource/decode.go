package resource

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// APIVersion is the apiVersion of the resources that this build knows.
const APIVersion = "sallyport/v1"

// Decode reads a resource strictly and finds everything that is wrong with it
// alone, whatever else there is in the fleet; conditions are for package policy
// to compile. When there are problems, Parsed is what could be read. Decode
// keeps no part of r.
//
// Fields are taken by their JSON and by their proto names, words of enums with
// or without their prefix, durations as "30s" or "24h", times as RFC 3339 writes
// them. Unlike in the JSON form of Protocol Buffers null is no value.
func Decode(r *adminv1.Resource) (Parsed, Problems) {
	kind := Kind(r.GetKind())
	d := decoder{}
	p := Parsed{
		Key:    Key{Kind: kind, Namespace: r.GetMetadata().GetNamespace(), Name: r.GetMetadata().GetName()},
		Labels: maps.Clone(r.GetMetadata().GetLabels()),
		Spec:   kind.newSpec(),
	}
	d.resource = shown(p.Key)
	d.envelope(r)
	if p.Spec == nil {
		return p, d.problems
	}
	d.key(p.Key)
	d.labels(atMetadata().to("labels"), p.Labels)
	d.message(atSpec(), r.GetSpec(), p.Spec.ProtoReflect())
	d.rules(p.Spec)
	d.sense(p.Spec)
	d.reachable(p.Spec)
	if d.problems.Total == 0 {
		d.size(p)
	}
	return p, d.problems
}

// The places that every resource has.
func atMetadata() *place { return (*place)(nil).to("metadata") }
func atSpec() *place     { return (*place)(nil).to("spec") }

// shown is the key as problems show it, which may be anything so far.
func shown(k Key) string {
	return Key{Kind: Kind(shorten(string(k.Kind))), Namespace: shorten(k.Namespace), Name: shorten(k.Name)}.String()
}

// decoder reads one resource and gathers its problems.
type decoder struct {
	resource string
	problems Problems
}

func (d *decoder) refuse(at *place, reason, format string, args ...any) {
	d.refuseText(at.String(), reason, fmt.Sprintf(format, args...))
}

func (d *decoder) refuseText(field, reason, message string) {
	d.problems.Add(Problem{Resource: d.resource, Field: field, Reason: reason, Message: message})
}

// follow refuses field for what may only follow from a problem that is known:
// one of the field, of a place inside it, or of one that it is in.
func (d *decoder) follow(field, reason, message string) {
	for _, p := range d.problems.Kept {
		if within(p.Field, field) || within(field, p.Field) {
			return
		}
	}
	d.refuseText(field, reason, message)
}

func (d *decoder) envelope(r *adminv1.Resource) {
	at := (*place)(nil)
	switch {
	case r.GetApiVersion() == "":
		d.refuse(at.to("apiVersion"), ReasonRequired, "say %s", APIVersion)
	case r.GetApiVersion() != APIVersion:
		d.refuse(at.to("apiVersion"), ReasonInvalidValue, "%s is not known here: say %s", quote(r.GetApiVersion()), APIVersion)
	}
	switch kind := Kind(r.GetKind()); {
	case kind == "":
		d.refuse(at.to("kind"), ReasonRequired, "say what it is: %s", words(Kinds()))
	case kind.newSpec() == nil:
		d.refuse(at.to("kind"), ReasonUnknownKind, "%s is none of %s", quote(r.GetKind()), words(Kinds()))
	}
	if len(r.ProtoReflect().GetUnknown()) > 0 {
		d.refuse(at, ReasonUnknownField, "has a field that this build does not know")
	}
	if r.GetMetadata() != nil && len(r.GetMetadata().ProtoReflect().GetUnknown()) > 0 {
		d.refuse(atMetadata(), ReasonUnknownField, "has a field that this build does not know")
	}
}

func (d *decoder) key(k Key) {
	if k.Name == "" {
		d.refuse(atMetadata().to("name"), ReasonRequired, "say how it is called")
	} else {
		d.checked(atMetadata().to("name"), k.Name, checkDNSLabel)
	}
	switch namespace := atMetadata().to("namespace"); {
	case !k.Kind.Namespaced():
		if k.Namespace != "" {
			d.refuse(namespace, ReasonInvalidValue, "a resource of kind %s belongs to no namespace", k.Kind)
		}
	case k.Namespace == "":
		d.refuse(namespace, ReasonRequired, "say who owns it")
	default:
		d.checked(namespace, k.Namespace, checkDNSLabel)
	}
}

// message reads s into m.
func (d *decoder) message(at *place, s *structpb.Struct, m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	given := map[protoreflect.FieldNumber]string{}
	for _, name := range slices.Sorted(maps.Keys(s.GetFields())) {
		f := fields.ByJSONName(name)
		if f == nil {
			f = fields.ByName(protoreflect.Name(name))
		}
		if f == nil {
			d.refuse(at.to(name), ReasonUnknownField, "%s is no field of %s", quote(name), m.Descriptor().Name())
			continue
		}
		if other, twice := given[f.Number()]; twice {
			d.refuse(at.to(f.JSONName()), ReasonDuplicateField, "is given as %s and as %s", other, name)
			continue
		}
		given[f.Number()] = name
		if o := f.ContainingOneof(); o != nil && m.WhichOneof(o) != nil {
			d.refuse(at.to(f.JSONName()), ReasonConflictingFields, "give it or %s, not both", m.WhichOneof(o).JSONName())
			continue
		}
		d.field(at.to(f.JSONName()), s.GetFields()[name], m, f)
	}
}

// field reads v into the field f of m.
func (d *decoder) field(at *place, v *structpb.Value, m protoreflect.Message, f protoreflect.FieldDescriptor) {
	switch {
	case f.IsMap():
		entries, ok := v.GetKind().(*structpb.Value_StructValue)
		if !ok {
			d.mistyped(at, v, "a mapping")
			return
		}
		for _, key := range slices.Sorted(maps.Keys(entries.StructValue.GetFields())) {
			value := m.NewField(f).Map().NewValue()
			if value, ok := d.value(at.entry(key), entries.StructValue.GetFields()[key], f.MapValue(), value); ok {
				m.Mutable(f).Map().Set(protoreflect.ValueOfString(key).MapKey(), value)
			}
		}
	case f.IsList():
		elements, ok := v.GetKind().(*structpb.Value_ListValue)
		if !ok {
			d.mistyped(at, v, "a list")
			return
		}
		list := m.NewField(f).List()
		for i, element := range elements.ListValue.GetValues() {
			// What cannot be read keeps its place, so that later problems name
			// the elements behind it by their own.
			value, _ := d.value(at.element(i), element, f, list.NewElement())
			list.Append(value)
		}
		m.Set(f, protoreflect.ValueOfList(list))
	default:
		if value, ok := d.value(at, v, f, m.NewField(f)); ok {
			m.Set(f, value)
		}
	}
}

// value reads v, a value of field f alone, an element of its list or a value of
// its map. It starts from empty and returns it when v is of another type.
func (d *decoder) value(at *place, v *structpb.Value, f protoreflect.FieldDescriptor, empty protoreflect.Value) (_ protoreflect.Value, ok bool) {
	switch f.Kind() {
	case protoreflect.StringKind:
		if text, ok := v.GetKind().(*structpb.Value_StringValue); ok {
			return protoreflect.ValueOfString(text.StringValue), true
		}
		d.mistyped(at, v, "text")
	case protoreflect.BoolKind:
		if b, ok := v.GetKind().(*structpb.Value_BoolValue); ok {
			return protoreflect.ValueOfBool(b.BoolValue), true
		}
		d.mistyped(at, v, "true or false")
	case protoreflect.Uint32Kind:
		return d.count(at, v, empty)
	case protoreflect.EnumKind:
		return d.enum(at, v, f.Enum(), empty)
	case protoreflect.MessageKind:
		return d.nested(at, v, empty)
	default:
		// A test sees to it that the schema has no field of another kind.
		d.refuse(at, ReasonUnknownField, "is of a type that this build cannot read")
	}
	return empty, false
}

// count takes whole numbers that are not negative.
func (d *decoder) count(at *place, v *structpb.Value, empty protoreflect.Value) (protoreflect.Value, bool) {
	n, ok := v.GetKind().(*structpb.Value_NumberValue)
	if !ok || n.NumberValue != math.Trunc(n.NumberValue) || n.NumberValue < 0 || n.NumberValue > math.MaxUint32 {
		d.mistyped(at, v, "a whole number from 0 up to 4294967295")
		return empty, false
	}
	return protoreflect.ValueOfUint32(uint32(n.NumberValue)), true
}

func (d *decoder) nested(at *place, v *structpb.Value, empty protoreflect.Value) (protoreflect.Value, bool) {
	switch into := empty.Message().Interface().(type) {
	case *durationpb.Duration:
		return empty, d.duration(at, v, into)
	case *timestamppb.Timestamp:
		return empty, d.timestamp(at, v, into)
	}
	fields, ok := v.GetKind().(*structpb.Value_StructValue)
	if !ok {
		d.mistyped(at, v, "a mapping")
		return empty, false
	}
	if verbatim, ok := empty.Message().Interface().(*structpb.Struct); ok {
		verbatim.Fields = fields.StructValue.GetFields()
		return empty, true
	}
	d.message(at, fields.StructValue, empty.Message())
	return empty, true
}

// duration takes what people write, as in 24h or 1m30s, which includes the
// seconds of the JSON form.
func (d *decoder) duration(at *place, v *structpb.Value, into *durationpb.Duration) bool {
	const form = `a duration, such as "30s", "1m30s" or "24h"`
	text, ok := v.GetKind().(*structpb.Value_StringValue)
	if !ok {
		d.mistyped(at, v, form)
		return false
	}
	length, err := time.ParseDuration(text.StringValue)
	if err != nil {
		d.refuse(at, ReasonInvalidValue, "%s is not %s", quote(text.StringValue), form)
		return false
	}
	proto.Merge(into, durationpb.New(length))
	return true
}

// timestamp takes a moment as RFC 3339 writes it, whatever its zone.
func (d *decoder) timestamp(at *place, v *structpb.Value, into *timestamppb.Timestamp) bool {
	const form = `a time, such as "2026-11-26T08:30:00Z"`
	text, ok := v.GetKind().(*structpb.Value_StringValue)
	if !ok {
		d.mistyped(at, v, form)
		return false
	}
	moment, err := time.Parse(time.RFC3339, text.StringValue)
	if err != nil || timestamppb.New(moment).CheckValid() != nil {
		d.refuse(at, ReasonInvalidValue, "%s is not %s", quote(text.StringValue), form)
		return false
	}
	proto.Merge(into, timestamppb.New(moment))
	return true
}

func (d *decoder) enum(at *place, v *structpb.Value, e protoreflect.EnumDescriptor, empty protoreflect.Value) (protoreflect.Value, bool) {
	text, ok := v.GetKind().(*structpb.Value_StringValue)
	if !ok {
		d.mistyped(at, v, "one of "+words(enumWords(e)))
		return empty, false
	}
	for i := range e.Values().Len() {
		value := e.Values().Get(i)
		if value.Number() != 0 && (text.StringValue == string(value.Name()) || text.StringValue == enumWord(value)) {
			return protoreflect.ValueOfEnum(value.Number()), true
		}
	}
	d.refuse(at, ReasonUnknownValue, "%s is none of %s", quote(text.StringValue), words(enumWords(e)))
	return empty, false
}

// enumWord is the name of a value without the prefix that all values of its
// enum share: ALLOW for EFFECT_ALLOW.
func enumWord(v protoreflect.EnumValueDescriptor) string {
	zero := v.Parent().(protoreflect.EnumDescriptor).Values().ByNumber(0) //nolint:forcetypeassert // what values are declared in
	return strings.TrimPrefix(string(v.Name()), strings.TrimSuffix(string(zero.Name()), "UNSPECIFIED"))
}

// enumWords are the words that a field of the enum takes.
func enumWords(e protoreflect.EnumDescriptor) []string {
	var all []string
	for i := range e.Values().Len() {
		if v := e.Values().Get(i); v.Number() != 0 {
			all = append(all, enumWord(v))
		}
	}
	return all
}

func (d *decoder) mistyped(at *place, v *structpb.Value, want string) {
	var is string
	switch v.GetKind().(type) {
	case *structpb.Value_NumberValue:
		is = "a number"
	case *structpb.Value_StringValue:
		is = "text"
	case *structpb.Value_BoolValue:
		is = "true or false"
	case *structpb.Value_StructValue:
		is = "a mapping"
	case *structpb.Value_ListValue:
		is = "a list"
	default:
		d.follow(at.String(), ReasonWrongType, "is empty: give "+want+", or leave the field out")
		return
	}
	d.refuse(at, ReasonWrongType, "is %s: give %s", is, want)
}

// words lists alternatives for people.
func words[T ~string](all []T) string {
	text := make([]string, len(all))
	for i, w := range all {
		text[i] = string(w)
	}
	return strings.Join(text, ", ")
}
