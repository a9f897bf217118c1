package resource

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

const (
	// MaxFieldChanges bounds the changes that Diff returns.
	MaxFieldChanges = 200
	// maxShownValue bounds each value of a change, in bytes.
	maxShownValue = 4 << 10
)

// Diff returns in what two documents of one resource differ, in the order of its
// fields, and how many changes there are more than MaxFieldChanges. A nil
// document is none: then every label and field of the other is a change. A
// document that this build does not know every field and value of is an error.
func Diff(before, after []byte) (changes []*adminv1.FieldChange, more int, err error) {
	old, err := side(before)
	if err != nil {
		return nil, 0, err
	}
	now, err := side(after)
	if err != nil {
		return nil, 0, err
	}
	d := &differ{}
	d.labels(old.Labels, now.Labels)
	switch {
	case old.Spec == nil && now.Spec == nil:
	case old.Spec == nil:
		d.message(atSpec(), now.Spec.ProtoReflect().Type().Zero(), now.Spec.ProtoReflect())
	case now.Spec == nil:
		d.message(atSpec(), old.Spec.ProtoReflect(), old.Spec.ProtoReflect().Type().Zero())
	case old.Key.Kind != now.Key.Kind:
		return nil, 0, fmt.Errorf("compare %s with %s", old.Key, now.Key)
	default:
		d.message(atSpec(), old.Spec.ProtoReflect(), now.Spec.ProtoReflect())
	}
	return d.changes, d.more, d.err
}

func side(document []byte) (Parsed, error) {
	if document == nil {
		return Parsed{}, nil
	}
	p, _, err := parseKnown(document)
	return p, err
}

// differ gathers changes. Its methods compare values of one type; an invalid
// value is none.
type differ struct {
	changes []*adminv1.FieldChange
	more    int
	err     error
}

func (d *differ) labels(before, after map[string]string) {
	keys := maps.Clone(before)
	if keys == nil {
		keys = map[string]string{}
	}
	maps.Copy(keys, after)
	value := func(labels map[string]string, key string) *structpb.Value {
		if v, ok := labels[key]; ok {
			return structpb.NewStringValue(v)
		}
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		was, is := value(before, key), value(after, key)
		if !proto.Equal(was, is) {
			d.add(atMetadata().to("labels").entry(key), was, is)
		}
	}
}

func (d *differ) message(at *place, before, after protoreflect.Message) {
	fields := before.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if before.Has(f) || after.Has(f) {
			d.field(at.to(f.JSONName()), f, given(before, f), given(after, f))
		}
	}
}

// given returns the value of a field; an invalid one when it is not given.
func given(m protoreflect.Message, f protoreflect.FieldDescriptor) protoreflect.Value {
	if !m.Has(f) {
		return protoreflect.Value{}
	}
	return m.Get(f)
}

func (d *differ) field(at *place, f protoreflect.FieldDescriptor, before, after protoreflect.Value) {
	switch {
	case !before.IsValid() || !after.IsValid():
		d.value(at, before, after, func(v protoreflect.Value) (*structpb.Value, error) { return presentField(f, v) })
	case before.Equal(after):
	case f.IsMap():
		d.entries(at, f.MapValue(), before.Map(), after.Map())
	case f.IsList() && f.Message() == nil:
		d.members(at, f, before.List(), after.List())
	case f.IsList():
		d.elements(at, f, before.List(), after.List())
	default:
		d.element(at, f, before, after)
	}
}

// element compares two values that are neither lists nor maps.
func (d *differ) element(at *place, f protoreflect.FieldDescriptor, before, after protoreflect.Value) {
	if before.IsValid() && after.IsValid() {
		if before.Equal(after) {
			return
		}
		if f.Message() != nil && !isText(before.Message()) {
			d.message(at, before.Message(), after.Message())
			return
		}
	}
	d.value(at, before, after, func(v protoreflect.Value) (*structpb.Value, error) { return presentValue(f, v) })
}

// isText reports whether the JSON form of a message is a text.
func isText(m protoreflect.Message) bool {
	switch m.Interface().(type) {
	case *durationpb.Duration, *timestamppb.Timestamp:
		return true
	}
	return false
}

func (d *differ) entries(at *place, f protoreflect.FieldDescriptor, before, after protoreflect.Map) {
	keys := map[string]protoreflect.MapKey{}
	for _, m := range [...]protoreflect.Map{before, after} {
		m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool { keys[k.String()] = k; return true })
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		d.element(at.entry(key), f, before.Get(keys[key]), after.Get(keys[key]))
	}
}

