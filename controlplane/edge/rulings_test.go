package edge_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/controlplane/edge"
	"github.com/sallyport/sallyport/storage"
)

func show(rulings []storage.Ruling) (text string, last int64) {
	var all []string
	for _, r := range rulings {
		all, last = append(all, fmt.Sprintf("%s:%s:%v", r.Subject, r.Approval, r.Quarantined)), r.Sequence
	}
	return strings.Join(all, " "), last
}

// Who follows the numbers hears of all that changes, and of what is taken back.
func TestRulingsAreNumbered(t *testing.T) {
	t.Parallel()
	r, seen := edge.NewRulings(), int64(0)
	for _, step := range []struct {
		barred, approved string
		changed          bool
		since, all       string
	}{
		{"", "", false, "", ""},
		{"a b", "", true, "a::true b::true", "a::true b::true"},
		{"a b", "", false, "", "a::true b::true"},
		{"b", "c", true, "a::false c:approved:false", "b::true c:approved:false"},
		{"b c", "c", true, "c::true", "b::true c::true"},
		{"", "c", true, "b::false c:approved:false", "c:approved:false"},
	} {
		if changed := r.Revise(strings.Fields(step.barred), strings.Fields(step.approved)); changed != step.changed {
			t.Errorf("%+v: changed is %v", step, changed)
		}
		since, last := show(r.After(seen))
		if seen = max(seen, last); since != step.since && !(seen == 0 && since == "") {
			t.Errorf("%+v: since then there is %q", step, since)
		}
		if all, _ := show(r.After(0)); all != step.all {
			t.Errorf("%+v: there is %q", step, all)
		}
	}
}
