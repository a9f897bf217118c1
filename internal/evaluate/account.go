package evaluate

import (
	"strings"

	"github.com/sallyport/sallyport/internal/policy"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

// maxDetail bounds, in bytes, what a step says in words.
const maxDetail = 1024

// Steps returns the steps of an explanation as records hold them, each with so
// many of its ways.
func Steps(from []policy.Step, ways int) []*decisionv1.Step {
	if len(from) == 0 {
		return nil
	}
	to := make([]*decisionv1.Step, 0, len(from))
	for _, s := range from {
		step := &decisionv1.Step{
			Policy: s.Policy, Effect: s.Effect.String(), Matched: s.Matched, Miss: string(s.Miss), Detail: strings.ToValidUTF8(s.Detail[:min(len(s.Detail), maxDetail)], "\ufffd"), Shadow: s.Shadow,
		}
		for _, w := range s.Ways[:min(len(s.Ways), ways)] {
			way := &decisionv1.Way{}
			for _, c := range w {
				way.Clauses = append(way.Clauses, clause(c))
			}
			step.Ways = append(step.Ways, way)
		}
		to = append(to, step)
	}
	return to
}

// Changes returns the changes of an explanation as records hold them.
func Changes(from []policy.Change) []*decisionv1.Change {
	var to []*decisionv1.Change
	for _, c := range from {
		change := &decisionv1.Change{}
		for _, f := range c {
			change.Flips = append(change.Flips, &decisionv1.Flip{Policy: f.Policy, Clause: clause(f.Clause)})
		}
		to = append(to, change)
	}
	return to
}

// Shadow returns what policies in shadow say as records hold it; nil for nothing.
func Shadow(s policy.Shadow) *decisionv1.Shadow {
	if s.Policy == "" {
		return nil
	}
	return &decisionv1.Shadow{Policy: s.Policy, Allow: s.Allow, Reason: string(s.Reason)}
}

func clause(c policy.Clause) *decisionv1.Clause {
	return &decisionv1.Clause{
		Part: string(c.Part), Text: c.Text, Line: int32(c.Line), Column: int32(c.Column), //nolint:gosec // of a policy
		Condition: c.Condition, Value: c.Value.String(), Want: c.Want.String(),
	}
}
