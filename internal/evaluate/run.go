package evaluate

import (
	"fmt"
	"time"

	"github.com/sallyport/sallyport/internal/compile"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// ByEnvironment returns the indexes of tests by where they run: those that name no
// environment in the given one.
func ByEnvironment(tests []Test, environment string) map[string][]int {
	found := make(map[string][]int)
	for i := range tests {
		at := or(tests[i].Environment, environment)
		found[at] = append(found[at], i)
	}
	return found
}

// Run asks what is given, now unless the test says when, and compares the answer
// with what is expected.
func (t *Test) Run(table *compile.Table, now time.Time) *adminv1.TestResult {
	res := &adminv1.TestResult{File: t.File, Line: int32(t.Line), Name: t.Name} //nolint:gosec // of a file
	m, err := t.given.question()
	var q Question
	if err == nil {
		q, err = Describe(m, now)
	}
	if err != nil {
		res.Failures = []string{err.Error()}
		return res
	}
	res.Answer = Ask(table, &q)
	res.Failures = t.expect.compare(res.Answer)
	res.Ok = len(res.Failures) == 0
	return res
}

func (e *expect) compare(a *adminv1.Answer) (failures []string) {
	decision := "deny"
	if a.GetAllow() {
		decision = "allow"
	}
	for _, one := range [...]struct{ what, want, got string }{
		{"decision", e.Decision, decision}, {"policy", e.Policy, a.GetPolicy()}, {"reason", e.Reason, a.GetReason()},
	} {
		if one.want != "" && one.want != one.got {
			failures = append(failures, fmt.Sprintf("%s is %s, expected %s", one.what, or(one.got, "none"), one.want))
		}
	}
	return failures
}
