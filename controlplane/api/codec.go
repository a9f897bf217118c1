package api

import (
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// strictCodecs replaces connect's codecs, which drop what they do not know: an
// operator who mistypes a field is told so.
func strictCodecs() connect.HandlerOption {
	return connect.WithHandlerOptions(connect.WithCodec(protoCodec{}), connect.WithCodec(jsonCodec{}))
}

var errNotProto = errors.New("not a protobuf message")

type protoCodec struct{}

func (protoCodec) Name() string { return "proto" }

func (protoCodec) Marshal(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, errNotProto
	}
	return proto.Marshal(m)
}

func (protoCodec) Unmarshal(b []byte, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return errNotProto
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return err
	}
	return refuseUnknown(m.ProtoReflect(), "")
}

// refuseUnknown returns an error that names the first message, at any depth,
// that holds a field this build does not know.
func refuseUnknown(m protoreflect.Message, path string) (err error) {
	if len(m.GetUnknown()) > 0 {
		if path == "" {
			path = "the request"
		}
		return fmt.Errorf("%s has a field that this control plane does not know", path)
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		at := path + "." + string(f.Name())
		if path == "" {
			at = string(f.Name())
		}
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				err = refuseUnknown(v.Message(), at)
				return err == nil
			})
		case f.IsList() && f.Message() != nil:
			for i := 0; i < v.List().Len() && err == nil; i++ {
				err = refuseUnknown(v.List().Get(i).Message(), fmt.Sprintf("%s[%d]", at, i))
			}
		case f.Message() != nil && !f.IsMap():
			err = refuseUnknown(v.Message(), at)
		}
		return err == nil
	})
	return err
}

type jsonCodec struct{}

func (jsonCodec) Name() string { return "json" }

func (jsonCodec) Marshal(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, errNotProto
	}
	return protojson.Marshal(m)
}

func (jsonCodec) Unmarshal(b []byte, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return errNotProto
	}
	if len(b) == 0 {
		return errors.New("the request is empty: send a JSON object")
	}
	return protojson.Unmarshal(b, m)
}
