package resource

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// Present returns the resource of a document in the shape of the files that
// operators keep; applying it makes the same document again. A document that
// this build does not know every field and value of is an error.
func Present(document []byte) (*adminv1.Resource, error) {
	p, _, err := parseKnown(document)
	if err != nil {
		return nil, err
	}
	spec, err := presentMessage(p.Spec.ProtoReflect())
	if err != nil {
		return nil, fmt.Errorf("present %s: %w", p.Key, err)
	}
	return &adminv1.Resource{
		ApiVersion: APIVersion,
		Kind:       string(p.Key.Kind),
		Metadata:   &adminv1.Metadata{Namespace: p.Key.Namespace, Name: p.Key.Name, Labels: p.Labels},
		Spec:       spec,
	}, nil
}

func presentMessage(m protoreflect.Message) (*structpb.Struct, error) {
	s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	var err error
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		s.Fields[f.JSONName()], err = presentField(f, v)
		return err == nil
	})
	return s, err
}

func presentField(f protoreflect.FieldDescriptor, v protoreflect.Value) (*structpb.Value, error) {
	var err error
	switch {
	case f.IsMap():
		entries := map[string]*structpb.Value{}
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			entries[k.String()], err = presentValue(f.MapValue(), v)
			return err == nil
		})
		return structpb.NewStructValue(&structpb.Struct{Fields: entries}), err
	case f.IsList():
		elements := make([]*structpb.Value, v.List().Len())
		for i := range elements {
			if elements[i], err = presentValue(f, v.List().Get(i)); err != nil {
				return nil, err
			}
		}
		return structpb.NewListValue(&structpb.ListValue{Values: elements}), nil
	}
	return presentValue(f, v)
}

func presentValue(f protoreflect.FieldDescriptor, v protoreflect.Value) (*structpb.Value, error) {
	switch f.Kind() {
	case protoreflect.StringKind:
		return structpb.NewStringValue(v.String()), nil
	case protoreflect.BoolKind:
		return structpb.NewBoolValue(v.Bool()), nil
	case protoreflect.Uint32Kind:
		return structpb.NewNumberValue(float64(v.Uint())), nil
	case protoreflect.EnumKind:
		return structpb.NewStringValue(enumWord(f.Enum().Values().ByNumber(v.Enum()))), nil
	case protoreflect.MessageKind:
		switch m := v.Message().Interface().(type) {
		case *durationpb.Duration, *timestamppb.Timestamp:
			return presentText(m)
		}
		s, err := presentMessage(v.Message())
		return structpb.NewStructValue(s), err
	default:
		// A test sees to it that the schema has no field of another kind.
		return nil, fmt.Errorf("%s is of a type that this build cannot write", f.FullName())
	}
}

// presentText presents a message whose JSON form is text.
func presentText(m proto.Message) (*structpb.Value, error) {
	text, err := protojson.Marshal(m)
	if err != nil {
		return nil, err
	}
	var v structpb.Value
	if err := protojson.Unmarshal(text, &v); err != nil {
		return nil, err
	}
	return &v, nil
}
