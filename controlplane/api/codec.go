package api

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"

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
	if len(bytes.TrimSpace(b)) == 0 {
		return errors.New("the request is empty: send a JSON object, {} at least")
	}
	if err := protojson.Unmarshal(b, m); err != nil {
		// Its text begins with "proto:" and a white space that varies.
		text := strings.ReplaceAll(err.Error(), "\u00a0", " ")
		return errors.New(strings.TrimPrefix(text, "proto: "))
	}
	return nil
}

// boundedGzip takes and sends gzip, and stops reading what becomes larger than
// limit: connect would go on to see how large.
func boundedGzip(limit int) connect.HandlerOption {
	return connect.WithCompression("gzip",
		func() connect.Decompressor { return &decompressor{limit: limit} },
		func() connect.Compressor { return gzip.NewWriter(io.Discard) })
}

type decompressor struct {
	gzip.Reader
	limit, left int
}

// Reset implements connect.Decompressor.
func (d *decompressor) Reset(r io.Reader) error {
	d.left = d.limit + 1 // so that connect sees one byte too many
	return d.Reader.Reset(r)
}

func (d *decompressor) Read(p []byte) (int, error) {
	if d.left == 0 {
		return 0, fmt.Errorf("the request has more than %d bytes", d.limit)
	}
	n, err := d.Reader.Read(p[:min(len(p), d.left)])
	d.left -= n
	return n, err
}
