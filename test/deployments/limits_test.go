package deployments_test

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/quota"
	"github.com/sallyport/sallyport/internal/request"
)

// The examples of limits do what the text says they do, as those of policies.
func TestLimitsOfTheText(t *testing.T) {
	b := book{t: t}
	asked, refused := 0, 0
	for i, section := range strings.Split(read(t, "docs/limits.md"), "\n## ") {
		if i > 0 {
			b.section()
		}
		blocks := strings.Split(section, "\n```")
		for i := 1; i < len(blocks); i += 2 {
			kind, text, _ := strings.Cut(blocks[i], "\n")
			switch kind {
			case "yaml":
				b.settle(0)
				b.pending = "---\n" + text + "\n"
			case "refused":
				b.block(kind, 0, strings.Split(text, "\n"))
				refused++
			case "requests":
				b.settle(0)
				asked += askLimits(t, b.table, strings.Split(text, "\n"))
			case "text":
			default:
				t.Errorf("nobody runs a block of %q", kind)
			}
		}
	}
	if asked < 15 || refused < 2 {
		t.Errorf("%d requests and %d refusals: too few examples were found", asked, refused)
	}
}

// askLimits asks "TIME WHO METHOD PATH ip=ADDRESS => ANSWER" of a proxy that has just
// started.
func askLimits(t *testing.T, table *compile.Table, lines []string) int {
	t.Helper()
	used := map[string]time.Duration{}
	for _, line := range lines {
		question, want, _ := strings.Cut(line, " => ")
		f := strings.Fields(question)
		at, err := time.ParseDuration(f[0])
		if err != nil {
			t.Fatal(err)
		}
		in := &policy.Input{
			Principal: principal(f[1]), Method: f[2], Path: f[3],
			ClientIP: netip.MustParseAddr(strings.TrimPrefix(f[4], "ip=")), Now: today.Add(at),
		}
		route, _ := table.Match(&request.Canonical{Method: in.Method, Host: "shop.example", Path: in.Path})
		if got := limitsOf(route, in, used, at); got != want {
			t.Errorf("%s: got %s, want %s", question, got, want)
		}
	}
	return len(lines)
}

// limitsOf counts as a proxy does, without its bounds.
func limitsOf(route *compile.Route, in *policy.Input, used map[string]time.Duration, at time.Duration) string {
	taken := map[string]time.Duration{}
	for _, authenticated := range []bool{false, true} {
		for _, l := range route.Limits {
			holds, known := l.When.Holds(in)
			if l.Authenticated != authenticated || known && !holds {
				continue
			}
			cost := int64(1)
			if l.Cost != nil {
				cost, _ = l.Cost.Value(in)
			}
			key := l.Key.String() + string(l.Parts.Append(nil, in))
			var o quota.Outcome
			if taken[key], o = l.Rate.Take(used[key], at, cost); !o.Allowed {
				return fmt.Sprintf("429 %.0f %s", math.Ceil(o.Retry.Seconds()), l.Key.Name)
			}
		}
		maps.Copy(used, taken)
	}
	return "200"
}
