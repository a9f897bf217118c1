package resource

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// Bounds of a document, in bytes. They are what proxies take.
const (
	MaxDocument = 256 << 10 // of every kind but Set and Schema
	MaxSchema   = 2 << 20   // of a Schema: the OpenAPI document of a large API
	MaxSet      = 8 << 20   // of a Set: 100,000 networks, or so many IDs of 80 bytes
)

// MaxDocument bounds the documents of the kind, in bytes. Kinds that this build
// does not know have the bound of the others.
func (k Kind) MaxDocument() int {
	switch k {
	case KindSet:
		return MaxSet
	case KindSchema:
		return MaxSchema
	}
	return MaxDocument
}

// Encode returns the document of a resource that Decode found no problems
// with: the bytes that are stored, signed and distributed. Equal resources make
// equal bytes, whatever p.Document is.
func Encode(p Parsed) ([]byte, error) {
	deterministic := proto.MarshalOptions{Deterministic: true}
	spec, err := deterministic.Marshal(p.Spec)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", p.Key, err)
	}
	reach, routes := p.reach()
	document, err := deterministic.Marshal(&resourcev1.Document{
		Kind:      string(p.Key.Kind),
		Namespace: p.Key.Namespace,
		Name:      p.Key.Name,
		Labels:    p.Labels,
		Reach:     reach,
		Routes:    routes,
		Spec:      spec,
	})
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", p.Key, err)
	}
	return document, nil
}

// size refuses what would make too large a document.
func (d *decoder) size(p Parsed) {
	document, err := Encode(p)
	switch {
	case err != nil:
		d.refuse(atSpec(), ReasonInvalidValue, "%v", err)
	case len(document) > p.Key.Kind.MaxDocument():
		d.refuse(atSpec(), ReasonTooLarge, "takes %d bytes: more than %d", len(document), p.Key.Kind.MaxDocument())
	}
}

// ParseDocument reads a document strictly, as proxies do: it understands all of
// it, or returns an error that says, in at most about a kilobyte, why not. It
// keeps document.
func ParseDocument(document []byte) (Parsed, error) {
	p, doc, err := parseKnown(document)
	if err != nil {
		return Parsed{}, err
	}
	d := decoder{}
	d.key(p.Key)
	d.labels(atMetadata().to("labels"), p.Labels)
	d.rules(p.Spec)
	d.sense(p.Spec)
	if d.problems.Total > 0 {
		return Parsed{}, fmt.Errorf("parse %s: %w", shown(p.Key), d.problems.err())
	}
	if _, routes := p.reach(); !proto.Equal(routes, doc.GetRoutes()) {
		return Parsed{}, fmt.Errorf("parse %s: %w", p.Key, errors.New("envelope and spec select different routes"))
	}
	return p, nil
}

// err returns the first problem as an error.
func (p *Problems) err() error {
	first := p.Kept[0].Field + ": " + p.Kept[0].Message
	if p.Total > 1 {
		return fmt.Errorf("%s (and %d more)", first, p.Total-1)
	}
	return errors.New(first)
}

// parseKnown reads a document of which this build knows every field and value.
func parseKnown(document []byte) (Parsed, *resourcev1.Document, error) {
	e, err := ParseEnvelope(document)
	if err != nil {
		return Parsed{}, nil, err
	}
	refuse := func(err error) (Parsed, *resourcev1.Document, error) {
		return Parsed{}, nil, fmt.Errorf("parse %s: %w", shown(e.Key), err)
	}
	if err := known(nil, e.Document.ProtoReflect()); err != nil {
		return refuse(err)
	}
	spec := e.Key.Kind.newSpec()
	if spec == nil {
		return refuse(errors.New("kind is not known to this build"))
	}
	if err := proto.Unmarshal(e.Document.GetSpec(), spec); err != nil {
		return refuse(fmt.Errorf("spec: %w", err))
	}
	if err := known(atSpec(), spec.ProtoReflect()); err != nil {
		return refuse(err)
	}
	return Parsed{Key: e.Key, Labels: e.Document.GetLabels(), Spec: spec, Document: document}, e.Document, nil
}

// known refuses a message that says more than this build understands: an
// unknown field or an unknown value of an enum, at any depth.
func known(at *place, m protoreflect.Message) error {
	if len(m.GetUnknown()) > 0 {
		return at.errorf("has a field that is not known to this build")
	}
	switch m := m.Interface().(type) {
	case *durationpb.Duration:
		return at.wrap(m.CheckValid())
	case *timestamppb.Timestamp:
		return at.wrap(m.CheckValid())
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Message() == nil && f.Enum() == nil || !m.Has(f) {
			continue
		}
		if err := knownField(at.to(f.JSONName()), f, m.Get(f)); err != nil {
			return err
		}
	}
	return nil
}

func knownField(at *place, f protoreflect.FieldDescriptor, v protoreflect.Value) error {
	switch {
	case f.IsMap():
		return nil // a test sees to it that the schema has maps of texts only
	case f.IsList():
		for i := range v.List().Len() {
			if err := knownValue(at.element(i), f, v.List().Get(i)); err != nil {
				return err
			}
		}
		return nil
	}
	return knownValue(at, f, v)
}

func knownValue(at *place, f protoreflect.FieldDescriptor, v protoreflect.Value) error {
	switch {
	case f.Message() != nil:
		return known(at, v.Message())
	case f.Enum() != nil && f.Enum().Values().ByNumber(v.Enum()) == nil:
		return at.errorf("has a value that is not known to this build (%d)", v.Enum())
	}
	return nil
}

func (p *place) errorf(format string, args ...any) error {
	return p.wrap(fmt.Errorf(format, args...))
}

func (p *place) wrap(err error) error {
	if err == nil || p == nil {
		return err
	}
	return fmt.Errorf("%s: %w", p, err)
}

// sorted yields a map in the order of its keys.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}
