package resource

import (
	"net/textproto"

	"github.com/sallyport/sallyport/internal/request"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// ConditionOf returns what a route wants of a header or parameter. One that wants
// nothing that this build knows is a condition of no kind.
func ConditionOf(where request.Place, m *resourcev1.FieldMatch) request.Condition {
	c := request.Condition{Place: where, Name: m.GetName()}
	if where == request.InHeader {
		c.Name = textproto.CanonicalMIMEHeaderKey(c.Name)
	}
	switch of := m.GetValue().(type) {
	case *resourcev1.FieldMatch_Exact:
		c.Kind, c.Value = request.Exact, of.Exact
	case *resourcev1.FieldMatch_Prefix:
		c.Kind, c.Value = request.Prefix, of.Prefix
	case *resourcev1.FieldMatch_Present:
		c.Kind = request.Absent
		if of.Present {
			c.Kind = request.Present
		}
	}
	return c
}

// conditions refuses what no request could meet, and what is named twice.
func (d *decoder) conditions(field string, where request.Place, matches []*resourcev1.FieldMatch) {
	seen := make(map[string]bool, len(matches))
	for i, m := range matches {
		c, at := ConditionOf(where, m), atSpec().to(field).element(i)
		if err := c.Check(); err != nil {
			d.follow(at.String(), ReasonInvalidValue, err.Error())
			continue
		}
		if seen[c.Name] {
			d.follow(at.to("name").String(), ReasonInvalidValue, quote(c.Name)+" is named twice")
		}
		seen[c.Name] = true
	}
}
