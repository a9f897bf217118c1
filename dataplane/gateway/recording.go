package gateway

import (
	"github.com/sallyport/sallyport/dataplane/record"
	"github.com/sallyport/sallyport/internal/compile"
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
