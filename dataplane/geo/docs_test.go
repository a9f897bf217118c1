package geo_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/geo/geotest"
	"github.com/sallyport/sallyport/internal/policy"
)

// The examples of docs/signals.md are true.
func TestDocumentedExamples(t *testing.T) {
	text, err := os.ReadFile("../../docs/signals.md")
	if err != nil {
		t.Fatal(err)
	}
	s := documented(t, text)
	rows := regexp.MustCompile("(?m)^\\| (unknown|[0-9a-f:.]+) \\| `([^`|]+)` \\| ([a-z ]+) \\| ([a-z ]+) \\|$").FindAllStringSubmatch(string(text), -1)
	for _, row := range rows {
		in := func() *policy.Input {
			in := &policy.Input{Route: policy.RouteID{Namespace: "shop", Name: "orders"}, Geo: s, Now: s.now}
			in.ClientIP, _ = netip.ParseAddr(row[1])
			return in
		}
		permits := decides(t, policy.Allow, row[2])
		said := map[policy.Reason]string{
			policy.ReasonAllowed: "matches", policy.ReasonNoMatch: "does not match", policy.ReasonEvaluationError: "has no value",
		}
		if d := bound(permits).Decide(in()); said[d.Reason] != row[3] {
			t.Errorf("%s\nas an ALLOW: %+v", row[0], d)
		}
		all := decides(t, policy.Allow, "true")
		said = map[policy.Reason]string{
			policy.ReasonAllowed: "lets pass", policy.ReasonDenied: "denies", policy.ReasonEvaluationError: "denies",
		}
		if d := bound(all, decides(t, policy.Deny, row[2])).Decide(in()); said[d.Reason] != row[4] {
			t.Errorf("%s\nas a DENY: %+v", row[0], d)
		}
	}
	if len(rows) < 15 {
		t.Errorf("%d examples were found", len(rows))
	}
}

// documented has the databases that the text shows.
func documented(t *testing.T, text []byte) *shelf {
	t.Helper()
	s := newShelf(t, "GeoLite2-City", "GeoLite2-ASN", "GeoIP2-Anonymous-IP")
	all := map[string]geotest.Database{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| `([^`]+)` \\| `({[^`]+})` \\|$").FindAllStringSubmatch(string(text), -1) {
		var record map[string]any
		if err := json.Unmarshal([]byte(row[3]), &record); err != nil {
			t.Fatalf("%s: %v", row[0], err)
		}
		d, found := all[row[1]]
		if !found {
			d = geotest.Database{Type: row[1], Built: s.now.Add(-48 * time.Hour), Networks: map[string]map[string]any{}}
		}
		d.Networks[row[2]] = record
		all[row[1]] = d
	}
	for name, d := range all {
		s.put(name, d)
	}
	if len(all) != 3 {
		t.Errorf("%d databases were found", len(all))
	}
	return s
}

func decides(t *testing.T, effect policy.Effect, when string) *policy.Policy {
	t.Helper()
	p, err := policy.Compile(policy.Spec{
		Namespace: "shop", Name: effect.String(), Effect: effect, When: when, Principals: []policy.PrincipalMatcher{{Authenticated: true}, {Anonymous: true}},
	})
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	return p
}

func bound(pp ...*policy.Policy) *policy.Set {
	return policy.NewSet([]policy.Binding{{Route: policy.RouteID{Namespace: "shop", Name: "orders"}, Policies: pp}})
}