// members compares lists of plain values by what is in them; by place where
// nothing but the order differs, or something is in one twice.
func (d *differ) members(at *place, f protoreflect.FieldDescriptor, before, after protoreflect.List) {
	was, is := places(before), places(after)
	if len(was) < before.Len() || len(is) < after.Len() {
		d.elements(at, f, before, after)
		return
	}
	told := len(d.changes) + d.more
	for i := range before.Len() {
		if _, kept := is[before.Get(i).Interface()]; !kept {
			d.element(at.element(i), f, before.Get(i), protoreflect.Value{})
		}
	}
	for i := range after.Len() {
		if _, old := was[after.Get(i).Interface()]; !old {
			d.element(at.element(i), f, protoreflect.Value{}, after.Get(i))
		}
	}
	if len(d.changes)+d.more == told {
		d.elements(at, f, before, after)
	}
}

// places returns where each value of a list is.
func places(l protoreflect.List) map[any]int {
	at := make(map[any]int, l.Len())
	for i := range l.Len() {
		at[l.Get(i).Interface()] = i
	}
	return at
}

// elements compares lists place by place, without what they begin and end with
// alike, so that one that was put in between does not move all the others.
func (d *differ) elements(at *place, f protoreflect.FieldDescriptor, before, after protoreflect.List) {
	first, shorter := 0, min(before.Len(), after.Len())
	for first < shorter && before.Get(first).Equal(after.Get(first)) {
		first++
	}
	lastBefore, lastAfter := before.Len(), after.Len()
	for lastBefore > first && lastAfter > first && before.Get(lastBefore-1).Equal(after.Get(lastAfter-1)) {
		lastBefore, lastAfter = lastBefore-1, lastAfter-1
	}
	for i := first; i < max(lastBefore, lastAfter); i++ {
		var was, is protoreflect.Value
		if i < lastBefore {
			was = before.Get(i)
		}
		if i < lastAfter {
			is = after.Get(i)
		}
		d.element(at.element(i), f, was, is)
	}
}

// value adds a change of a value, each side presented when there is one.
func (d *differ) value(at *place, before, after protoreflect.Value, present func(protoreflect.Value) (*structpb.Value, error)) {
	if len(d.changes) == MaxFieldChanges { // and is not presented for nothing
		d.more++
		return
	}
	var sides [2]*structpb.Value
	for i, v := range [...]protoreflect.Value{before, after} {
		if !v.IsValid() {
			continue
		}
		shown, err := present(v)
		if err != nil {
			d.err = fmt.Errorf("compare %s: %w", at, err)
			return
		}
		sides[i] = shown
	}
	d.add(at, sides[0], sides[1])
}

func (d *differ) add(at *place, before, after *structpb.Value) {
	if len(d.changes) == MaxFieldChanges {
		d.more++
		return
	}
	c := &adminv1.FieldChange{Field: at.String()}
	var cutBefore, cutAfter bool
	c.Before, cutBefore = beginning(before)
	c.After, cutAfter = beginning(after)
	c.Shortened = cutBefore || cutAfter
	d.changes = append(d.changes, c)
}

// beginning returns a value, or as much of it as is shown, and whether that is
// less.
func beginning(v *structpb.Value) (*structpb.Value, bool) {
	if v == nil || proto.Size(v) <= maxShownValue {
		return v, false
	}
	left := maxShownValue
	return cut(v, &left), true
}

// cut takes as much of a value as there is left for; nil for nothing.
func cut(v *structpb.Value, left *int) *structpb.Value {
	const overhead = 8 // what a value takes beside its text, about
	if *left -= overhead; *left <= 0 {
		return nil
	}
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		text := strings.ToValidUTF8(k.StringValue[:min(len(k.StringValue), *left)], "")
		*left -= len(text)
		return structpb.NewStringValue(text)
	case *structpb.Value_ListValue:
		kept := &structpb.ListValue{}
		for _, e := range k.ListValue.GetValues() {
			part := cut(e, left)
			if part == nil {
				break
			}
			kept.Values = append(kept.Values, part)
		}
		return structpb.NewListValue(kept)
	case *structpb.Value_StructValue:
		kept := &structpb.Struct{Fields: map[string]*structpb.Value{}}
		for _, name := range slices.Sorted(maps.Keys(k.StructValue.GetFields())) {
			*left -= len(name)
			part := cut(k.StructValue.GetFields()[name], left)
			if part == nil {
				break
			}
			kept.Fields[name] = part
		}
		return structpb.NewStructValue(kept)
	}
	return v
}
