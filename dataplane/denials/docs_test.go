package denials_test

import (
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/sallyport/sallyport/dataplane/denials"
	"github.com/sallyport/sallyport/internal/policy"
)

// The examples of docs/signals.md are true.
func TestDocumentedExamples(t *testing.T) {
	text, err := os.ReadFile("../../docs/signals.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| (?:(\\d+) of )?`(ann|bob|nobody)` from ([0-9a-f:.]+|nowhere)(?:, (\\w+) ago)? \\| `([^`]+)` \\| ([a-z ]+) \\| ([a-z ]+) \\|$").FindAllStringSubmatch(string(text), -1)
	for _, row := range rows {
		who, where := somebody(row[2]), somewhere(row[3])
		counts, now := denials.New(start), start
		if row[1] != "" {
			n, err := strconv.Atoi(row[1])
			if err != nil {
				t.Fatal(err)
			}
			for range n {
				counts.Add(who, where, now)
			}
			who, where = user("ann"), ip("203.0.113.9")
		}
		if row[4] != "" {
			ago, err := time.ParseDuration(row[4])
			if err != nil {
				t.Fatal(err)
			}
			now = now.Add(ago)
		}
		in := func() *policy.Input {
			return &policy.Input{Route: policy.RouteID{Namespace: "shop", Name: "orders"}, Principal: who, ClientIP: where, Denials: counts, Now: now}
		}
		permits := decides(t, policy.Allow, row[5])
		said := map[policy.Reason]string{
			policy.ReasonAllowed: "matches", policy.ReasonNoMatch: "does not match", policy.ReasonEvaluationError: "has no value",
		}
		if d := bound(permits).Decide(in()); said[d.Reason] != row[6] {
			t.Errorf("%s\nas an ALLOW: %+v", row[0], d)
		}
		said = map[policy.Reason]string{
			policy.ReasonAllowed: "lets pass", policy.ReasonDenied: "denies", policy.ReasonEvaluationError: "denies",
		}
		if d := bound(decides(t, policy.Allow, "true"), decides(t, policy.Deny, row[5])).Decide(in()); said[d.Reason] != row[7] {
			t.Errorf("%s\nas a DENY: %+v", row[0], d)
		}
	}
	if len(rows) < 10 {
		t.Errorf("%d examples were found", len(rows))
	}
}

func somebody(name string) *policy.Principal {
	if name == "nobody" {
		return nil
	}
	return user(name)
}

func somewhere(text string) netip.Addr {
	if text == "nowhere" {
		return nowhere
	}
	return ip(text)
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
