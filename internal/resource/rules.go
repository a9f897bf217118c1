package resource

import (
	"errors"
	"strings"
	"sync"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// validator checks the rules that are written in resource.proto. It is a
// constant in all but syntax: safe for concurrent use, read-only once made.
var validator = sync.OnceValues(func() (protovalidate.Validator, error) {
	var specs []proto.Message
	for _, k := range Kinds() {
		specs = append(specs, k.newSpec())
	}
	return protovalidate.New(protovalidate.WithMessages(specs...), protovalidate.WithDisableLazy())
})

// rules adds what of spec breaks the rules of its schema, save what follows
// from problems that are known already.
func (d *decoder) rules(spec proto.Message) {
	v, err := validator()
	if err == nil {
		err = v.Validate(spec)
	}
	var invalid *protovalidate.ValidationError
	if err == nil {
		return
	}
	if !errors.As(err, &invalid) {
		// The schema's own rules do not work: nothing passes.
		d.refuse(atSpec(), ReasonInvalidValue, "cannot be checked: %v", err)
		return
	}
	for _, violation := range invalid.Violations {
		d.violation(spec.ProtoReflect().Descriptor(), violation)
	}
}

func (d *decoder) violation(m protoreflect.MessageDescriptor, v *protovalidate.Violation) {
	at, whole := atSpec(), true
	for _, e := range v.Proto.GetField().GetElements() {
		f := m.Fields().ByName(protoreflect.Name(e.GetFieldName()))
		if f == nil {
			d.missing(at, m, protoreflect.Name(e.GetFieldName()))
			return
		}
		at = at.to(f.JSONName())
		switch {
		case e.HasIndex():
			at = at.element(int(e.GetIndex())) //nolint:gosec // the index of a list in memory
		case e.HasStringKey():
			at = at.entry(e.GetStringKey())
		}
		if whole = f.Message() != nil; whole {
			m = f.Message()
		}
	}
	// A rule of a whole message that is called after a field is about it.
	if _, field, _ := strings.Cut(v.Proto.GetRuleId(), "."); whole {
		if f := m.Fields().ByName(protoreflect.Name(field)); f != nil {
			at = at.to(f.JSONName())
		}
	}
	reason := ReasonInvalidValue
	if v.Proto.GetRuleId() == "required" {
		reason = ReasonRequired
	}
	d.follow(at.String(), reason, v.Proto.GetMessage())
}

// missing says that none of the fields of a oneof is given.
func (d *decoder) missing(at *place, m protoreflect.MessageDescriptor, oneof protoreflect.Name) {
	var names []string
	if o := m.Oneofs().ByName(oneof); o != nil {
		for i := range o.Fields().Len() {
			names = append(names, o.Fields().Get(i).JSONName())
		}
	}
	d.follow(at.String(), ReasonRequired, "give one of "+words(names))
}
