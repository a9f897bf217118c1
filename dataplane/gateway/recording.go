package gateway

import (
	"slices"

	"github.com/sallyport/sallyport/dataplane/record"
	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/policy"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// allowRate is how many allowed requests of a route are recorded at the control plane
// in a second, where neither route nor environment say.
const allowRate = 10

// recording returns which allowed requests of a route, nil for those of none, are
// recorded at the control plane.
func recording(table *compile.Table, r *compile.Route) *record.Rule {
	rule := &record.Rule{Rate: allowRate}
	if e := table.Records(); e != nil && e.AllowRate != nil {
		rule.Rate = int64(e.GetAllowRate())
	}
	if r == nil || r.Record == nil {
		return rule
	}
	if r.Record.AllowRate != nil {
		rule.Rate = int64(r.Record.GetAllowRate())
	}
	switch r.Record.GetMode() {
	case resourcev1.RecordRule_MODE_ALL:
		rule.Mode = record.All
	case resourcev1.RecordRule_MODE_REQUIRED:
		rule.Mode = record.Required
	case resourcev1.RecordRule_MODE_SAMPLED, resourcev1.RecordRule_MODE_UNSPECIFIED:
	}
	return rule
}

// maxValues bounds the fields of a request whose values are recorded.
const maxValues = 16

// fieldsOf returns what conditions of a route look at by name and may be recorded.
func fieldsOf(set *policy.Set, r *compile.Route) []policy.Field {
	all := slices.DeleteFunc(set.Fields(r.ID()), func(f policy.Field) bool { return record.IsSecret(f.Header + f.Param) })
	return all[:min(len(all), maxValues)]
}

// values are what a request has of fields.
func (v *verdict) values() (all []record.Value) {
	if v.way == nil || len(v.way.fields) == 0 {
		return nil
	}
	in := policy.Input{Query: v.request.RawQuery, Header: v.request.Header}
	for _, f := range v.way.fields {
		if value, there := in.Value(f); there {
			all = append(all, record.Value{Field: f.Name, Value: value})
		}
	}
	return all
}
